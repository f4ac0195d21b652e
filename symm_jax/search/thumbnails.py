"""Reads pictures of an index again, as they are on disk now."""

from collections.abc import Iterator, Sequence

import numpy as np
import tqdm

from symm_jax import errors
from symm_jax.data import arrays
from symm_jax.errors import InputError
from symm_jax.search import decoding, images
from symm_jax.search.index import Index

_AHEAD = 256  # pictures that are decoded before they are asked for


def read_again(index: Index, rows: Sequence[int], side: int, desc: str) -> Iterator[tuple[int, np.ndarray | None]]:
    """Decodes pictures of an index to squares. Many are decoded by one process per core.

    Args:
      index: the index.
      rows: the rows of the pictures.
      side: side of a square in pixels.
      desc: what is done, for the progress bar.

    Yields:
      The row, and (side, side, 3) uint8 RGB; None for a picture that is gone, or changed since it was embedded.
    """
    if not rows:
        return
    try:
        listing = images.list_pictures(index.images, skip=index.folder)
    except InputError as error:
        errors.warn(f"the pictures of the index {index.folder} cannot be read: {error.fact}")
        yield from ((row, None) for row in rows)
        return
    there = {picture.path for picture in listing.pictures}
    found = [row for row in rows if index.rows[row].path in there]
    yield from ((row, None) for row in rows if index.rows[row].path not in there)
    options = arrays.Options(side, orient=bool(index.about.get("preprocessing", {}).get("orient", True)))
    with (
        listing.tree.opened() as read,
        tqdm.tqdm(
            total=len(found), desc=desc, unit="image", leave=False, dynamic_ncols=True, disable=len(found) < 100
        ) as progress,
    ):
        sources = (images.source(listing, index.rows[row].path, read) for row in found)
        for row, decoded in zip(found, decoding.decode_ahead(sources, len(found), options, _AHEAD), strict=True):
            progress.update()
            yield row, decoded.pixels if decoded.sha256 == index.rows[row].sha256 else None
