"""The figures of reports and of calibration as PNG files, each written atomically."""

import functools
import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
import matplotlib.font_manager
import matplotlib.ticker
import numpy as np

from symm_jax import files
from symm_jax.data.names import NUMBERS, Names
from symm_jax.report import curves, planes
from symm_jax.run import best

# Distinct for every colour vision (Okabe and Ito). Their yellow is left out: it does not show on white.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#6f4fa0", "#cc79a7", "#56b4e9", "#7f7f7f")
MARKERS = ("o", "s", "^", "D")  # with the colours 32 looks
_NARROW, _WIDE = 13, 30  # characters of a class's name above a tile and above a pair
_RIGHT, _WRONG = "#0b62a8", "#b8430b"
_DPI = 130
_SIMILARITIES, _LOWEST_FMR = 120, 1e-5  # of a calibration: bins of a distribution, and where its curve begins
_FONTS = ("DejaVu Sans", "STIXGeneral")  # of names: they come with matplotlib; in bold they have fewer characters
_QUERY = {"facecolor": "0.9", "edgecolor": "none", "pad": 1.5}  # behind the name of a query


def draw_curves(path: Path, charts: Sequence[curves.Chart], chosen: int) -> None:
    """Draws each chart. `chosen` is the step of the checkpoint that the report shows."""
    rows = max(1, -(-len(charts) // 2))
    figure = matplotlib.figure.Figure(figsize=(10, 3.2 * rows), layout="constrained")
    for i, chart in enumerate(charts):
        ax = figure.add_subplot(rows, 2, i + 1)
        for k, line in enumerate(chart.series):
            style = {"color": COLOURS[k % len(COLOURS)], "marker": "o" if len(line.steps) <= 12 else "", "ms": 4}
            name = line.name if len(chart.series) > 1 else None  # the title says what a single line is
            ax.plot(line.steps, line.values, lw=1.5, label=name, **style)
        ax.axvline(chosen, color="grey", lw=1, ls=":", label=f"step {chosen:,}")
        ax.set(title=chart.title, xlabel="step", yscale="log" if chart.log else "linear")
        if chart.share:
            ax.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=None))
        ax.legend(edgecolor="none", fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
        _plain(ax)
    if not charts:
        figure.text(0.5, 0.5, "nothing was logged", ha="center", color="grey")
    _save(figure, path)


def draw_batch(path: Path, images: np.ndarray, labels: np.ndarray, names: Names = NUMBERS) -> None:
    """Draws a sheet of pairs of images, or of single images.

    Args:
      path: the PNG to write.
      images: (n, k, side, side, 3) uint8. k = 2: anchor and positive. k = 1: single images.
      labels: (n,) integer classes.
      names: the names of the classes.
    """
    k = images.shape[1]
    columns = min(8 // k, len(images))
    rows = -(-len(images) // columns)
    height = 1.45 * rows
    figure = matplotlib.figure.Figure(figsize=(1.25 * k * columns, height))
    edges = {"left": 0.01, "right": 0.99, "top": 1 - 0.25 / height, "bottom": 0.05 / height}
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={**edges, "wspace": 0.06, "hspace": 0.22})
    for ax, pair, label in itertools.zip_longest(grid.flat, images, labels):
        ax.set_axis_off()
        if pair is not None:
            ax.imshow(np.concatenate([*pair], axis=1))
            if k > 1:
                ax.axvline(pair.shape[2] - 0.5, color="white", lw=2)
            _write_class(ax, names, label, _WIDE if k > 1 else _NARROW, pad=3)
    _save(figure, path)


def draw_neighbours(
    path: Path,
    images: np.ndarray,
    labels: np.ndarray,
    ahead: np.ndarray,
    similarity: np.ndarray,
    names: Names = NUMBERS,
) -> None:
    """Draws queries and their nearest neighbours, one row per query. Right and wrong ones have different frames.

    Args:
      path: the PNG to write.
      images: (q, 1 + k, side, side, 3) uint8: each query, then its neighbours, nearest first.
      labels: (q, 1 + k) integer classes of the same.
      ahead: (q,) how many images of other classes come before the query's first of its own.
      similarity: (q, k) cosines.
      names: the names of the classes.
    """
    count, width = labels.shape
    height = 1.5 * count + 0.15
    figure = matplotlib.figure.Figure(figsize=(1.15 * width, height))
    # Automatic layout of so many axes would take seconds.
    edges = {"left": 0.005, "right": 0.995, "top": 1 - 0.25 / height, "bottom": 0.25 / height}
    grid = figure.subplots(count, width, squeeze=False, gridspec_kw={**edges, "wspace": 0.06, "hspace": 0.4})
    for i, k in np.ndindex(count, width):
        ax: Any = grid[i, k]
        ax.imshow(images[i, k])
        ax.set(xticks=[], yticks=[])
        right = labels[i, k] == labels[i, 0]
        for spine in ax.spines.values():
            spine.set(lw=0 if k == 0 else 2.2, color=_RIGHT if right else _WRONG, ls="-" if right else (0, (3, 2)))
        if k == 0:
            _write_class(ax, names, int(labels[i, 0]), _NARROW, bbox=_QUERY)
            ax.set_xlabel(f"{ahead[i]:,} ahead" if ahead[i] >= 0 else "alone", fontsize=8)
        else:
            colour = _RIGHT if right else _WRONG
            _write_class(ax, names, int(labels[i, k]), _NARROW, mark="✓ " if right else "✗ ", color=colour)
            ax.set_xlabel(f"{similarity[i, k - 1]:.3f}", fontsize=8)
    _save(figure, path)


def draw_map(path: Path, map_: planes.Map, labels: np.ndarray) -> None:
    """Draws (n, 2) positions. A class (n,) has a colour and a marker; many classes share them."""
    classes, index = np.unique(labels, return_inverse=True)
    figure = matplotlib.figure.Figure(figsize=(8, 6.4), layout="constrained")
    ax = figure.add_subplot()
    looks = min(len(classes), len(COLOURS) * len(MARKERS))
    for look in range(looks):
        colour, marker = COLOURS[look % len(COLOURS)], MARKERS[look // len(COLOURS)]
        ax.scatter(*map_.positions[index % looks == look].T, s=14, color=colour, marker=marker, lw=0, alpha=0.85)
    shared = f", which share {looks} looks" if looks < len(classes) else ""
    ax.set(title=f"{len(labels):,} test images of {len(classes)} classes{shared} ({map_.method})", xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[:].set_visible(False)
    _save(figure, path)


def draw_points(path: Path, anchor: np.ndarray, positive: np.ndarray, synthesis: Callable) -> None:
    """Draws the real and synthetic points of a few classes, normalised, on their first two principal components.

    Args:
      path: the PNG to write.
      anchor: (n, dim) embeddings, n <= 8 classes.
      positive: (n, dim), of the same classes.
      synthesis: (anchor, positive) -> coefficients (n, points, 2).
    """
    positions, axis = planes.synthesise(anchor, positive, synthesis)
    figure = matplotlib.figure.Figure(figsize=(7, 5.2), layout="constrained")
    ax = figure.add_subplot()
    for i in range(len(positions)):
        colour, real, made = COLOURS[i], positions[i, :2], positions[i, 2:]
        for point, k in zip(made, axis[i], strict=True):
            ax.plot(*np.stack([real[k], point]).T, color=colour, lw=0.8, alpha=0.4, zorder=1)
        ax.scatter(*real.T, color=colour, s=70, zorder=3)
        ax.scatter(*made.T, facecolor="white", edgecolor=colour, s=70, lw=1.6, zorder=2)
    ax.scatter([], [], color="grey", s=70, label="real: anchor and positive")
    ax.scatter([], [], facecolor="white", edgecolor="grey", s=70, lw=1.6, label="synthetic")
    ax.legend(loc="best", frameon=False)
    ax.set(title=f"{len(positions)} classes, one colour per class", xlabel="first principal component", ylabel="second")
    ax.set_aspect("equal", adjustable="datalim")
    _plain(ax)
    _save(figure, path)


def draw_comparison(path: Path, rows: Sequence[dict]) -> None:
    """Draws the first metric of a comparison: one dot per seed, mean and 95 % interval per method."""
    rows = [row for row in rows if row["metric"] == rows[0]["metric"]]
    protocols = list(dict.fromkeys(row["validation_classes"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = matplotlib.figure.Figure(figsize=(1.5 + 4 * len(protocols), 4.4), layout="constrained")
    axes = figure.subplots(1, len(protocols), sharey=True, squeeze=False)[0]
    for ax, protocol in zip(axes, protocols, strict=True):
        shown = [row for row in rows if row["validation_classes"] == protocol]
        ways = list(dict.fromkeys(row["chosen"] for row in shown))
        for row in shown:
            index = methods.index(row["method"])
            x = ways.index(row["chosen"]) + 0.5 * (index - (len(methods) - 1) / 2) / max(1, len(methods) - 1)
            values = 100 * np.asarray(row["values"])
            ax.scatter(
                x + np.linspace(-0.05, 0.05, len(values)),
                values,
                s=14,
                color=COLOURS[index % len(COLOURS)],
                alpha=0.45,
                lw=0,
            )
            half = np.nan_to_num(100 * row["half"])
            label = row["method"] if row["chosen"] == ways[0] else None
            ax.errorbar(
                x, 100 * row["mean"], half, fmt="o", color=COLOURS[index % len(COLOURS)], capsize=4, ms=6, label=label
            )
        ax.set_xticks(range(len(ways)), [textwrap.fill(best.MEANINGS[way], 16) for way in ways])
        ax.set_xlim(-0.6, len(ways) - 0.4)
        ax.set_title("all training classes" if not protocol else f"{protocol} training classes held out")
        _plain(ax)
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel(f"{rows[0]['metric']}, %")
    axes[0].legend(frameon=False)
    _save(figure, path)


def draw_calibration(
    path: Path,
    same: np.ndarray,
    different: np.ndarray,
    fmr: np.ndarray,
    fnmr: np.ndarray,
    levels: Mapping[str, tuple[float, float, float]],
) -> None:
    """Draws the similarities of the pairs of one class and of different classes, and FNMR over FMR.

    Args:
      path: the PNG to write.
      same: (n,) numbers of pairs of one class, in n - 1 equal bins of similarity from -1 to 1, and one bin of 1.
      different: the same for pairs of different classes.
      fmr: (n + 1,) false match rate where the threshold is the lower edge of each bin, and above the last one.
      fnmr: (n + 1,) false non-match rate, likewise.
      levels: text for the legend -> threshold, FMR and FNMR, to be marked.
    """
    figure = matplotlib.figure.Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    filled = np.flatnonzero(same + different)
    low, high = (filled[[0, -1]] + [0, 1]) / ((len(same) - 1) / 2) - 1
    edges = np.linspace(low, high, _SIMILARITIES + 1)
    bounds = np.clip(np.round((edges + 1) * ((len(same) - 1) / 2)).astype(int), 0, len(same))
    for bins, colour, label in [
        (different, _WRONG, "pairs of different classes"),
        (same, _RIGHT, "pairs of one class"),
    ]:
        shares = np.diff(np.append(0, np.cumsum(bins))[bounds]) / bins.sum()
        left.stairs(shares, edges, color=colour, fill=True, alpha=0.25)
        left.stairs(shares, edges, color=colour, lw=1.5, label=label)
    right.plot(*(rate[_steps(fmr)] for rate in (fmr, fnmr)), color="black", lw=1.5)
    for (label, (similarity, x, y)), style, marker in zip(levels.items(), (":", "--"), MARKERS, strict=False):
        left.axvline(similarity, color="grey", lw=1.2, ls=style, label=f"{similarity:.3f}: FMR {label}")
        right.plot([x], [y], marker, color="grey", ms=7, label=f"FMR {label}: FNMR {100 * y:.1f} %")
    highest = left.get_ylim()[1]
    left.set(title="similarities", xlabel="cosine similarity", ylabel="fraction of the pairs", ylim=(0, 1.3 * highest))
    right.set(title="what each threshold costs", xlabel="FMR", ylabel="FNMR", xscale="log", ylim=(0, 1))
    right.set_xlim(max(right.get_xlim()[0], _LOWEST_FMR), 1)
    for ax, decimals in ((left, 1), (right, 0)):
        ax.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals))
        _plain(ax)
    right.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{100 * x:g} %"))
    right.grid(alpha=0.3)
    left.legend(loc="upper center", ncols=2, edgecolor="none", fontsize="small")
    right.legend(edgecolor="none", fontsize="small")
    _save(figure, path)


def _steps(fmr: np.ndarray) -> np.ndarray:
    """Some of the edges, close to each other on a logarithmic axis, down to the lowest FMR that is not 0."""
    wanted = np.geomspace(fmr[fmr > 0].min(), 1, 400)
    return np.unique(np.searchsorted(-fmr, -wanted))


def _save(figure: matplotlib.figure.Figure, path: Path) -> None:
    """Writes the PNG atomically: an earlier one stays until the new one is complete.

    Raises:
      OSError: it cannot be written, for example because the disk is full. The error names the path.
    """
    with files.new_file(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png")


def _write_class(ax: Any, names: Names, label: int, width: int, mark: str = "", **style: Any) -> None:
    """Writes a class's name above a picture, without its middle where it is long.

    A name with a character that the fonts lack is replaced by the class's number.
    """
    name = names.of_class(label)
    if not set(map(ord, name)) <= _characters():
        name = NUMBERS.of_class(label)
    if len(name) > width:
        name = f"{name[: width // 2]}…{name[-((width - 1) // 2) :]}"
    ax.set_title(f"{mark}{name}", fontsize=8, family=_FONTS, parse_math=False, **style)


@functools.cache
def _characters() -> set[int]:
    """The code points that figures can show."""
    fonts = (matplotlib.font_manager.get_font(matplotlib.font_manager.findfont(name)) for name in _FONTS)
    return set().union(*(font.get_charmap() for font in fonts)) - {ord("\n"), ord("\r")}


def _plain(ax) -> None:
    ax.spines[["top", "right"]].set_visible(False)
