"""Opens a file at an http, https or ftp address, from the byte where an earlier transfer of it stopped."""

import contextlib
import ftplib
import http.client
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import NamedTuple

_UNKNOWN_COMMAND = "50"  # how ftp's answers 500 to 504 begin


class Refused(Exception):
    """The address does not give the file, and asking it again is of no use."""


class Broken(Exception):
    """The transfer failed in a way that passes; `wait` is for how many seconds the server asks, if it does."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


class Have(NamedTuple):
    """What is here already: so many bytes of a file of `total` bytes; `validator` told its version apart then."""

    size: int = 0
    validator: str = ""
    total: int | None = None


class Stream(NamedTuple):
    """A file on its way. Its bytes begin at `start`; `read(n)` returns at most n of them, and b"" at the end.

    `read` raises Broken. `validator` is a strong ETag, a Last-Modified, or "".
    """

    start: int
    total: int | None
    validator: str
    content_type: str
    read: Callable[[int], bytes]
    close: Callable[[], None]


def open_url(url: str, have: Have, timeout: float) -> Stream:
    """Asks for the bytes after those in `have`; the stream starts at 0 when the server cannot or must not go on there.

    Args:
      url: address.
      have: what is here.
      timeout: seconds without an answer, or without a byte, after which the transfer is broken.

    Raises:
      Refused, Broken: as they say.
    """
    open_from = _open_ftp if _is_ftp(url) else _open_http
    with _network_errors():
        stream = open_from(url, have, timeout)
        if stream is not None and stream.start and not _continues(stream, have):
            stream.close()
            stream = None
        if stream is None:
            stream = open_from(url, Have(), timeout)
            if stream is None or stream.start:
                raise Broken("sent another part of the file than was asked for")
    return stream


def _is_ftp(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    proxied = "ftp" in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname)
    return parts.scheme == "ftp" and not proxied  # a proxy for ftp is asked in http


def _continues(stream: Stream, have: Have) -> bool:
    """Whether the stream's bytes belong right after those that are here."""
    if stream.start != have.size:
        return False
    if have.validator and stream.validator not in ("", have.validator):
        return False
    if have.total is None or stream.total is None:
        return bool(have.validator)
    return stream.total == have.total


def _open_http(url: str, have: Have, timeout: float) -> Stream | None:
    """Returns None when the server has nothing from the byte on that was asked for."""
    headers = {"User-Agent": "symm_jax", "Accept": "*/*"}
    if have.size:
        headers["Range"] = f"bytes={have.size}-"
        if have.validator:
            headers["If-Range"] = have.validator
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.build_opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have.size:
                return _nothing_left(error.headers, have)
            reason = " ".join(f"{error.code} {error.reason}".split())
            if error.code in (408, 429) or error.code >= 500:
                wait = error.headers.get("Retry-After", "")
                raise Broken(reason, float(wait) if wait.isdecimal() else None) from None
            raise Refused(reason) from None
    if response.status not in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
        response.close()
        raise Refused(f"answered with status {response.status}")
    start, total = 0, response.length
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if content_range is None:
            response.close()
            return None
        start = int(content_range[1])
        total = None if content_range[2] == "*" else int(content_range[2])
    # read1 returns what has come, so that a connection that breaks takes none of it along.
    return Stream(
        start,
        total,
        _validator(response.headers, have.validator),
        response.headers.get_content_type() if "Content-Type" in response.headers else "",
        _reader(response.read1),
        response.close,
    )


def _nothing_left(headers: http.client.HTTPMessage, have: Have) -> Stream | None:
    """The answer to a question for the bytes after the last one, if that's what it was."""
    if headers.get("Content-Range") != f"bytes */{have.size}":
        return None
    return Stream(have.size, have.size, _validator(headers, have.validator), "", lambda _: b"", lambda: None)


def _validator(headers: http.client.HTTPMessage, like: str) -> str:
    """Returns what tells this version of the file apart, of the same kind as `like` if that is given."""
    etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
    etag = etag if etag.startswith('"') else ""  # a weak one promises no equal bytes
    if like:
        return etag if like.startswith('"') else modified
    return etag or modified


def _open_ftp(url: str, have: Have, timeout: float) -> Stream | None:
    """Returns None when the server cannot start at the byte that was asked for."""
    parts = urllib.parse.urlsplit(url)
    path = urllib.parse.unquote(parts.path.removeprefix("/"))
    with contextlib.ExitStack() as stack:
        ftp = ftplib.FTP(timeout=timeout)
        stack.callback(ftp.close)
        ftp.connect(parts.hostname, parts.port or ftplib.FTP_PORT)
        ftp.login(urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or ""))
        ftp.voidcmd("TYPE I")
        total = _ftp_size(ftp, path)
        if have.size and have.size == total:
            return Stream(have.size, total, "", "", lambda _: b"", stack.pop_all().close)
        try:
            connection, _ = ftp.ntransfercmd(f"RETR {path}", rest=have.size or None)
        except ftplib.error_perm as error:
            if have.size and str(error).startswith(_UNKNOWN_COMMAND):  # that's REST, which not all have
                return None
            raise
        stack.callback(connection.close)

        def read(count: int) -> bytes:
            block = connection.recv(count)
            if not block and total is None:  # only the server knows whether this is the end
                connection.close()
                ftp.voidresp()
            return block

        return Stream(have.size, total, "", "", _reader(read), stack.pop_all().close)


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
    """Turns what the libraries raise into Refused or Broken."""
    try:
        yield
    except (http.client.HTTPException, ftplib.Error, OSError, EOFError, ValueError) as error:
        cause = error.reason if isinstance(getattr(error, "reason", None), Exception) else error  # of a URLError
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        if isinstance(cause, http.client.IncompleteRead):
            reason = "the connection ended early"
        final = isinstance(cause, (ftplib.error_perm, http.client.InvalidURL, ValueError))  # bad certificates too
        if final or (isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME):
            raise Refused(reason) from error
        raise Broken(reason) from error
