"""Draws docs/collapse.png from the runs of three comparisons: what the length of embeddings does, and the synthesis.

    python docs/draw_collapse.py runs/collapse_glyphs runs/collapse_cars runs/cars

docs/study.md has the commands that make these runs.
"""

import sys
from pathlib import Path

import matplotlib.figure

from symm_jax.run import best, metric_log, paths

DATA = ("glyphs, random weights", "cars, random weights", "cars, ImageNet weights")
METHODS = {
    "raw_npair": ("N-pair", "#888888", "-"),
    "raw_symm_npair": ("Symm + N-pair", "#c8500a", "-"),
    "raw_symm_npair_original_positives": ("Symm + N-pair, original positives", "#1f6fb4", "-"),
    "symm_npair": ("Symm + N-pair, normalised, scale 16", "#2c8a4b", "--"),
}
ROWS = {
    "embedding_norm": "length of an embedding",
    "npair/synthetic_share": "synthetic winners",
    "recall@1": "Recall@1",
}


def rows(workdir: Path, metric: str) -> list[dict]:
    found = best.results(workdir) if metric == "recall@1" else metric_log.read(paths.metrics(workdir, "train"))
    return [row for row in found if metric in row] or [{"step": float("nan"), metric: float("nan")}]


def main(folders: list[Path]) -> None:
    figure = matplotlib.figure.Figure((11, 7.5), layout="constrained")
    axes = figure.subplots(len(ROWS), len(DATA), sharex="col")
    for column, (folder, title) in enumerate(zip(folders, DATA, strict=True)):
        axes[0, column].set_title(title)
        axes[-1, column].set_xlabel("step")
        for ax, (metric, name) in zip(axes[:, column], ROWS.items(), strict=True):
            for method, (label, colour, style) in METHODS.items():
                for workdir in sorted((folder / method).glob("validation*/seed*"))[:1]:  # one seed is enough here
                    points = [(row["step"], row[metric]) for row in rows(workdir, metric)]
                    marker = "o" if metric == "recall@1" else ""
                    ax.plot(*zip(*points, strict=True), style, marker=marker, ms=4, color=colour, label=label)
            if metric == "embedding_norm":
                ax.set_yscale("log")
            else:
                ax.set_ylim(0, 1)
                ax.yaxis.set_major_formatter("{x:.0%}")
            if column == 0:
                ax.set_ylabel(name)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(Path(__file__).with_name("collapse.png"), dpi=110)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
