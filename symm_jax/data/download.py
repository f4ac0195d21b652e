"""Downloads published files: resumed where they stopped, checked, and whole or not there under their name."""

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

_BLOCK = 1 << 18  # bytes read at a time
_LONGEST_WAIT = 120.0  # seconds between two attempts, also when a server asks for more


def fetch(
    remote: Remote,
    folder: Path,
    *,
    attempts: int = 5,
    stall_seconds: float = 60.0,
    back_off_seconds: float = 2.0,
    argument: str = "mirrors",
) -> Path:
    """Returns the path of `remote` in `folder`, downloading it first if no file of its name is there.

    Until it is whole and checked it is NAME.partial, which a later call goes on with; a file that fails the checks
    is kept as NAME.wrong. A second process that wants the same waits for the first.

    Args:
      remote: what to fetch; a file that is there already is returned as it is.
      folder: where to; it is made if need be.
      attempts: how often in a row an address may fail without a new byte before the next one is tried.
      stall_seconds: without a byte, after which an attempt has failed.
      back_off_seconds: before the second attempt; it doubles with each one that brings nothing.
      argument: the argument that can give other URLs, for messages.

    Raises:
      InputError: no address gives the file as it should be; the disk is full or cannot be written.
    """
    path = folder / remote.name
    try:
        if not path.exists():
            with files.lock(folder / ".download.lock"):
                if not path.exists():
                    _Download(remote, folder, attempts, stall_seconds, back_off_seconds).run(argument)
    except OSError as error:  # of the disk: those of the network are transport's
        raise InputError(
            f"{remote.name} cannot be written to {folder} ({error.strerror or error}); make it writable and "
            "make room there, or pass another folder; what has come so far is kept for the next run"
        ) from error
    return path


def verify(path: Path, remote: Remote) -> str:
    """Returns "" when the file at `path` is `remote` by all that is known of it, or else what differs."""
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


def human_size(count: float) -> str:
    """Bytes in words, such as "1.15 GB"."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


class _Download:
    """One file on its way to a folder."""

    def __init__(self, remote: Remote, folder: Path, attempts: int, stall_seconds: float, back_off_seconds: float):
        self.remote, self.folder = remote, folder
        self.attempts, self.stall_seconds, self.back_off_seconds = attempts, stall_seconds, back_off_seconds
        self.path, self.partial, self.begun, self.wrong = (
            folder / f"{remote.name}{suffix}" for suffix in ("", ".partial", ".partial.json", ".wrong")
        )

    def run(self, argument: str) -> None:
        """Tries one address after the other until the file is there."""
        reasons, kept = [], ""
        urls = list(self.remote.urls)
        while urls:
            # Bytes of an earlier run or another address may be what spoils the file, so it gets a second chance.
            inherited = self._size() > 0
            try:
                self._persist(urls[0])
                problem = verify(self.partial, self.remote)
                self.partial.replace(self.wrong if problem else self.path)
                self.begun.unlink(missing_ok=True)
                if not problem:
                    return
                kept = f"The last file that was not as published is kept as {self.wrong}.\n"
            except transport.Refused as error:
                problem, inherited = str(error), False
            if inherited:
                self._warn(urls[0], problem, "trying again from the start")
                continue
            url = urls.pop(0)
            reasons.append(f"  {url}: {problem}")
            if urls:
                self._warn(url, problem, f"trying {_host(urls[0])}")
        if self._size():
            kept += f"What has come so far is kept as {self.partial}, and the next run goes on from there.\n"
        raise InputError(
            f"{self.remote.name} could not be downloaded:\n"
            + ("\n".join(reasons) or "  no address of it is known")
            + f"\n{kept}Get the file yourself and put it in {self.folder} under the name {self.remote.name}, or name "
            "another URL",
            argument=argument,
        )

    def _persist(self, url: str) -> None:
        """Makes the partial file whole from one address, or raises Refused."""
        failures = furthest = 0
        while True:
            try:
                return self._attempt(url, announce=not furthest)
            except transport.Broken as error:
                # Only bytes never had before are progress: a server that always starts over and always breaks ends.
                failures = 0 if self._size() > furthest else failures + 1
                furthest = max(furthest, self._size())
                if failures >= self.attempts:
                    raise transport.Refused(f"{error} ({failures} times in a row)") from error
                wait = self.back_off_seconds * 2 ** max(failures - 1, 0)
                if error.wait is not None and error.wait <= _LONGEST_WAIT:
                    wait = error.wait
                self._warn(url, str(error), f"trying again in {min(wait, _LONGEST_WAIT):g} s")
                time.sleep(min(wait, _LONGEST_WAIT))

    def _attempt(self, url: str, announce: bool) -> None:
        remote = self.remote
        with contextlib.closing(transport.open_url(url, self._have(url), self.stall_seconds)) as stream:
            if stream.content_type == "text/html" and not remote.name.endswith((".html", ".htm")):
                raise transport.Refused("the server sent a web page in place of the file")
            if remote.size is not None and stream.total not in (None, remote.size):
                raise transport.Refused(f"the file there has {stream.total} bytes instead of {remote.size}")
            total = remote.size if stream.total is None else stream.total
            self._require_space(total)
            if announce:
                size = "" if total is None else f", {human_size(total)}"
                resuming = f", resuming at {human_size(stream.start)}" if stream.start else ""
                print(f"download  {remote.name} from {_host(url)}{size}{resuming}", flush=True)
            if not stream.start:
                self.partial.write_bytes(b"")  # before its description changes
                self.begun.write_text(json.dumps({"url": url, "validator": stream.validator, "total": total}))
            self._write(stream, total)

    def _write(self, stream: transport.Stream, total: int | None) -> None:
        have = stream.start
        bar = tqdm.tqdm(
            desc=self.remote.name,
            total=total,
            initial=have,
            unit="B",
            unit_scale=True,
            unit_divisor=1000,
            leave=False,
            dynamic_ncols=True,
        )
        with bar, open(self.partial, "ab") as file:
            while block := stream.read(_BLOCK):
                have += len(block)
                if total is not None and have > total:
                    self.partial.unlink()
                    raise transport.Refused(f"the server sent more than the {total} bytes of the file")
                file.write(block)
                bar.update(len(block))
        if total is not None and have < total:
            raise transport.Broken(f"the connection ended after {human_size(have)} of {human_size(total)}")

    def _have(self, url: str) -> transport.Have:
        """What an attempt at `url` may go on from."""
        try:
            begun = json.loads(self.begun.read_text())
            begun_url, validator, total = begun["url"], begun["validator"], begun["total"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            begun_url, validator, total = None, "", None
        if url != begun_url:
            # Another server's bytes can be told from the right ones only by a digest of the whole.
            if not (self.remote.sha256 or self.remote.git_blob):
                return transport.Have()
            validator = ""
        total = self.remote.size if total is None else total
        size = self._size()
        if not size or (total is None and not validator) or (total is not None and size > total):
            return transport.Have()
        return transport.Have(size, validator, total)

    def _size(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _require_space(self, total: int | None) -> None:
        needed, free = (total or 0) - self._size(), shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"{self.folder} needs {human_size(needed)} for {self.remote.name} and has {human_size(free)} free; "
                "make room or pass another folder"
            )

    def _warn(self, url: str, problem: str, next_step: str) -> None:
        print(f"download  {self.remote.name} from {_host(url)}: {problem}; {next_step}", file=sys.stderr, flush=True)


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname
