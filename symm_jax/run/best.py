"""Which checkpoint represents a run, how it is selected, and the folder best/ that keeps a copy of it.

The paper selects the checkpoint that is best on the test classes. This is optimistic: the measured value contains the
luck of the selection. With held-out training classes (`validation_classes`) the checkpoint is selected on them, and
the test classes are only measured.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from symm_jax import files
from symm_jax.errors import InputError
from symm_jax.run import metric_log, paths

VALIDATION = "validation"
TEST = "test"
LAST = "last"
# The selection criteria in words.
MEANINGS = {
    VALIDATION: "chosen on held-out training classes",
    TEST: "best on the test classes",
    LAST: "last checkpoint",
}


def results(workdir: Path) -> list[dict[str, Any]]:
    """The evaluated checkpoints of a run by step. Of several lines of a step the last one counts."""
    lines = {line["step"]: line for line in metric_log.read(paths.metrics(workdir, "eval"))}
    return [lines[step] for step in sorted(lines)]


def select(rows: Sequence[dict[str, Any]], metric: str = "recall@1") -> dict[str, dict[str, Any]]:
    """The row (checkpoint) that each criterion selects: VALIDATION, where it was measured, TEST and LAST.

    Of equal rows the earliest is selected. A value that is not finite is never selected. Without rows the result is
    empty.
    """
    if not rows:
        return {}

    def best(column: str) -> dict[str, Any] | None:
        finite = [row for row in rows if math.isfinite(row.get(column, math.nan))]
        return max(finite, key=lambda row: row[column], default=None)

    selected = {VALIDATION: best(f"{VALIDATION}/{metric}"), TEST: best(metric), LAST: rows[-1]}
    return {criterion: row for criterion, row in selected.items() if row is not None}


def select_best(rows: Sequence[dict[str, Any]], metric: str = "recall@1") -> tuple[str, dict[str, Any]] | None:
    """The criterion for best/ and the row that it selects: validation where it was measured, else test."""
    selected = select(rows, metric)
    return next(((criterion, selected[criterion]) for criterion in (VALIDATION, TEST) if criterion in selected), None)


def read(workdir: Path) -> dict[str, Any] | None:
    """The content of best/choice.json; None without the file.

    Returns:
      {"step", "chosen_by": "validation" or "test", "metric", "value", "meaning"}.

    Raises:
      InputError: the file is damaged.
    """
    path = paths.choice(workdir)
    if not path.exists():
        return None
    try:
        choice = json.loads(path.read_text())
        choice["value"] = float(choice["value"])
        _ = choice["step"], choice["chosen_by"], choice["metric"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); evaluate again: --mode=eval writes it") from error
    return choice


def forget(workdir: Path, last_step: int) -> None:
    """Deletes best/ if it is of a step after `last_step`, which training is about to repeat."""
    choice = read(workdir)
    if choice and choice["step"] > last_step:
        shutil.rmtree(paths.best(workdir))


def keep(workdir: Path, criterion: str, row: Mapping[str, Any], metric: str, embeddings: np.ndarray) -> None:
    """Copies a checkpoint's parameters to best/, with the embeddings of the test images and how it was selected.

    best/ is laid out like a workdir, so that it can be evaluated as one. It is replaced as a whole.
    """
    step = row["step"]
    column = f"{VALIDATION}/{metric}" if criterion == VALIDATION else metric
    choice = {"step": step, "chosen_by": criterion, "metric": column, "value": row[column]}
    choice["meaning"] = MEANINGS[criterion]
    with files.new_directory(paths.best(workdir), replace=True) as folder:
        source = paths.checkpoint(workdir, step)
        shutil.copytree(source, paths.checkpoint(folder, step), ignore=shutil.ignore_patterns("opt_state"))
        shutil.copyfile(paths.config(workdir), paths.config(folder))
        np.save(folder / paths.embeddings(workdir).name, embeddings)
        (folder / paths.choice(workdir).name).write_text(json.dumps(choice, indent=2) + "\n")
