"""What a person looks at: the table of results and the picture of real and synthetic points."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import matplotlib.figure
import numpy as np

from symm_jax import similarity
from symm_jax import synthesis as syntheses


def table(rows: Sequence[dict], columns: Sequence[str]) -> str:
    """A text table of shares as percentages, a row a checkpoint, the highest first column marked."""
    best = max(row[columns[0]] for row in rows)
    lines = ["  ".join(["    step", *(f"{c:>9}" for c in columns)])]
    for row in rows:
        mark = "  * best on the test classes" if row[columns[0]] == best else ""
        lines.append("  ".join([f"{row['step']:8d}", *(f"{100 * row[c]:8.2f}%" for c in columns)]) + mark)
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
