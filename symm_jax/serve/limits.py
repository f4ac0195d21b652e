"""What a request may take, and the answer to one that takes more."""

from typing import NamedTuple

from starlette.exceptions import HTTPException


class Limits(NamedTuple):
    """The limits of the server. Times are in seconds.

    bytes: of a request's body.
    pixels: of an uploaded picture.
    k: results of a search.
    requests: requests that are answered at once; more are refused.
    upload_seconds: for a whole body to arrive.
    decode_seconds: for a process to decode a picture. Then the process is killed.
    answer_seconds: from the whole body to the answer.
    cache_bytes: of thumbnails, and as much of uploaded pictures, in memory.
    """

    bytes: int = 20 * 2**20
    pixels: int = 50_000_000
    k: int = 1000
    requests: int = 64
    upload_seconds: float = 30
    decode_seconds: float = 10
    answer_seconds: float = 60
    cache_bytes: int = 64 * 2**20


class Refused(HTTPException):
    """A request that is not answered with what it asks for.

    Args:
      status: the HTTP status.
      fact: what is wrong, and what to do, for a person.
      **headers: of the answer; `_` stands for `-`.
    """

    def __init__(self, status: int, fact: str, **headers: str):
        super().__init__(status, fact, {name.replace("_", "-"): value for name, value in headers.items()} or None)
