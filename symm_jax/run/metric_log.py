"""Metric files of a workdir: one JSON object per line, and the same values for TensorBoard.

A line ends with "crc32", a checksum of the rest, so that a digit that has changed is noticed. Lines of earlier versions
have none. `read` leaves it out.
"""

import contextlib
import json
import os
import socket
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import RecordWriter

from symm_jax import errors, files
from symm_jax.errors import InputError
from symm_jax.run import paths

_EVENT_VERSION = "brain.Event:2"
_CHECKSUM = "crc32"


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
        folder = paths.tensorboard(workdir, kind)
        folder.mkdir(parents=True, exist_ok=True)
        self._events = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        # Written by this thread: tensorboardX's own thread would end at a full disk, and leave this one waiting.
        with files.naming(self._events):
            self._board = RecordWriter(str(self._events))
            self._write_event(file_version=_EVENT_VERSION)
            if last_step is not None:  # later steps of older files are hidden
                self._write_event(step=last_step + 1, file_version=_EVENT_VERSION)
                self._write_event(step=last_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one line, {"step": step, **metrics}, and flushes it.

        Raises:
          OSError: it cannot be written. It has the path, and the lines before are intact.
        """
        # The file is opened for each line, because a resumed training replaces it while an evaluation writes.
        with files.naming(self._path), open(self._path, "a") as file:
            file.write(_to_text({"step": step, **metrics}))
        with files.naming(self._events):
            for name, value in metrics.items():
                scalar = summary.scalar(name.replace("@", "_at_"), value)  # TensorBoard does not accept "@"
                self._write_event(step=step, summary=scalar)
            self._board.flush()

    def _write_event(self, **content: Any) -> None:
        self._board.write(Event(wall_time=time.time(), **content).SerializeToString())

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(OSError):  # each `write` has flushed: only what has failed before is left
            self._board.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file. A last line that is incomplete is left out: its writer works or was killed.

    Raises:
      InputError: another line is damaged.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            found.append(json.loads(line, parse_int=_parse_int))
            stored = found[-1].pop(_CHECKSUM, None) if isinstance(found[-1], dict) else None
            fault = _fault(found[-1])
            if not fault and stored not in (None, _checksum(found[-1])):
                fault = "its checksum differs"
        except (ValueError, RecursionError) as error:
            fault = f"{error}"
        if fault:
            raise InputError(
                f"{path}, line {number} is damaged ({fault}). Move the line to another file: the other lines stay "
                "valid. Evaluation measures a step without a line again."
            )
    return found


def truncate(path: Path, last_step: int | None) -> None:
    """Deletes the lines of steps after `last_step`, if given, and an incomplete last line. Replaces the file."""
    if path.exists():
        kept = [line for line in read(path) if last_step is None or line["step"] <= last_step]
        if path.read_bytes()[-1:] not in (b"\n", b""):
            errors.warn(f"{path}: its last line was incomplete, because its writer was killed; it is deleted")
        files.write_text(path, "".join(map(_to_text, kept)))


def warn_of_lost_lines(path: Path, last_step: int, every: int) -> None:
    """Warns when a run logs every `every` steps, and its file has none of the last lines up to `last_step`."""
    first = last_step - every + 1
    if first > 0 and not any(first <= line["step"] <= last_step for line in read(path)):
        errors.warn(f"{path} has no line of the steps {first} to {last_step}: unless log_every was changed, it is lost")


def _to_text(line: Mapping[str, Any]) -> str:
    return json.dumps({**line, _CHECKSUM: _checksum(line)}) + "\n"


def _checksum(line: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(line).encode())


def _parse_int(digits: str) -> float:
    """An integer; the nearest float, which may be infinite, for one that NumPy could not hold."""
    return int(digits) if len(digits) < 19 else float(digits)


def _fault(line: Any) -> str:
    """Why a line is not one of metrics; "" when it is one."""
    if not isinstance(line, dict):
        return "it is not a JSON object"
    step = line.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        return f"its step is {line.get('step', 'absent')!r}"
    others = (name for name, x in line.items() if isinstance(x, bool) or not isinstance(x, (int, float)))
    return next((f"{name} is {line[name]!r}" for name in others), "")
