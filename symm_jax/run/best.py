"""Which checkpoint represents a run, how it is selected, and the folder best/ that keeps a copy of it.

The paper selects the checkpoint that is best on the test classes. This is optimistic: the measured value contains the
luck of the selection. With held-out training classes (`validation_classes`) the checkpoint is selected on them, and
the test classes are only measured.
"""

import functools
import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from symm_jax import errors, files
from symm_jax.errors import InputError
from symm_jax.run import digests, metric_log, paths

VALIDATION = "validation"
TEST = "test"
LAST = "last"
# The selection criteria in words.
MEANINGS = {
    VALIDATION: "chosen on held-out training classes",
    TEST: "best on the test classes",
    LAST: "last checkpoint",
}

_DIGEST, _OWN_DIGEST = "embeddings_sha256", "sha256"  # of the embeddings, and of the rest of choice.json


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
      {"step", "chosen_by": "validation" or "test", "metric", "value", "meaning", "embeddings_sha256"}.

    Raises:
      InputError: the file is damaged.
    """
    path = paths.choice(workdir)
    if not path.exists():
        return None
    try:
        choice = files.read_json_object(path)
        sealed = choice.pop(_OWN_DIGEST, None)  # folders of earlier versions have none
        if sealed not in (None, digests.of_json(choice)):
            raise ValueError("it is not what was written: its SHA-256 differs")
        for key, kind in {"step": int, "chosen_by": str, "metric": str, "value": (int, float)}.items():
            if not isinstance(choice.get(key), kind) or isinstance(choice[key], bool):
                raise ValueError(f"no valid {key!r}")
        if choice["chosen_by"] not in MEANINGS or not math.isfinite(choice["value"]):
            raise ValueError("an impossible choice")
        choice["value"] = float(choice["value"])
    except (ValueError, OverflowError) as error:
        raise _damaged(path, error) from error
    return choice


def require_intact(workdir: Path) -> None:
    """Raises InputError when the checkpoint or the embeddings that choice.json names are missing or damaged."""
    choice = read(workdir)
    if choice is None:
        return
    folder = paths.best(workdir)
    if not paths.checkpoint(folder, choice["step"]).is_dir():
        raise _damaged(folder, f"the checkpoint of step {choice['step']} is missing")
    try:
        np.load(paths.embeddings(workdir), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, error) from error
    require_same_embeddings(workdir, choice)


def require_same_embeddings(workdir: Path, choice: Mapping[str, Any]) -> None:
    """Raises InputError when the embeddings are not those that were written with `choice`, the content of choice.json.

    Folders of earlier versions have no digest of them.
    """
    path = paths.embeddings(workdir)
    if _DIGEST in choice and choice[_DIGEST] != _digest(path):
        raise _damaged(path, "it is not what was written: its SHA-256 differs")


def forget(workdir: Path, last_step: int) -> None:
    """Deletes best/ if it is of a step after `last_step`, which training is about to repeat.

    When its choice is damaged, the folder stays until evaluation replaces it.
    """
    try:
        choice = read(workdir)
    except InputError as error:
        errors.warn(str(error))
        return
    if choice and choice["step"] > last_step:
        shutil.rmtree(paths.best(workdir))


def keep(workdir: Path, criterion: str, row: Mapping[str, Any], metric: str, embeddings: np.ndarray) -> None:
    """Copies a checkpoint's parameters to best/, with the embeddings of the test images and how it was selected.

    best/ is laid out like a workdir, so that it can be evaluated as one. It is replaced as a whole. A checkpoint that
    only best/ still holds is copied from there.
    """
    step = row["step"]
    column = f"{VALIDATION}/{metric}" if criterion == VALIDATION else metric
    choice = {"step": step, "chosen_by": criterion, "metric": column, "value": row[column]}
    choice["meaning"] = MEANINGS[criterion]
    with files.new_directory(paths.best(workdir), replace=True) as folder:
        source = next(p for p in (workdir, paths.best(workdir)) if paths.checkpoint(p, step).exists())
        ignore = shutil.ignore_patterns("opt_state", "proxies", "queues")
        shutil.copytree(paths.checkpoint(source, step), paths.checkpoint(folder, step), ignore=ignore)
        shutil.copyfile(paths.config(workdir), paths.config(folder))
        path = folder / paths.embeddings(workdir).name
        np.save(path, embeddings)
        choice[_DIGEST] = _digest(path)
        choice[_OWN_DIGEST] = digests.of_json(choice)
        (folder / paths.choice(workdir).name).write_text(json.dumps(choice, indent=2) + "\n")


def _digest(path: Path) -> str:
    return _digest_of_version(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)  # a watching evaluator asks every second
def _digest_of_version(path: Path, modified: int) -> str:
    del modified
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, reason: object) -> InputError:
    return InputError(f"{path} is damaged ({reason}); evaluate again: --mode=eval writes it")
