"""A process that decodes one picture at a time: python -m symm_jax.serve.worker. It imports neither JAX nor TensorFlow.

A job and its answer are one line of JSON each, followed by as many bytes as its field "bytes" says. The process ends
when its input does, so it does not outlive the server.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image

from symm_jax import web
from symm_jax.data import archives, decode
from symm_jax.errors import InputError

ABSENT, TYPE, DAMAGED, PIXELS, BOX = KINDS = ("absent", "type", "damaged", "pixels", "box")
_MEMORY = 4 * 2**30  # bytes of addresses; a picture within the limit of pixels needs far fewer

_OPEN = contextlib.ExitStack()  # archives stay open


class Fault(Exception):
    """A picture that cannot be used: one of KINDS, and a sentence."""


def answer(job: Mapping[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    """Decodes a picture.

    Args:
      job: "file", a picture or an archive, or null for `content`; "member", [name, size, offset] in the archive, or
        null; "sha256" of the picture of a file; "orient", whether the network sees it rotated by its EXIF orientation;
        "box", [x1, y1, x2, y2] in pixels of the rotated picture, or null; "pixels", the most it may have; "side" of the
        square that the network sees, or null for a picture to look at, of at most "fit" pixels per side.
      content: the encoded picture.

    Returns:
      {"width", "height"} of the rotated picture, and the square as uint8 RGB, (side, side, 3), or WebP. Of a picture
      that cannot be used {"kind", "fault"} and nothing.
    """
    try:
        if job["file"] is not None:
            content = _read(Path(job["file"]), job["member"])
            if hashlib.sha256(content).hexdigest() != job["sha256"]:
                raise Fault(ABSENT, "The picture was changed after it was embedded. Embed the folder again.")
        box, to_network = job["box"], job["side"] is not None
        _check(content, job["pixels"])
        # The box and the picture to look at are rotated in any case.
        orient = bool(job["orient"] or box or not to_network)
        image = _decode(content, orient)
        height, width = image.shape[:2]
        if not orient and _is_turned(content):
            height, width = width, height
        if box:
            image = _crop(image, box)
        body = decode.resize_to_square(image, job["side"]).tobytes() if to_network else web.to_webp(_fit(image, job))
        return {"width": width, "height": height}, body
    except Fault as fault:
        kind, text = fault.args
        return {"kind": kind, "fault": text}, b""


def main() -> None:
    """Answers jobs until the input ends."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    cv2.setNumThreads(1)
    results.write(b"{}\n")
    results.flush()
    while line := sys.stdin.buffer.readline():
        job = json.loads(line)
        head, body = answer(job, sys.stdin.buffer.read(job["bytes"]))
        results.write(json.dumps({**head, "bytes": len(body)}).encode() + b"\n" + body)
        results.flush()


def _check(content: bytes, pixels: int) -> None:
    """Refuses what is no picture or has too many pixels, by its header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(io.BytesIO(content), formats=decode.FORMATS) as image:
                count = image.width * image.height
    except PIL.Image.DecompressionBombError:
        count = sys.maxsize
    except PIL.UnidentifiedImageError as error:
        raise Fault(TYPE, "This is not a JPEG, PNG, WebP or GIF picture.") from error
    except Exception as error:  # Pillow's plug-ins raise OSError, SyntaxError, ValueError, struct.error, ...
        raise Fault(DAMAGED, f"The picture is damaged ({error}).") from error
    if count > pixels:
        raise Fault(PIXELS, f"The picture has more than {pixels:,} pixels, or its header says so. Make it smaller.")


def _decode(content: bytes, orient: bool) -> np.ndarray:
    try:
        return decode.decode(content, "", orient=orient)
    except MemoryError as error:
        raise Fault(PIXELS, "The picture needs too much memory. Make it smaller.") from error
    except InputError as error:
        raise Fault(DAMAGED, f"The picture is damaged ({error.__cause__}).") from error


def _is_turned(content: bytes) -> bool:
    """Whether rotating by the EXIF orientation exchanges width and height."""
    with PIL.Image.open(io.BytesIO(content), formats=decode.FORMATS) as image:
        return image.getexif().get(PIL.ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)


def _crop(image: np.ndarray, box: list[int]) -> np.ndarray:
    try:
        return np.ascontiguousarray(decode.crop(image, box, ""))
    except InputError as error:
        height, width = image.shape[:2]
        raise Fault(BOX, f"The box {box} is outside of the picture, which has {width} x {height} pixels.") from error


def _fit(image: np.ndarray, job: Mapping[str, Any]) -> np.ndarray:
    """The picture, or a smaller one whose longer side is job["fit"]."""
    height, width = image.shape[:2]
    scale = job["fit"] / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _read(file: Path, member: list | None) -> bytes:
    try:
        return _archive(file)(archives.Member(*member)) if member else file.read_bytes()
    except (OSError, InputError) as error:
        raise Fault(ABSENT, "The picture cannot be read now. It may have been moved or changed.") from error


@functools.cache
def _archive(file: Path) -> Callable[[archives.Member], bytes]:
    return _OPEN.enter_context(archives.reader(file))


if __name__ == "__main__":
    main()
