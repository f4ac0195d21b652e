"""Draws docs/synthesis.png: what each synthesis makes from the same images of two classes.

python docs/draw_synthesis.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from symm_jax import queues, similarity, synthesis
from symm_jax.losses import candidates, mining
from symm_jax.synthesis import classes, mixtures

DEGREES = np.array([[3, 21], [88, 112]])  # anchor and positive of two classes, on the unit circle
PROXIES, PAST = np.array([30, 76]), np.array([44, 58])  # of the two classes, and those of a past step
COLOURS, NEW = ("#1f6fb4", "#c8500a"), "#6b4c9a"
POINTS = {
    "symmetric: mirror images": (synthesis.symmetric, ["$a$", "$p$", "$p$ about $a$", "$a$ about $p$"]),
    "interpolated: Embedding Expansion": (synthesis.interpolated, ["$a$", "$p$", "1/3", "2/3"]),
}
KEYS = {"simix": jax.random.key(1), "metrix": jax.random.key(3), "classes": jax.random.key(13)}  # typical draws


def on_circle(degrees):
    """Unit vectors (..., 2)."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=-1).astype(np.float32)


X, LABELS = on_circle(DEGREES).reshape(4, 2), np.array([0, 0, 1, 1], np.int32)  # images in turn


def draw_points(ax, function, names):
    anchor, positive = on_circle(DEGREES[:, 0]), on_circle(DEGREES[:, 1])
    points = np.asarray(synthesis.points(function(anchor, positive), anchor, positive))
    pairs = mining.create_points(jnp.asarray(anchor), jnp.asarray(positive), function)
    _, winners = mining.find_hardest(pairs, pairs, candidates.Rule(candidates.lookup_pairs("product", 4)))
    k, l = divmod(int(winners[0, 1]), 16)
    for colour, made in zip(COLOURS, points, strict=True):
        for axis in made[:2]:
            ax.plot(*np.stack([0 * axis, axis]).T, color=colour, lw=0.8, ls=(0, (1, 2)), zorder=1)
        mark(ax, made[2:], colour, made=True)
        for point, text in zip(made, names, strict=True):
            name(ax, point, text, colour)
    for (x, y), style in (((0, 1), ":"), ((k, l), "-")):
        ax.plot(*np.stack([points[0, x], points[1, y]]).T, color="0.25", ls=style, lw=1.4, zorder=2)


def draw_simix(ax):
    positions = jnp.arange(4)
    made, _ = mixtures.create_virtual(
        synthesis.SiMix(KEYS["simix"]), jnp.asarray(X), jnp.asarray(LABELS), positions, None
    )
    for c, colour in enumerate(COLOURS):
        ax.plot(*X[c == LABELS].T, color=colour, lw=0.8, zorder=1)
        mark(ax, np.asarray(made)[c == LABELS], colour, made=True)
    name(ax, made[1], "virtual images\nof one class", COLOURS[0], 0.68)


def draw_metrix(ax):
    rows = mixtures.draw_mixed_rows(
        synthesis.Metrix(KEYS["metrix"]), jnp.asarray(X), jnp.asarray(LABELS), jnp.arange(4), None, distance=False
    )
    share = float(rows.shares[0, 0])
    for negative in X[2:]:
        mixture = share * X[1] + (1 - share) * negative
        ax.plot(*np.stack([X[1], negative]).T, color=NEW, lw=0.8, ls=(0, (1, 2)), zorder=1)
        ax.plot(*np.stack([X[0], mixture]).T, color="0.25", lw=1, zorder=1)
        mark(ax, mixture[None], NEW, made=True)
    name(ax, X[0], "$a$", COLOURS[0])
    name(ax, X[1], "$p$", COLOURS[0])
    name(ax, mixture, f"{share:.0%} positive,\n{1 - share:.0%} negative of $a$", NEW, 0.42)


def real_classes():
    return classes.Classes(jnp.asarray(X), jnp.asarray(LABELS), jnp.asarray(on_circle(PROXIES)), number=4)


def draw_proxy_synthesis(ax):
    made = classes.extend(synthesis.ProxySynthesis(KEYS["classes"]), real_classes(), l2_normalize=True, axis_name=None)
    draw_new(ax, made, "new classes:\nimages and proxies", 0.66)


def draw_memvir(ax):
    past = on_circle(DEGREES.reshape(4) + np.array([9, 9, -9, -9])), LABELS, on_circle(PAST)
    queue = queues.push(queues.create(past, 1), jax.tree.map(lambda x: jnp.asarray(x)[None], past))
    memvir = synthesis.MemVir(queue, steps=1, gap=0)
    made = classes.extend(memvir, real_classes(), l2_normalize=True, axis_name=None)
    draw_new(ax, made, "images and proxies\nof a past step", 0.66)


def draw_new(ax, made, text, radius):
    """Real proxies, and the rows and proxies that a synthesis of classes has added to X and PROXIES."""
    for proxy, colour in zip(np.asarray(made.proxies[:2]), COLOURS, strict=True):
        mark(ax, proxy[None], colour, marker="*")
        name(ax, proxy, "proxy", colour)
    mark(ax, np.asarray(made.embeddings[4:]), NEW, made=True)
    mark(ax, np.asarray(made.proxies[2:]), NEW, marker="*", made=True)
    name(ax, np.asarray(similarity.normalize(jnp.mean(made.proxies[2:], axis=0))), text, NEW, radius)


def mark(ax, points, colour, *, marker="o", made=False):
    """Points: filled for real ones, hollow for those that a synthesis made."""
    size = 190 if marker == "*" else 70
    face = "white" if made else colour
    ax.scatter(*points.T, facecolor=face, edgecolor=colour, s=size, lw=1.6, zorder=4 if made else 3, marker=marker)


def name(ax, point, text, colour, radius=1.1):
    side = "left" if point[0] > 0.3 else "right" if point[0] < -0.3 else "center"
    side = side if radius > 1 else "center"
    ax.annotate(
        text, np.asarray(point) * radius / np.linalg.norm(point), ha=side, va="center", fontsize=9, color=colour
    )


PANELS = {title: (lambda ax, given=given: draw_points(ax, *given)) for title, given in POINTS.items()} | {
    "SiMix": draw_simix,
    "Metrix": draw_metrix,
    "Proxy Synthesis": draw_proxy_synthesis,
    "MemVir": draw_memvir,
}


def main():
    figure = matplotlib.figure.Figure(figsize=(10, 11), layout="constrained")
    for ax, (title, draw) in zip(figure.subplots(3, 2).flat, PANELS.items(), strict=True):
        turn = np.linspace(-0.45, 2.5, 200)
        ax.plot(np.cos(turn), np.sin(turn), color="0.85", lw=1, zorder=0)
        for c, colour in enumerate(COLOURS):
            mark(ax, X[c == LABELS], colour)
        draw(ax)
        ax.set(title=title, xlim=(-1.25, 1.5), ylim=(-0.4, 1.25))
        ax.set_aspect("equal")
        ax.axis("off")
    figure.savefig(Path(__file__).with_name("synthesis.png"), dpi=110)


if __name__ == "__main__":
    main()
