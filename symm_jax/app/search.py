"""--mode=search: lists the pictures of an index that are nearest to a picture, or to each picture of a folder."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from symm_jax.app.use_flags import Use
from symm_jax.data.tree import as_text
from symm_jax.errors import InputError
from symm_jax.search import approximate, embedder, images, thresholds
from symm_jax.search.embedder import Embedder
from symm_jax.search.index import Index
from symm_jax.search.thresholds import Thresholds

_K = 10  # results, where --k is not given
_MAX_CLASS = 32  # characters of a class in the table


class Queries(NamedTuple):
    """The pictures that were embedded, their embeddings, and a message for each that could not be."""

    paths: list[str]
    embeddings: np.ndarray
    faults: list[str]


def search(given: Use) -> list[str]:
    """Prints the nearest pictures of each query. Returns a message for each damaged query.

    With given.json, stdout has one line of JSON per query and nothing else.

    Raises:
      InputError: a mistake in index, query, k or workdir.
    """
    assert given.index is not None
    index = Index(given.index)
    k = given.k or min(_K, len(index))
    if given.query is not None and k > len(index):
        raise InputError(f"{given.index} has {len(index):,} pictures, got {k:,}.", argument="k")
    nearest = index.search
    if given.index_kind == "usearch":
        graph = approximate.Approximate(index)
        _note(f"usearch   {'made' if graph.is_new else 'read'}; recall@{graph.k} {graph.recall:.4f} of exact search")
        nearest = graph.search
    if given.to:
        from symm_jax.app.search_database import fill_table  # imported here: psycopg is an extra

        nearest = fill_table(index, given)
    if given.query is None:  # only the graph was asked for
        return []
    queries = _embed(embedder.load_for(index, given.workdir), given.query)
    similarities, rows = nearest(queries.embeddings, k)
    limits = thresholds.read(index)
    if not given.json:
        print(f"index     {index.folder}: {len(index):,} pictures of {as_text(str(index.images))}")
    for path, values, found in zip(queries.paths, similarities, rows, strict=True):
        results = [_result(index, row, float(value), limits) for value, row in zip(values, found, strict=True)]
        if given.json:
            print(json.dumps({"query": path, "results": results}), flush=True)
        else:
            print("\n".join(["", *_table(path, results, str(index.images), limits)]), flush=True)
    return queries.faults


def _embed(network: Embedder, query: Path) -> Queries:
    """Embeds a picture, or the pictures of a folder by their paths."""
    try:
        listing = images.list_pictures(query)
    except InputError as error:
        raise InputError(error.fact, argument="query") from error
    pictures = sorted(picture.path for picture in listing.pictures)
    faults, good = [*listing.faults], []

    def squares(sources) -> Iterator[np.ndarray]:
        for path, decoded in zip(pictures, network.decode(sources, len(pictures)), strict=True):
            if decoded.pixels is None:
                faults.append(decoded.fault)
            else:
                good.append(str(query) if path == query.name and query.is_file() else os.path.join(query, path))  # noqa: PTH118
                yield decoded.pixels

    with listing.tree.opened() as read:
        sources = (images.source(listing, path, read) for path in pictures)
        found = [*network.embed_squares(squares(sources), len(pictures), len(pictures))]
    embeddings = np.concatenate(found) if found else np.zeros((0, network.dim), np.float32)
    finite = np.isfinite(embeddings).all(axis=1)
    faults += [f"image {as_text(good[i])}: its embedding is not finite" for i in np.flatnonzero(~finite)]
    return Queries([good[i] for i in np.flatnonzero(finite)], embeddings[finite], faults)


def _result(index: Index, row: int, similarity: float, limits: Thresholds | None) -> dict[str, Any]:
    """A result as JSON has it."""
    picture = index.rows[row]
    result: dict[str, Any] = {"path": os.path.join(index.images, picture.path), "similarity": round(similarity, 6)}  # noqa: PTH118
    if picture.label:
        result["class"] = picture.label
    if limits is not None:
        result["match"] = limits.is_match(similarity)
    return result


def _table(path: str, results: list[dict[str, Any]], root: str, limits: Thresholds | None) -> list[str]:
    """The lines of a query's table. Paths are those below the folder of pictures, as the first column of images.csv."""
    labels = [_short(as_text(result.get("class", ""))) for result in results]
    width = max(map(len, (*labels, "class")))
    head = "similarity  " + (f"{'class':{width}}  " if any(labels) else "") + "picture"
    lines = [f"query     {as_text(path)}", f"{'':10}{head}"]
    for number, (result, label) in enumerate(zip(results, labels, strict=True), 1):
        cells = [f"{number:8}  {result['similarity']:10.4f}"]
        if any(labels):
            cells.append(label.ljust(width))
        cells.append(as_text(os.path.relpath(result["path"], root)))
        if not result.get("match", True):
            cells.append("(no match)")
        lines.append("  ".join(cells))
    if limits is not None and not any(result["match"] for result in results):
        lines.append(f"{'':10}no match: every similarity is below the threshold {limits.at['0.01']:.4f}")
    return lines


def _short(text: str) -> str:
    return text if len(text) <= _MAX_CLASS else f"{text[: _MAX_CLASS - 3]}..."


def _note(text: str) -> None:
    print(text, file=sys.stderr)
