"""--mode=compare: runs every method with every seed and protocol; means, intervals and paired differences."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
import scipy.stats

from symm_jax import files, report
from symm_jax.app import checks, fetch
from symm_jax.data import splits
from symm_jax.errors import InputError, lookup
from symm_jax.evaluation.evaluate import evaluate
from symm_jax.evaluation.protocol import create_protocol
from symm_jax.run import best, config_json, paths
from symm_jax.run import workdir as workdirs
from symm_jax.training.recipe import create_plan, create_recipe
from symm_jax.training.train import load_data, train


class Run(NamedTuple):
    """One training run: method, number of held-out classes, seed, config and workdir."""

    method: str
    held_out: int
    seed: int
    config: ml_collections.ConfigDict
    workdir: Path


class Estimate(NamedTuple):
    """Mean over the seeds, and half the width of its 95 % interval (Student's t; NaN for one seed)."""

    mean: float
    half_width: float


def compare(comparison: ml_collections.ConfigDict, workdir: Path) -> list[str]:
    """Trains and evaluates every run of a comparison, one after the other. Then prints and draws the result.

    Finished runs are not repeated. An interrupted run continues.

    Args:
      comparison: `methods` (name -> config of a run), `baseline` (the one that the others are compared with, or a
        mapping from method to baseline), `seeds`, and `validation_classes`, a tuple: 0 for the paper's protocol, a
        number of training classes to hold out, whose images choose the checkpoint.
      workdir: holds METHOD/validationN/seedS, a workdir each, comparison.json and comparison.png.

    Returns:
      What could not be measured, one sentence per checkpoint.

    Raises:
      InputError: a mistake in the comparison or in one of its configs, found before the first run.
    """
    runs = plan(comparison, workdir)
    fetch.fetch_missing({run.workdir: run.config for run in runs})
    _check_data(runs)
    faults = []
    for number, run in enumerate(runs, 1):
        print(f"\nrun {number} of {len(runs)}: {run.method}, {run.held_out} classes held out, seed {run.seed}")
        workdirs.check_config(run.workdir, config_json.to_dict(run.config))
        if not _is_trained(run):
            train(run.config, run.workdir)
        faults += evaluate(run.config, [run.workdir])
    rows = summarise(comparison, runs)
    if not rows:
        return faults
    # JSON has no NaN.
    plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
    files.write_text(paths.comparison(workdir), json.dumps(plain, indent=2, allow_nan=False) + "\n")
    report.draw_comparison(paths.comparison_figure(workdir), rows)
    print(f"\n{table(rows)}\n\nwritten to {workdir}: comparison.json comparison.png")
    return faults


def plan(comparison: ml_collections.ConfigDict, workdir: Path) -> list[Run]:
    """The runs of a comparison, checked: seed by seed, so that an interrupted one is balanced; each baseline first."""
    baselines = _baselines(comparison)
    for field in ("seeds", "validation_classes"):
        values = comparison[field]
        if not values or len(set(values)) < len(values):
            raise InputError(f"config.{field} = {tuple(values)}: at least one is needed, and none twice")
    if len({tuple(create_protocol(config).columns) for config in comparison.methods.values()}) > 1:
        raise InputError("config.methods: all must have the same recall_ks and clustering, to be compared by the same")
    methods = sorted(comparison.methods, key=lambda m: (baselines.get(m, m), m in baselines, m))
    runs = []
    for seed in comparison.seeds:
        for held_out in comparison.validation_classes:
            for method in methods:
                config = comparison.methods[method].copy_and_resolve_references()
                config.seed, config.data.validation_classes = seed, held_out
                checks.validate(config, jax.local_device_count())
                create_recipe(config)
                runs.append(
                    Run(method, held_out, seed, config, workdir / method / f"validation{held_out}" / f"seed{seed}")
                )
    return runs


def _is_trained(run: Run) -> bool:
    return (workdirs.finished(run.workdir) or 0) >= run.config.num_steps


def _check_data(runs: Sequence[Run]) -> None:
    """Loads the data of every method to train, so that one that cannot train on it ends no comparison half-way.

    Raises:
      InputError: a method cannot train on its data, or runs have other test images than those before them.
    """
    test_data = {
        run.workdir: {what: x for what, x in workdirs.read_data(run.workdir).items() if what.startswith("test ")}
        for run in runs
    }
    ahead = [run for run in runs if not _is_trained(run)]
    for run in {(run.method, run.held_out): run for run in ahead}.values():
        try:
            _, test, *_ = load_data(create_plan(run.config))
        except InputError as error:
            raise InputError(f"config.methods.{run.method}, with {run.held_out} classes held out: {error}") from error
        test_data[run.workdir] = splits.fingerprint("test", test)
    found: dict[tuple[str, bool], tuple[str, Path]] = {}
    for run in runs:
        for what, fingerprint in test_data[run.workdir].items():
            expected, first = found.setdefault((what, run.config.data.crop), (fingerprint, run.workdir))
            if fingerprint != expected:
                raise InputError(
                    f"the runs are not comparable: the {what} of {first} is {expected}, and that of {run.workdir} is "
                    f"{fingerprint}. Restore the original data, or pass another --workdir.",
                    argument="workdir",
                )


def summarise(comparison: ml_collections.ConfigDict, runs: Sequence[Run]) -> list[dict]:
    """The result of every protocol, way of choosing a checkpoint, metric and method, from the runs' metric files.

    Returns:
      [{"validation_classes", "chosen", "metric", "method", "seeds", "values" (one a seed), "mean", "half",
      "difference", "difference_half"}]; the differences are method minus its baseline, over the seeds that were
      measured of both, NaN for a method that has none.
    """
    baselines = _baselines(comparison)
    found: dict[tuple, dict[str, dict[int, float]]] = {}
    for run in runs:
        protocol = create_protocol(run.config)
        # A run that went further once is compared at the length that is asked for.
        within = [row for row in best.results(run.workdir) if row["step"] <= run.config.num_steps]
        chosen = best.select(within, protocol.main_metric)
        for how, row in chosen.items():
            for metric in protocol.columns:
                if metric in row and not metric.startswith(best.VALIDATION):
                    group = found.setdefault((run.held_out, how, metric), {})
                    group.setdefault(run.method, {})[run.seed] = row[metric]
    rows = []
    for (held_out, how, metric), methods in found.items():
        for method, values in methods.items():
            mean, half = interval(list(values.values()))
            row = {"validation_classes": held_out, "chosen": how, "metric": metric, "method": method}
            row |= {"seeds": list(values), "values": list(values.values()), "mean": mean, "half": half}
            row |= {"difference": math.nan, "difference_half": math.nan}
            against = methods.get(baselines.get(method, ""), {})
            if differences := [value - against[seed] for seed, value in values.items() if seed in against]:
                row["difference"], row["difference_half"] = interval(differences)
            rows.append(row)
    return rows


def _baselines(comparison: ml_collections.ConfigDict) -> dict[str, str]:
    """{method: the one that it is compared with}; InputError for names that are no methods."""
    named, methods = comparison.baseline, comparison.methods.to_dict()
    found = {method: named for method in methods if method != named} if isinstance(named, str) else named.to_dict()
    for method in (*found, *found.values()):
        lookup("method in config.baseline", method, methods)
    return found


def interval(values: Sequence[float]) -> Estimate:
    """Mean and half width of the 95 % confidence interval of the mean, by Student's t.

    Args:
      values: (n,), n >= 1; the half width of one value is NaN.

    Example:
      >>> estimate = interval([1.0, 2.0, 3.0])
      >>> round(estimate.mean, 3), round(estimate.half_width, 3)
      (2.0, 2.484)
    """
    n = len(values)
    spread = np.std(values, ddof=1) / n**0.5 if n > 1 else math.nan
    return Estimate(float(np.mean(values)), float(scipy.stats.t.ppf(0.975, n - 1) * spread) if n > 1 else math.nan)


def table(rows: Sequence[dict]) -> str:
    """A Markdown table in per cent: means, 95 % intervals, and in brackets the paired difference to its baseline."""
    metrics = [m for m in dict.fromkeys(row["metric"] for row in rows) if m in ("map@r", "nmi")]
    metrics.insert(0, rows[0]["metric"])
    lines = [f"| classes held out | checkpoint | method | {' | '.join(metrics)} |", "|---" * (3 + len(metrics)) + "|"]
    for key in dict.fromkeys((row["validation_classes"], row["chosen"], row["method"]) for row in rows):
        cells = []
        for metric in metrics:
            (row,) = (
                r for r in rows if (r["validation_classes"], r["chosen"], r["method"], r["metric"]) == (*key, metric)
            )
            cell = _per_cent(row["mean"], row["half"], "")
            if math.isfinite(row["difference"]):
                cell += f" ({_per_cent(row['difference'], row['difference_half'], '+')})"
            cells.append(cell)
        lines.append(f"| {key[0]} | {best.MEANINGS[key[1]]} | {key[2]} | {' | '.join(cells)} |")
    fewest, most = (f(len(row["seeds"]) for row in rows) for f in (min, max))
    number = f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds, because some were not measured"
    meaning = f"mean ± 95 % interval of {number}" if most > 1 else "one seed"
    lines += ["", f"Per cent, {meaning}; in brackets the difference to its baseline, seed by seed."]
    return "\n".join(lines)


def _per_cent(value: float, half: float, sign: str) -> str:
    return f"{100 * value:{sign}.2f}" + (f" ± {100 * half:.2f}" if math.isfinite(half) else "")
