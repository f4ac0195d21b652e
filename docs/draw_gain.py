"""Draws docs/gain.png and prints its table from the runs of configs/compare/cars_npair_long.py: the gain over time.

    python docs/draw_gain.py runs/cars_long

docs/study.md has the command that makes these runs.
"""

import sys
from pathlib import Path

import matplotlib.figure
import numpy as np
import scipy.stats

from symm_jax.run import best, metric_log, paths

METHODS = {"npair": ("N-pair", "#888888"), "symm_npair": ("Symm + N-pair", "#c8500a")}
METRICS = {"recall@1": "Recall@1", "map@r": "MAP@R", "nmi": "NMI"}
SHARE = "npair/synthetic_share"


def read(folder: Path, method: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps (t,), and the metric in per cent by seed (seeds, t)."""
    seeds = []
    for workdir in sorted((folder / method).glob("validation*/seed*")):
        rows = metric_log.read(paths.metrics(workdir, "train")) if metric == SHARE else best.results(workdir)
        seeds.append([(row["step"], 100 * row[metric]) for row in rows])
    seeds = np.array(seeds)
    return seeds[0, :, 0].astype(int), seeds[:, :, 1]


def half(values: np.ndarray) -> np.ndarray:
    """Half the width of the 95 % interval of the mean over seeds (seeds, t)."""
    return scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)


def main(folder: Path) -> None:
    figure = matplotlib.figure.Figure((11, 6), layout="constrained")
    axes = figure.subplots(2, len(METRICS), sharex=True)
    columns = {}
    for (above, below), (metric, title) in zip(axes.T, METRICS.items(), strict=True):
        values = {}
        for method, (label, colour) in METHODS.items():
            steps, values[method] = read(folder, method, metric)
            above.plot(steps, values[method].T, color=colour, alpha=0.3, lw=1)
            above.plot(steps, values[method].mean(0), color=colour, lw=2.5, label=label)
        gain = values["symm_npair"] - values["npair"]
        middle, wide = gain.mean(0), half(gain)
        later = gain[:, steps > steps[-1] / 2].mean(1, keepdims=True)
        rows = [*zip(middle, wide, strict=True), (later.mean(), half(later)[0])]
        columns[metric] = [f"{m:+.2f} ± {w:.2f}" for m, w in rows]
        below.axhline(0, color="black", lw=0.8)
        below.fill_between(steps, middle - wide, middle + wide, color="#c8500a", alpha=0.2, lw=0)
        below.plot(steps, middle, color="#c8500a", lw=2.5)
        above.set_title(title)
        below.set_xlabel("update")
    axes[0, 0].set_ylabel("per cent")
    axes[1, 0].set_ylabel("difference, points")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(Path(__file__).with_name("gain.png"), dpi=110)
    at, share = read(folder, "symm_npair", SHARE)
    print("| update | synthetic winners |", " | ".join(f"{title} gained" for title in METRICS.values()), "|")
    print("|---" * (2 + len(METRICS)) + "|")
    for row, step in enumerate([*steps, None]):
        when, winners = (step, share[:, at == step]) if step else ("mean of the second half", share[:, at > at[-1] / 2])
        print(f"| {when} | {winners.mean():.0f} % |", *[f"{c[row]} |" for c in columns.values()])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
