"""What a person looks at: the table of results and the picture of real and synthetic points."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import matplotlib.figure
import numpy as np

from symm_jax import selection, similarity
from symm_jax import synthesis as syntheses


def table(rows: Sequence[dict], columns: Sequence[str]) -> str:
    """A text table of shares as percentages, a row a checkpoint, and below it the checkpoints that can be reported.

    The first column decides.
    """
    if not rows:
        return "no checkpoint has been evaluated"
    widths = [max(9, len(column) + 2) for column in columns]
    lines = ["    step" + "".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True))]
    for row in rows:
        cells = (
            f"{100 * row[c]:{w - 1}.2f}%" if c in row else f"{'-':>{w}}" for c, w in zip(columns, widths, strict=True)
        )
        lines.append(f"{row['step']:8d}" + "".join(cells))
    lines.append("")
    for how, row in selection.choose(rows, columns[0]).items():
        caution = ", optimistic: chosen by what it measures" if how == selection.TEST else ""
        lines.append(
            f"  step {row['step']:<6} {columns[0]} {100 * row[columns[0]]:.2f}%  {selection.MEANINGS[how]}{caution}"
        )
    return "\n".join(lines)


def draw_points(path: Path, anchor: np.ndarray, positive: np.ndarray, synthesis: Callable) -> None:
    """Draws the real and synthetic points of a few classes, normalised, on their first two principal components.

    Args:
      path: the PNG to write.
      anchor: (n, dim) embeddings, n <= 10 classes.
      positive: (n, dim), of the same classes.
      synthesis: (anchor, positive) -> coefficients (n, points, 2).
    """
    anchor, positive = (
        similarity.normalize(jax.numpy.asarray(anchor)),
        similarity.normalize(jax.numpy.asarray(positive)),
    )
    points = np.asarray(syntheses.points(synthesis(anchor, positive), anchor, positive))
    n, count, dim = points.shape
    flat = points.reshape(-1, dim)
    centred = flat - flat.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    plane = (centred @ axes.T).reshape(n, count, 2)

    figure = matplotlib.figure.Figure(figsize=(7, 5.2), layout="constrained")
    ax = figure.add_subplot()
    colours = matplotlib.colormaps["tab10"].colors
    for i in range(n):
        real, made = plane[i, :2], plane[i, 2:]
        for k, point in enumerate(made):
            # Each synthetic point is joined to the nearest real one: a mirror image to its axis.
            nearest = np.argmin(np.linalg.norm(points[i, :2] - points[i, 2 + k], axis=1))
            ax.plot(*np.stack([real[nearest], point]).T, color=colours[i], lw=0.8, alpha=0.4, zorder=1)
        ax.scatter(*real.T, color=colours[i], s=70, zorder=3)
        ax.scatter(*made.T, facecolor="white", edgecolor=colours[i], s=70, lw=1.6, zorder=2)
    ax.scatter([], [], color="grey", s=70, label="real: anchor and positive")
    ax.scatter([], [], facecolor="white", edgecolor="grey", s=70, lw=1.6, label="synthetic")
    ax.legend(loc="best", frameon=False)
    ax.set(title=f"{n} classes, a colour each", xlabel="first principal component", ylabel="second")
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def draw_comparison(path: Path, rows: Sequence[dict]) -> None:
    """Draws the rows of `compare.summarise` for their first metric: a dot a seed, mean and 95 % interval a method."""
    rows = [row for row in rows if row["metric"] == rows[0]["metric"]]
    protocols = list(dict.fromkeys(row["validation_classes"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = matplotlib.figure.Figure(figsize=(1.5 + 4 * len(protocols), 4.4), layout="constrained")
    axes = figure.subplots(1, len(protocols), sharey=True, squeeze=False)[0]
    colours = matplotlib.colormaps["tab10"].colors
    for ax, protocol in zip(axes, protocols, strict=True):
        shown = [row for row in rows if row["validation_classes"] == protocol]
        ways = list(dict.fromkeys(row["chosen"] for row in shown))
        for row in shown:
            index = methods.index(row["method"])
            x = ways.index(row["chosen"]) + 0.5 * (index - (len(methods) - 1) / 2) / max(1, len(methods) - 1)
            values = 100 * np.asarray(row["values"])
            ax.scatter(x + np.linspace(-0.05, 0.05, len(values)), values, s=14, color=colours[index], alpha=0.45, lw=0)
            half = np.nan_to_num(100 * row["half"])
            label = row["method"] if row["chosen"] == ways[0] else None
            ax.errorbar(x, 100 * row["mean"], half, fmt="o", color=colours[index], capsize=4, ms=6, label=label)
        ax.set_xticks(range(len(ways)), [selection.MEANINGS[way].replace(" on ", "\non ") for way in ways])
        ax.set_xlim(-0.6, len(ways) - 0.4)
        ax.set_title("all training classes" if not protocol else f"{protocol} training classes held out")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel(f"{rows[0]['metric']}, %")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)
