"""Reads an upload into memory, within the limits of bytes and time. Nothing of it is written to the disk."""

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from symm_jax.serve.limits import Limits, Refused

_FIELD = "image"
_TOO_MUCH = 4  # times the limit: a body up to here is read and forgotten, so that its sender can read the answer


async def read_picture(request: Request, limits: Limits) -> bytes:
    """The picture in the field "image" of a multipart body.

    Raises:
      Refused: 400, 408, 413 or 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        await drain(request, limits)
        raise Refused(415, f"Send the picture as the field {_FIELD} of multipart/form-data.")
    parser = _parser(limits)(request.headers, _body(request, limits), max_files=1, max_fields=10, max_part_size=1024)
    try:
        async with asyncio.timeout(limits.upload_seconds):
            form = await parser.parse()
    except MultiPartException as error:
        await drain(request, limits)
        raise Refused(400, f"The body is not multipart/form-data with one file: {error.message}") from error
    except ClientDisconnect as error:
        raise Refused(400, "The upload was not complete.") from error
    except TimeoutError as error:
        raise Refused(
            408, f"The upload took longer than {limits.upload_seconds:g} seconds.", Connection="close"
        ) from error
    field, others = form.get(_FIELD), form.keys() - {_FIELD}
    content = await field.read() if isinstance(field, UploadFile) else b""
    await form.close()
    if others:
        raise Refused(
            400, f"The body has the field {min(others)[:32]!r} beside {_FIELD}. Parameters belong into the address."
        )
    if not content:
        raise Refused(400, f"The field {_FIELD} has no picture.")
    return content


async def drain(request: Request, limits: Limits) -> None:
    """Reads and forgets the rest of a body that is not too large, so that its sender can read the answer."""
    if _length(request) > _TOO_MUCH * limits.bytes:
        return
    size = 0
    try:
        async with asyncio.timeout(limits.upload_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > _TOO_MUCH * limits.bytes:
                    return
    except (TimeoutError, ClientDisconnect, RuntimeError):  # RuntimeError: it has been read
        return


async def _body(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    refusal = Refused(413, f"The upload has more than {limits.bytes / 2**20:g} MiB.", Connection="close")
    if _length(request) > _TOO_MUCH * limits.bytes:
        raise refusal
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limits.bytes:
            yield chunk
        elif size > _TOO_MUCH * limits.bytes:
            break
    if size > limits.bytes:
        raise refusal


def _length(request: Request) -> int:
    length = request.headers.get("content-length", "0")
    return int(length) if length.isdecimal() else 0


def _parser(limits: Limits) -> type[MultiPartParser]:
    class InMemory(MultiPartParser):
        spool_max_size = limits.bytes + 1  # a larger part would go to a temporary file, and the body has fewer bytes

    return InMemory
