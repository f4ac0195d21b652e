"""Memory, file descriptors and threads of a long training, and of an evaluation of many checkpoints."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fault_parts import tiny
from fault_parts.table import FAULT, Table
from symm_jax.run import checkpoints, paths

_CHECKPOINTS = 200
# Growth of the second half that counts as a leak, per 1,000 steps or per 100 checkpoints.
_MOST_KIB, _MOST_HANDLES = 4096, 2


def growth(runs: tiny.Tiny, tries: int) -> Table:
    """Trains for 100 x `tries` steps, saves at most 200 checkpoints, and evaluates them all."""
    steps = 100 * tries
    fields = {"num_steps": steps, "checkpoint_every": max(100, steps // _CHECKPOINTS), "log_every": 100}
    folder = runs.new()
    assert runs.run(*runs.flags(folder, "prepare")).code == 0
    rows = _watch(runs, folder, "train", fields, lambda: _lines(folder, "train") * 100, steps, 1000)
    count = len(checkpoints.steps(folder / "run"))
    rows += _watch(runs, folder, "eval", fields, lambda: _lines(folder, "eval"), count, 100)
    return Table(
        ("what", "at the start", "at 1/4", "at 1/2", "at 3/4", "at the end", "slope of the second half"),
        rows,
        f"{steps:,} steps with {count} checkpoints, then the evaluation of these.",
    )


def _watch(
    runs: tiny.Tiny, folder: Path, mode: str, fields: dict, done: Callable[[], int], total: int, unit: int
) -> list[tuple]:
    program = runs.real(folder / f"output-{mode}", *runs.flags(folder, mode, **fields))
    samples: list[tuple[int, int, int, int]] = []
    while program.poll() is None:
        position = done()
        if position and (not samples or position > samples[-1][0]) and (found := _measure(program.pid)):
            samples.append((position, *found))
        time.sleep(0.05)
    assert program.returncode == 0, (folder / f"output-{mode}").read_text()[-2000:]
    table = np.array(samples, float)
    rows, name = [], {"train": "training", "eval": "evaluation"}[mode]
    for column, (what, scale, most) in enumerate(
        (("memory (RSS), MiB", 1024, _MOST_KIB), ("file descriptors", 1, _MOST_HANDLES), ("threads", 1, _MOST_HANDLES)),
        1,
    ):
        values = table[:, column]
        at = [int(np.abs(table[:, 0] - total * part).argmin()) for part in (0, 0.25, 0.5, 0.75, 1)]
        later = table[:, 0] >= total / 2
        slope = np.polyfit(table[later, 0], values[later], 1)[0] * unit if later.sum() > 1 else float("nan")
        flat = slope <= most
        per = "1,000 steps" if unit == 1000 else "100 checkpoints"
        shown = f"{slope:+.0f} KiB per {per}" if column == 1 else f"{slope:+.2f} per {per}"
        rows.append(
            (f"{name}: {what}", *(f"{values[i] / scale:,.0f}" for i in at), shown if flat else f"{FAULT} {shown}")
        )
    return rows


def _measure(pid: int) -> tuple[int, int, int] | None:
    """KiB of resident memory, file descriptors, threads; None when the process has ended."""
    folder = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
        return int(status["VmRSS"].split()[0]), len(list((folder / "fd").iterdir())), int(status["Threads"])
    except (OSError, KeyError):
        return None


def _lines(folder: Path, kind: str) -> int:
    path = paths.metrics(folder / "run", kind)
    return path.read_bytes().count(b"\n") if path.exists() else 0
