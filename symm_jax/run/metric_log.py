"""Metric files of a workdir: one JSON object per line, and the same values for TensorBoard."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorboardX

from symm_jax import files
from symm_jax.errors import InputError
from symm_jax.run import paths


class MetricLog:
    """Appends metrics to WORKDIR/KIND/metrics.jsonl and WORKDIR/tensorboard/KIND."""

    def __init__(self, workdir: Path, kind: str, last_step: int | None = None):
        """Opens the log.

        Args:
          workdir: the run's folder.
          kind: "train" or "eval".
          last_step: lines of later steps are deleted. A resumed run writes them again, so that the file of a run that
            was killed is the file of a run that was not.
        """
        self._path = paths.metrics(workdir, kind)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        truncate(self._path, last_step)
        self._board = tensorboardX.SummaryWriter(
            str(paths.tensorboard(workdir, kind)), purge_step=None if last_step is None else last_step + 1
        )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one line, {"step": step, **metrics}, and flushes it."""
        # The file is opened for each line, because a resumed training replaces it while an evaluation writes.
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        for name, value in metrics.items():
            self._board.add_scalar(name.replace("@", "_at_"), value, step)  # TensorBoard does not accept "@"
        self._board.flush()

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *_) -> None:
        self._board.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file. A last line that is incomplete is left out: its writer was killed.

    Raises:
      InputError: another line is damaged.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text().splitlines(keepends=True), 1):
        if line.endswith("\n"):
            try:
                found.append(json.loads(line))
                found[-1]["step"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}, line {number} is damaged ({error!r}); delete the line") from error
    return found


def truncate(path: Path, last_step: int | None) -> None:
    """Deletes the lines of steps after `last_step`, if given, and an incomplete last line. Replaces the file."""
    if path.exists():
        kept = [line for line in read(path) if last_step is None or line["step"] <= last_step]
        files.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
