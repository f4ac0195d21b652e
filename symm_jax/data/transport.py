"""Opens a file at an http, https or ftp URL, from the byte where an earlier transfer stopped."""

import contextlib
import email.message
import ftplib
import http.client
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import NamedTuple

_UNKNOWN_COMMAND = "50"  # FTP answers 500 to 504 begin with these digits


class PermanentError(Exception):
    """The URL does not give the file, and another attempt would not help."""


class TransientError(Exception):
    """The transfer failed, and another attempt may succeed. `wait` is the wait in seconds that the server asks for."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


class PartialDownload(NamedTuple):
    """The result of an earlier transfer.

    size: bytes that are on disk.
    validator: an ETag or Last-Modified of that version of the file, or "".
    total: bytes of the whole file, if known.
    """

    size: int = 0
    validator: str = ""
    total: int | None = None


class Stream(NamedTuple):
    """A file that is being transferred.

    start: position in the file of the first byte that `read` gives.
    total: bytes of the whole file, if known.
    validator: a strong ETag, a Last-Modified, or "".
    content_type: MIME type, or "".
    read: maximum number of bytes -> bytes; b"" at the end. Raises TransientError or PermanentError.
    close: closes the connection.
    """

    start: int
    total: int | None
    validator: str
    content_type: str
    read: Callable[[int], bytes]
    close: Callable[[], None]


def open_url(url: str, partial: PartialDownload, timeout: float) -> Stream:
    """Asks for the bytes after those of `partial`. The stream starts at 0 if the server cannot or must not resume.

    Args:
      url: URL of the file.
      partial: the bytes that are on disk.
      timeout: seconds without an answer, or without a byte, after which the transfer has failed.

    Raises:
      PermanentError: another attempt would not help.
      TransientError: another attempt may succeed.
    """
    open_from = _open_ftp if _is_ftp(url) else _open_http
    with _network_errors():
        stream = open_from(url, partial, timeout)
        if stream is not None and stream.start and not _continues(stream, partial):
            stream.close()
            stream = None
        if stream is None:
            stream = open_from(url, PartialDownload(), timeout)
            if stream is None or stream.start:
                raise TransientError("the server sent another part of the file than was asked for")
    return stream


def _is_ftp(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    proxied = "ftp" in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname or "")
    return parts.scheme == "ftp" and not proxied  # a proxy for ftp expects an HTTP request


def _continues(stream: Stream, partial: PartialDownload) -> bool:
    """Whether the stream's bytes continue those on disk, in the same version of the file."""
    if stream.start != partial.size:
        return False
    if partial.validator and stream.validator not in ("", partial.validator):
        return False
    if partial.total is None or stream.total is None:
        return bool(partial.validator)
    return stream.total == partial.total


def _open_http(url: str, partial: PartialDownload, timeout: float) -> Stream | None:
    """Returns None when the server has no bytes from the requested position on."""
    headers = {"User-Agent": "symm_jax", "Accept": "*/*"}
    if partial.size:
        headers["Range"] = f"bytes={partial.size}-"
        if partial.validator:
            headers["If-Range"] = partial.validator
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.build_opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and partial.size:
                return _empty_stream(error.headers, partial)
            reason = " ".join(f"{error.code} {error.reason}".split())
            if error.code in (408, 429) or error.code >= 500:
                wait = error.headers.get("Retry-After", "")
                raise TransientError(reason, float(wait) if wait.isdecimal() else None) from None
            raise PermanentError(reason) from None
    if response.status not in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
        response.close()
        raise PermanentError(f"the server answered with status {response.status}")
    start, total = 0, response.length
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if content_range is None:
            response.close()
            return None
        start = int(content_range[1])
        total = None if content_range[2] == "*" else int(content_range[2])
    # read1 returns the bytes that have arrived, so that none are lost when the connection breaks.
    return Stream(
        start,
        total,
        _validator(response.headers, partial.validator),
        response.headers.get_content_type() if "Content-Type" in response.headers else "",
        _reader(response.read1),
        response.close,
    )


def _empty_stream(headers: email.message.Message, partial: PartialDownload) -> Stream | None:
    """The answer to a request for the bytes after the last one. None if the file has another size."""
    if headers.get("Content-Range") != f"bytes */{partial.size}":
        return None
    return Stream(partial.size, partial.size, _validator(headers, partial.validator), "", lambda _: b"", lambda: None)


def _validator(headers: email.message.Message, like: str) -> str:
    """The ETag or Last-Modified of this version of the file: of the same kind as `like`, if `like` is given."""
    etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
    etag = etag if etag.startswith('"') else ""  # a weak ETag does not promise equal bytes
    if like:
        return etag if like.startswith('"') else modified
    return etag or modified


def _open_ftp(url: str, partial: PartialDownload, timeout: float) -> Stream | None:
    """Returns None when the server cannot start at the requested byte."""
    parts = urllib.parse.urlsplit(url)
    path = urllib.parse.unquote(parts.path.removeprefix("/"))
    with contextlib.ExitStack() as stack:
        ftp = ftplib.FTP(timeout=timeout)
        stack.callback(ftp.close)
        ftp.connect(parts.hostname or "", parts.port or ftplib.FTP_PORT)
        ftp.login(urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or ""))
        ftp.voidcmd("TYPE I")
        total = _ftp_size(ftp, path)
        if partial.size and partial.size == total:
            return Stream(partial.size, total, "", "", lambda _: b"", stack.pop_all().close)
        try:
            connection, _ = ftp.ntransfercmd(f"RETR {path}", rest=partial.size or None)
        except ftplib.error_perm as error:
            if partial.size and str(error).startswith(_UNKNOWN_COMMAND):  # some servers do not know REST
                return None
            raise
        stack.callback(connection.close)

        def read(count: int) -> bytes:
            block = connection.recv(count)
            if not block and total is None:  # only the server knows whether this is the end
                connection.close()
                ftp.voidresp()
            return block

        return Stream(partial.size, total, "", "", _reader(read), stack.pop_all().close)


def _ftp_size(ftp: ftplib.FTP, path: str) -> int | None:
    try:
        return ftp.size(path)
    except ftplib.error_perm as error:
        if str(error).startswith(_UNKNOWN_COMMAND):
            return None
        raise


def _reader(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    def checked(count: int) -> bytes:
        with _network_errors():
            return read(count)

    return checked


@contextlib.contextmanager
def _network_errors() -> Iterator[None]:
    """Turns the errors of the network libraries into PermanentError or TransientError."""
    try:
        yield
    except (http.client.HTTPException, ftplib.Error, OSError, EOFError, ValueError) as error:
        inner = getattr(error, "reason", None)  # only URLError has one
        cause = inner if isinstance(inner, Exception) else error
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        if isinstance(cause, http.client.IncompleteRead):
            reason = "the connection ended early"
        final = isinstance(cause, (ftplib.error_perm, http.client.InvalidURL, ValueError))  # bad certificates too
        if final or (isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME):
            raise PermanentError(reason) from error
        raise TransientError(reason) from error
