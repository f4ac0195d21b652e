"""SIGTERM, SIGINT and SIGHUP in every phase: how the program leaves, and whether the same command goes on."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from fault_parts import tiny
from fault_parts.table import FAULT, Table
from symm_jax.run import paths

_MANY_CLASSES, _MANY = 60, 25  # enough pictures that worker processes decode them
_GRACE = 5.0  # seconds that children have to end after the program
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def signals(runs: tiny.Tiny, tries: int) -> Table:
    """SIGINT and SIGHUP go to the process group, as a terminal sends them. SIGTERM goes to the process."""
    many = tiny.draw_pictures(runs.scratch / "many", _MANY_CLASSES, _MANY)
    prepared = runs.new()
    ended = runs.run(*runs.flags(prepared, "prepare", many))
    assert ended.code == 0, ended.output
    arrays = _arrays(prepared)
    expected = runs.reference()
    rows = []
    for phase, ready in _READY.items():
        if runs.only not in phase:
            continue
        cells = []
        for number in _SIGNALS:
            preparing = phase in ("building", "decoding")
            folder = runs.new()
            flags = runs.flags(folder, "prepare", many) if preparing else runs.flags(folder)
            code, seconds, problem = _send(runs, folder, flags, ready, number, cold=phase == "compiling")
            again = runs.run(*flags)
            if again.code != 0:
                problem = problem or f"the same command: exit code {again.code}, {tiny.first_message(again.output)}"
            elif preparing and _arrays(folder) != arrays:
                problem = problem or "other arrays"
            elif not preparing and (different := _differences(tiny.state(folder / "run"), expected)):
                problem = problem or f"other state: {sorted(different)[:2]}"
            cells.append(f"{code}, {seconds:.1f} s" + (f"; {FAULT} {problem}" if problem else ""))
            print(f"{phase}, {number.name}: {cells[-1]}", flush=True)
            if problem:
                print((folder / "output").read_text()[:2000], f"then: {again.output[:1000]}", sep="\n", flush=True)
        rows.append((phase, *cells))
    return Table(
        ("while", *(number.name for number in _SIGNALS)),
        rows,
        "Exit code as a shell shows it, and seconds from the signal to the end. In each case no process was left and "
        "the same command went on to the same state, bit for bit, unless the cell says otherwise. A signal during "
        "training adds a checkpoint.",
    )


def _send(
    runs: tiny.Tiny, folder: Path, flags: list[str], ready: Callable, number: signal.Signals, cold: bool
) -> tuple[str, float, str]:
    """Exit code, seconds to leave, and what was wrong, or ""."""
    output = folder / "output"
    program = runs.real(output, *flags, compiled=folder / "compiled" if cold else None)
    if not tiny.wait_until(lambda: ready(output.read_text(), folder / "run"), program):
        tiny.kill_group(program)
        return "-", 0.0, f"ended before the signal: {tiny.first_message(output.read_text())}"
    begin = time.monotonic()
    if number is signal.SIGTERM:
        program.send_signal(number)
    else:
        os.killpg(program.pid, number)
    try:
        code = program.wait(120)
    except Exception:
        tiny.kill_group(program)
        return "-", 120.0, "did not end within 120 s"
    seconds = time.monotonic() - begin
    deadline = time.monotonic() + _GRACE
    while (left := tiny.session_members(program.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    text = output.read_text()
    problem = f"{len(left)} processes left" if left else ""
    problem = tiny.traceback_end(text) or problem
    tiny.kill_group(program)
    shown = str(128 - code if code < 0 else code) + (" (at once)" if code < 0 else "")
    return shown + (" (had ended)" if code == 0 else ""), seconds, problem


def _differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """As tiny.differences. The checkpoint that training saves at a signal may be there too, and may be the best one."""
    different = [name for name in tiny.differences(found, expected) if name in expected]
    if not any(name.startswith("eval metrics") for name in found.keys() - expected.keys()):
        return different
    return [name for name in different if not name.startswith(("best/", "report.html", "figures/"))]


_begun: dict[Path, float] = {}


def _second_of_imports(output: str, workdir: Path) -> bool:
    return time.monotonic() - _begun.setdefault(workdir, time.monotonic()) > 1


def _lines(workdir: Path, kind: str) -> int:
    path = paths.metrics(workdir, kind)
    return path.read_bytes().count(b"\n") if path.exists() else 0


# When a phase has begun, from what was printed and what is in the workdir.
_READY: dict[str, Callable[[str, Path], bool]] = {
    "imports": _second_of_imports,
    "building": lambda output, workdir: "building " in output,
    "decoding": lambda output, workdir: "decode train" in output,
    "compiling": lambda output, workdir: "\nmodel " in output,
    "training": lambda output, workdir: _lines(workdir, "train") >= 4,
    "saving": lambda output, workdir: any("tmp" in path.name for path in paths.checkpoints(workdir).glob("*")),
    "evaluating": lambda output, workdir: _lines(workdir, "eval") >= 1,
    "reporting": lambda output, workdir: paths.figures(workdir).exists(),
}


def _arrays(folder: Path) -> dict[str, bytes]:
    """The decoded arrays, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in (folder / "cache").rglob("*.npy")}
