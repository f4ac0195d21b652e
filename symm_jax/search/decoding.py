"""Decodes pictures in processes ahead of the device. A process that decodes imports neither JAX nor TensorFlow."""

import collections
import concurrent.futures.process
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import joblib
import numpy as np
from joblib.externals import loky

from symm_jax.data import arrays, decode, workers
from symm_jax.errors import InputError

T = TypeVar("T")

_CHUNK = 16  # images that a worker gets at a time
_MIN_FOR_WORKERS = 300  # fewer images are decoded in this process, because workers take a second to start
_IDLE_SECONDS = 300  # after which a process without work ends, as joblib's do


class Source(NamedTuple):
    """A picture to decode.

    name: for messages.
    content: the encoded image, its file, or the error that reading it raised.
    known: SHA-256 of a content that need not be decoded, or "".
    """

    name: str
    content: bytes | Path | InputError
    known: str = ""


class Decoded(NamedTuple):
    """A square of uint8 RGB, (side, side, 3). None for a picture of the known content, and for one with a fault."""

    sha256: str
    pixels: np.ndarray | None
    fault: str = ""


def decode_ahead(sources: Iterable[Source], count: int, options: arrays.Options, ahead: int) -> Iterator[Decoded]:
    """Decodes pictures in their order. Many are decoded by one process per core, while the caller works.

    Args:
      sources: the pictures. They are taken as they are needed.
      count: their number.
      options: how images are decoded.
      ahead: the number of images that are decoded before they are asked for.

    Raises:
      InputError: a process was killed.
    """
    if count < _MIN_FOR_WORKERS:
        yield from (_decode(options, source) for source in sources)
        return
    processes = joblib.cpu_count()  # the number respects the limits of this process
    pool = loky.get_reusable_executor(
        processes, timeout=_IDLE_SECONDS, initializer=workers.exit_with_parent, initargs=(os.getpid(),)
    )
    pending: collections.deque = collections.deque()
    try:
        for chunk in batched(sources, _CHUNK):
            pending.append(pool.submit(_decode_chunk, options, chunk))
            if len(pending) * _CHUNK > max(ahead, 3 * processes * _CHUNK):
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise InputError(
            "a process that decodes images was killed, probably because the memory was full. Free memory and run again."
        ) from error
    finally:
        for future in pending:
            future.cancel()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; the last one may have fewer."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _decode_chunk(options: arrays.Options, sources: list[Source]) -> list[Decoded]:
    cv2.setNumThreads(1)  # there is one worker per core already
    return [_decode(options, source) for source in sources]


def _decode(options: arrays.Options, source: Source) -> Decoded:
    content = source.content
    if isinstance(content, Path):
        try:
            content = content.read_bytes()
        except OSError as error:
            content = InputError(unreadable(content, error))
    if isinstance(content, InputError):
        return Decoded("", None, content.fact)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 == source.known:
        return Decoded(sha256, None)
    try:
        image = decode.decode(content, source.name, orient=options.orient)
    except InputError as error:
        return Decoded(sha256, None, error.fact)
    return Decoded(sha256, decode.resize_to_square(image, options.side))


def unreadable(path: Path, error: OSError) -> str:
    """The message for a picture that the operating system does not let one read."""
    return f"{path} cannot be read ({error.strerror}). Make it readable, or restore it."
