"""Which checkpoint a run is judged by, how it was chosen, and the folder best/ that keeps it.

The paper's protocol takes the checkpoint that does best on the test classes, which measures the luck of the choice
too. With held-out training classes (`config.data.validation_classes`) they choose, and the test classes only judge.
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np

from symm_jax import files
from symm_jax.errors import InputError
from symm_jax.run import metric_log, paths

VALIDATION = "validation"
TEST = "test"
LAST = "last"
# How a checkpoint was chosen, in words.
MEANINGS = {
    VALIDATION: "chosen on held-out training classes",
    TEST: "best on the test classes",
    LAST: "last checkpoint",
}


def results(workdir: Path) -> list[dict]:
    """The evaluated checkpoints of a run by step: the last line that eval/metrics.jsonl has of each."""
    lines = {line["step"]: line for line in metric_log.read(paths.metrics(workdir, "eval"))}
    return [lines[step] for step in sorted(lines)]


def select(rows: list[dict], metric: str = "recall@1") -> dict[str, dict]:
    """The row (checkpoint) that each way of choosing takes: VALIDATION, where it was measured, TEST and LAST.

    The earliest of equals; a metric that is not finite is never chosen. Empty without rows.
    """
    if not rows:
        return {}

    def best(column):
        finite = [row for row in rows if math.isfinite(row.get(column, math.nan))]
        return max(finite, key=lambda row: row[column], default=None)

    chosen = {VALIDATION: best(f"{VALIDATION}/{metric}"), TEST: best(metric), LAST: rows[-1]}
    return {how: row for how, row in chosen.items() if row is not None}


def select_best(rows: list[dict], metric: str = "recall@1") -> tuple[str, dict] | None:
    """How the checkpoint in best/ is chosen, and its row: by validation where there is one, else by test."""
    chosen = select(rows, metric)
    return next(((how, chosen[how]) for how in (VALIDATION, TEST) if how in chosen), None)


def read(workdir: Path) -> dict | None:
    """best/choice.json: {"step", "chosen_by": "validation" or "test", "metric", "value", "meaning"}; None without.

    Raises:
      InputError: it is damaged.
    """
    path = paths.choice(workdir)
    if not path.exists():
        return None
    try:
        choice = json.loads(path.read_text())
        choice["value"] = float(choice["value"])
        choice["step"], choice["chosen_by"], choice["metric"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); delete {path.parent} and run --mode=eval again") from error
    return choice


def forget(workdir: Path, last_step: int) -> None:
    """Deletes best/ if it is of a step past `last_step`, which training is about to make again."""
    best = read(workdir)
    if best and best["step"] > last_step:
        shutil.rmtree(paths.best(workdir))


def keep(workdir: Path, how: str, row: dict, metric: str, embeddings: np.ndarray) -> None:
    """Copies a checkpoint's parameters to best/, with the embeddings of the test images and how it was chosen.

    best/ is laid out like a workdir, so that it can be evaluated as one, and is replaced as a whole.
    """
    step = row["step"]
    column = f"{VALIDATION}/{metric}" if how == VALIDATION else metric
    choice = {"step": step, "chosen_by": how, "metric": column, "value": row[column], "meaning": MEANINGS[how]}
    with files.new_directory(paths.best(workdir), replace=True) as folder:
        source = paths.checkpoint(workdir, step)
        shutil.copytree(source, paths.checkpoint(folder, step), ignore=shutil.ignore_patterns("opt_state"))
        shutil.copyfile(paths.config(workdir), paths.config(folder))
        np.save(folder / paths.embeddings(workdir).name, embeddings)
        (folder / paths.choice(workdir).name).write_text(json.dumps(choice, indent=2) + "\n")
