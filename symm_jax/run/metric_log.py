"""Metric files of a workdir: one JSON object a line, and the same figures for TensorBoard."""

import json
from pathlib import Path

import tensorboardX

from symm_jax import files
from symm_jax.errors import InputError
from symm_jax.run import paths


class MetricLog:
    """Appends metrics to WORKDIR/KIND/metrics.jsonl and WORKDIR/tensorboard/KIND.

    Lines past `last_step`, if given, are dropped on opening: a resumed run writes them again, so that the file of a
    run that was killed reads like that of one that was not.
    """

    def __init__(self, workdir: Path, kind: str, last_step: int | None = None):
        self._path = paths.metrics(workdir, kind)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        truncate(self._path, last_step)
        self._board = tensorboardX.SummaryWriter(
            str(paths.tensorboard(workdir, kind)), purge_step=None if last_step is None else last_step + 1
        )

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one line, {"step": step, **metrics}, through to the system."""
        # Opened for each line: training that is resumed replaces the file under an evaluation that follows it.
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": step} | metrics) + "\n")
        for name, value in metrics.items():
            self._board.add_scalar(name.replace("@", "_at_"), value, step)  # TensorBoard takes no "@"
        self._board.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._board.close()


def read(path: Path) -> list[dict]:
    """The lines of a metrics file; a last line that a killed process left half-written does not count.

    Raises:
      InputError: another line is not one of metrics.
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
    """Drops lines past `last_step`, if given, and a half-written one, by replacing the file as a whole."""
    if path.exists():
        kept = [line for line in read(path) if last_step is None or line["step"] <= last_step]
        files.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
