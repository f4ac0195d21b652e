"""Downloads published files. Interrupted downloads are resumed, and only verified files get their final name."""

import contextlib
import hashlib
import json
import shutil
import sys
import time
import urllib.parse
from pathlib import Path

import tqdm

from symm_jax import files
from symm_jax.data import transport
from symm_jax.data.sources import Remote
from symm_jax.errors import InputError

_BLOCK = 1 << 18  # bytes per read
_LONGEST_WAIT = 120.0  # seconds between two attempts, even if a server asks for more


def fetch(
    remote: Remote,
    folder: Path,
    *,
    attempts: int = 5,
    stall_seconds: float = 60.0,
    back_off_seconds: float = 2.0,
    argument: str = "mirrors",
) -> Path:
    """Returns the path of `remote` in `folder`, and downloads the file first if there is none with its name.

    An unfinished download is NAME.partial, and a later call resumes it. A file that fails verification is kept as
    NAME.wrong. A second process that downloads the same file waits for the first.

    Args:
      remote: the file. One that is in the folder already is not verified.
      folder: the folder for the file; it is created if needed.
      attempts: number of successive failures without a new byte after which the next URL is tried.
      stall_seconds: seconds without a byte after which an attempt has failed.
      back_off_seconds: seconds before the second attempt, doubled after each attempt without a new byte.
      argument: the argument that can give other URLs, for messages.

    Raises:
      InputError: no URL gives the published file, or the disk is full or cannot be written.
    """
    path = folder / remote.name
    try:
        if not path.exists():
            lock = folder / ".download.lock"
            with files.lock(lock):
                try:
                    if not path.exists():
                        _Download(remote, folder, attempts, stall_seconds, back_off_seconds).run(argument)
                finally:
                    lock.unlink(missing_ok=True)  # a process that waits for it notices, and makes a new one
    except OSError as error:  # of the disk: transport.py turns those of the network into its own
        raise InputError(
            f"{remote.name} cannot be written to {folder} ({error.strerror or error}). Make the folder writable and "
            "make room, or pass another folder. The next run resumes the download."
        ) from error
    return path


def verify(path: Path, remote: Remote) -> str:
    """Returns "" when the file at `path` has the published size and digests of `remote`, else the differences."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"{remote.name} has {size} bytes instead of the published {remote.size}"
    expected = {"sha256": remote.sha256, "git blob id": remote.git_blob}
    if not any(expected.values()):
        return ""
    digests = {"sha256": hashlib.sha256(), "git blob id": hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)}
    digests = {kind: digest for kind, digest in digests.items() if expected[kind]}
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            for digest in digests.values():
                digest.update(block)
    return "; ".join(
        f"the {kind} of {remote.name} is {digest.hexdigest()} instead of the published {expected[kind]}"
        for kind, digest in digests.items()
        if digest.hexdigest() != expected[kind]
    )


def human_size(count: int | float) -> str:
    """A number of bytes with its unit, such as "1.15 GB"."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


class _Download:
    """The download of one file to a folder."""

    def __init__(self, remote: Remote, folder: Path, attempts: int, stall_seconds: float, back_off_seconds: float):
        self.remote, self.folder = remote, folder
        self.attempts, self.stall_seconds, self.back_off_seconds = attempts, stall_seconds, back_off_seconds
        self.path, self.partial, self.description, self.wrong = (
            folder / f"{remote.name}{suffix}" for suffix in ("", ".partial", ".partial.json", ".wrong")
        )

    def run(self, argument: str) -> None:
        """Tries one URL after the other until the file is complete."""
        reasons, notes = [], ""
        urls = list(self.remote.urls)
        while urls:
            # Bytes from an earlier run or another URL may be wrong, so this URL gets a second chance without them.
            inherited = self._size() > 0
            try:
                self._persist(urls[0])
                problem = verify(self.partial, self.remote)
                self.partial.replace(self.wrong if problem else self.path)
                self.description.unlink(missing_ok=True)
                if not problem:
                    return
                notes = f"The last file that failed verification is kept as {self.wrong}.\n"
            except transport.PermanentError as error:
                problem, inherited = str(error), False
            if inherited:
                self._warn(urls[0], problem, "trying again from the start")
                continue
            url = urls.pop(0)
            reasons.append(f"  {url}: {problem}")
            if urls:
                self._warn(url, problem, f"trying {_host(urls[0])}")
        if self._size():
            notes += f"The unfinished download is kept as {self.partial}, and the next run resumes it.\n"
        raise InputError(
            f"{self.remote.name} could not be downloaded:\n"
            + ("\n".join(reasons) or "  no URL is known")
            + f"\n{notes}Download it yourself and save it as {self.path}, or pass another URL.",
            argument=argument,
        )

    def _persist(self, url: str) -> None:
        """Completes the partial file from one URL, or raises PermanentError."""
        failures = furthest = 0
        while True:
            try:
                return self._attempt(url, announce=not furthest)
            except transport.TransientError as error:
                # Only new bytes count as progress. Otherwise a server that always starts over would be asked forever.
                failures = 0 if self._size() > furthest else failures + 1
                furthest = max(furthest, self._size())
                if failures >= self.attempts:
                    raise transport.PermanentError(f"{error} ({failures} times in a row)") from error
                wait = self.back_off_seconds * 2 ** max(failures - 1, 0)
                if error.wait is not None and error.wait <= _LONGEST_WAIT:
                    wait = error.wait
                self._warn(url, str(error), f"trying again in {min(wait, _LONGEST_WAIT):g} s")
                time.sleep(min(wait, _LONGEST_WAIT))

    def _attempt(self, url: str, announce: bool) -> None:
        remote = self.remote
        with contextlib.ExitStack() as stack:
            stream = transport.open_url(url, self._partial_download(url), self.stall_seconds)
            stack.callback(stream.close)
            if stream.content_type == "text/html" and not remote.name.endswith((".html", ".htm")):
                raise transport.PermanentError("the server sent a web page instead of the file")
            if remote.size is not None and stream.total not in (None, remote.size):
                raise transport.PermanentError(f"the file there has {stream.total} bytes instead of {remote.size}")
            total = remote.size if stream.total is None else stream.total
            self._require_space(total)
            if announce:
                size = "" if total is None else f", {human_size(total)}"
                resuming = f", resuming at {human_size(stream.start)}" if stream.start else ""
                print(f"download  {remote.name} from {_host(url)}{size}{resuming}", flush=True)
            if not stream.start:
                self.partial.write_bytes(b"")  # emptied before its description changes
                self.description.write_text(json.dumps({"url": url, "validator": stream.validator, "total": total}))
            self._write(stream, total)

    def _write(self, stream: transport.Stream, total: int | None) -> None:
        received = stream.start
        bar = tqdm.tqdm(
            desc=self.remote.name,
            total=total,
            initial=received,
            unit="B",
            unit_scale=True,
            unit_divisor=1000,
            leave=False,
            dynamic_ncols=True,
        )
        with bar, open(self.partial, "ab") as file:
            while block := stream.read(_BLOCK):
                received += len(block)
                if total is not None and received > total:
                    self.partial.unlink()
                    raise transport.PermanentError(f"the server sent more than the {total} bytes of the file")
                file.write(block)
                bar.update(len(block))
        if total is not None and received < total:
            raise transport.TransientError(f"the connection ended after {human_size(received)} of {human_size(total)}")

    def _partial_download(self, url: str) -> transport.PartialDownload:
        """The bytes on disk that an attempt at `url` may continue."""
        try:
            description = json.loads(self.description.read_text())
            begun_url, validator, total = description["url"], description["validator"], description["total"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            begun_url, validator, total = None, "", None
        if url != begun_url:
            # Only a digest of the whole file can show whether the bytes of two servers belong together.
            if not (self.remote.sha256 or self.remote.git_blob):
                return transport.PartialDownload()
            validator = ""
        total = self.remote.size if total is None else total
        size = self._size()
        if not size or (total is None and not validator) or (total is not None and size > total):
            return transport.PartialDownload()
        return transport.PartialDownload(size, validator, total)

    def _size(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _require_space(self, total: int | None) -> None:
        needed, free = (total or 0) - self._size(), shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"{self.folder} needs {human_size(needed)} for {self.remote.name} and has {human_size(free)} free. "
                "Make room, or pass another folder."
            )

    def _warn(self, url: str, problem: str, next_step: str) -> None:
        print(f"download  {self.remote.name} from {_host(url)}: {problem}; {next_step}", file=sys.stderr, flush=True)


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname or ""
