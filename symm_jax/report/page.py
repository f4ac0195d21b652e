"""The page: what it shows as plain data, put into one file with its style and script."""

import html
import json
import math
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from symm_jax import web
from symm_jax.data.names import NUMBERS, Names
from symm_jax.report import curves, figures, planes
from symm_jax.report.gallery import Gallery

_SCRIPTS = ("base", "retrieval", "map", "curves", "points", "start")  # one after the other in one scope
_THUMBNAIL = 96  # pixels
_COLUMNS = 40


def render(head: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """One self-contained HTML document.

    Args:
      head: what the page shows without its script: "name", "facts" (lines of text), "chosen" (text), "figures"
        (pairs of title and fraction) and "commands" (that make a page to search other pictures).
      data: the data that the script draws, plain JSON types; see `describe`.
    """
    figures_ = "".join(
        f"<div><dt>{html.escape(title)}</dt><dd>{100 * value:.2f} %</dd></div>" for title, value in head["figures"]
    )
    return string.Template(_read("page.html")).substitute(
        name=html.escape(head["name"]),
        facts="".join(f"<li>{html.escape(fact)}</li>" for fact in head["facts"]),
        step=f"{data['chosen']:,}",
        chosen=html.escape(head["chosen"]),
        figures=figures_,
        commands=html.escape("\n".join(head["commands"])),
        style=web.style() + _read("page.css"),
        colours="".join(f"--class-{i}: {colour};" for i, colour in enumerate(figures.COLOURS)),
        script=web.script() + "".join(_read(f"{name}.js") for name in _SCRIPTS),
        data=to_json(data),
    )


def describe(
    charts: Sequence[curves.Chart],
    chosen: int,
    gallery: Gallery,
    labels: np.ndarray,
    sheet: Mapping[str, Any],
    map_: planes.Map,
    points: Mapping[str, Any] | None,
    names: Names = NUMBERS,
) -> dict[str, Any]:
    """The data that the script draws. Images are numbered as in `gallery.rows`; "row" is the number in the test set.

    Args:
      charts: the curves.
      chosen: the step that the page is of.
      gallery: the images shown.
      labels: (n,) classes of the whole test set.
      sheet: their thumbnails, see `thumbnails`.
      map_: the positions of `gallery.sample`.
      points: see `describe_points`; None leaves them out.
      names: the names of classes and images.
    """
    place = {row: i for i, row in enumerate(gallery.rows.tolist())}
    neighbours = [
        [place[row] for row in near] if is_open else None
        for near, is_open in zip(gallery.neighbours.tolist(), gallery.open.tolist(), strict=True)
    ]
    images = {
        "row": gallery.rows,
        "name": [names.of_picture(row) for row in gallery.rows.tolist()],
        "label": labels[gallery.rows],
        "ahead": gallery.ahead,
        "neighbours": neighbours,
        "similarity": [x if o else None for x, o in zip(_short(gallery.similarity, 4), gallery.open, strict=True)],
    }
    return {
        "charts": [chart._asdict() | {"series": [s._asdict() for s in chart.series]} for chart in charts],
        "chosen": chosen,
        "sheet": sheet,
        "images": images,
        "classes": {label: names.of_class(label) for label in np.unique(labels[gallery.rows]).tolist()},
        "gallery": {
            "starts": [place[row] for row in gallery.starts.tolist()],
            "failed": gallery.failed,
            "queries": gallery.queries,
            "size": len(labels),
            "against": gallery.against,
        },
        "map": {
            "images": [place[row] for row in gallery.sample.tolist()],
            "places": _short(_unit_square(map_.positions), 4),
            "method": map_.method,
            "shapes": len(figures.MARKERS),
            "colours": len(figures.COLOURS),
        },
        "points": points,
    }


def describe_points(points: planes.Points, gallery: Gallery, pairs: np.ndarray) -> dict[str, Any]:
    """The real and synthetic points of the images `pairs` (c, 2), rows of the test set that `gallery` shows."""
    return {
        "images": np.searchsorted(gallery.rows, pairs),
        "places": _short(points.positions, 4),
        "axis": points.axis,
    }


def thumbnail_side(images: np.ndarray) -> int:
    """The side in pixels of the thumbnails of (n, side, side, 3) images: never enlarged."""
    return min(_THUMBNAIL, images.shape[1])


def thumbnails(images: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """The images `rows` (m,) of (n, side, side, 3) uint8 on one WebP sheet: its data URI, tile side and columns."""
    side = thumbnail_side(images)
    sheet = np.zeros((-(-len(rows) // _COLUMNS) * side, min(_COLUMNS, len(rows)) * side, 3), np.uint8)
    for i, row in enumerate(rows):
        y, x = side * (i // _COLUMNS), side * (i % _COLUMNS)
        sheet[y : y + side, x : x + side] = cv2.resize(images[row], (side, side), interpolation=cv2.INTER_AREA)
    uri = web.to_uri(sheet)
    return {"uri": uri, "side": side, "columns": _COLUMNS}


def to_json(data: Any) -> str:
    """JSON that may stand inside <script>: no "<" can end it, and numbers that are not finite become null."""
    text = json.dumps(_plain(data), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, np.ndarray | np.generic):
        return _plain(data.tolist())
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _unit_square(positions: np.ndarray) -> np.ndarray:
    """(n, 2) moved and scaled, equally in both directions, into [0, 1] x [0, 1]."""
    low, span = positions.min(0), np.ptp(positions, axis=0)
    return (positions - low - span / 2) / (span.max() or 1.0) + 0.5


def _short(x: np.ndarray, digits: int) -> list:
    return np.round(x.astype(float), digits).tolist()


def _read(name: str) -> str:
    return (Path(__file__).parent / "web" / name).read_text()
