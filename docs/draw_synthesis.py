"""Draws docs/synthesis.png: the points of each synthesis for two classes, and the hardest pair of these points.

python docs/draw_synthesis.py
"""

from pathlib import Path

import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from symm_jax import synthesis
from symm_jax.losses import candidates, mining

DEGREES = [[3, 21], [88, 112]]  # anchor and positive of two classes, on the unit circle
COLOURS = ("#1f6fb4", "#c8500a")
SYNTHESES = {
    "symmetric: mirror images": (synthesis.symmetric, ["$a$", "$p$", "$p$ about $a$", "$a$ about $p$"]),
    "interpolated: Embedding Expansion": (synthesis.interpolated, ["$a$", "$p$", "1/3", "2/3"]),
}


def draw(ax, title, function, names):
    angles = np.radians(DEGREES)
    anchor, positive = (jnp.stack([np.cos(x), np.sin(x)], axis=1) for x in angles.T)
    points = np.asarray(synthesis.points(function(anchor, positive), anchor, positive))
    classes = mining.create_points(anchor, positive, function)
    _, winners = mining.find_hardest(classes, classes, candidates.Rule(candidates.lookup_pairs("product", 4)))
    k, l = divmod(int(winners[0, 1]), 16)

    turn = np.linspace(-0.45, 2.5, 200)
    ax.plot(np.cos(turn), np.sin(turn), color="0.85", lw=1, zorder=0)
    for colour, made, name in zip(COLOURS, points, ("class $i$", "class $j$"), strict=True):
        for axis in made[:2]:
            ax.plot(*np.stack([0 * axis, axis]).T, color=colour, lw=0.8, ls=(0, (1, 2)), zorder=1)
        ax.scatter(*made[:2].T, color=colour, s=80, zorder=3, label=f"{name}: real")
        ax.scatter(*made[2:].T, facecolor="white", edgecolor=colour, s=80, lw=1.8, zorder=3, label=f"{name}: synthetic")
        for point, text in zip(made, names, strict=True):
            side = "left" if point[0] > 0.3 else "right" if point[0] < -0.3 else "center"
            ax.annotate(text, 1.08 * point, ha=side, va="center_baseline", fontsize=10, color=colour)
    for (x, y), style, text in (((0, 1), ":", "original pair"), ((k, l), "-", "hardest pair")):
        ax.plot(*np.stack([points[0, x], points[1, y]]).T, color="0.25", ls=style, lw=1.4, zorder=2, label=text)
    ax.set(title=title, xlim=(-1.25, 1.5), ylim=(-0.4, 1.2))
    ax.set_aspect("equal")
    ax.axis("off")


def main():
    figure = matplotlib.figure.Figure(figsize=(10, 4.1), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, (title, (function, names)) in zip(axes, SYNTHESES.items(), strict=True):
        draw(ax, title, function, names)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(Path(__file__).with_name("synthesis.png"), dpi=120)


if __name__ == "__main__":
    main()
