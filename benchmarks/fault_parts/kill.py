"""kill -9 of the process group at random moments, from an empty cache on; then the same command until it ends."""

import random
import re
import time
from collections import Counter
from pathlib import Path

from fault_parts import tiny
from fault_parts.table import FAULT, Table

PHASES = ("imports", "building", "decoding", "compiling", "training", "saving", "evaluating", "reporting")
_MOST_KILLS = 4  # per try; the last start is left alone
_POLL = 0.005


def kill(runs: tiny.Tiny, tries: int) -> Table:
    """A try starts without caches, also without compiled programs. A start after a kill is killed with chance 1/2.

    With an even seed, the first moment is uniform over the time of a run. Most of that time is imports and compiling,
    so with an odd seed it is uniform over the time of one phase, and the phases take turns.
    """
    whole = _Try(runs, [])
    length, lengths = whole.seconds, whole.lengths
    print(
        f"undisturbed: {length:.1f} s; " + ", ".join(f"{phase} {s:.2f} s" for phase, s in lengths.items()), flush=True
    )
    kills, same, faults = Counter(), Counter(), []
    for seed in range(tries):
        rng = random.Random(seed)
        phase = PHASES[seed // 2 % len(PHASES)] if seed % 2 else ""
        moments = [(phase, rng.random() * (lengths.get(phase, 0.01) if phase else length))]
        while len(moments) < _MOST_KILLS and rng.random() < 0.5:
            moments.append(("", length * rng.random() / 2))  # a start that finds caches is shorter
        found = _Try(runs, moments)
        while not found.phases:  # it ended before the moment: the machine is faster than when the time was measured
            moments = [("", 0.7 * rng.random() * found.seconds)]
            found = _Try(runs, moments)
        different = tiny.differences(found.state, whole.state)
        good = not different and not found.code and not found.traceback
        outcome = f"exit code {found.code}, {'traceback, ' * found.traceback}{len(different)} differ {different[:3]}"
        print(f"seed {seed}: killed while {', '.join(found.phases)}; {'same' if good else outcome}", flush=True)
        faults += [] if good else [f"{FAULT} seed {seed}: {outcome}"]
        kills.update(found.phases)
        same.update(found.phases if good else [])
    rows = [(phase, kills[phase], f"{same[phase]} of {kills[phase]}") for phase in PHASES]
    rows.append(("all", kills.total(), "; ".join(faults) or f"{tries} of {tries} tries"))
    return Table(
        ("killed while", "kills", "the same command ended in the same state, bit for bit"),
        rows,
        f"{tries} tries (seeds 0 to {tries - 1}) from empty caches on, about half of them killed more than once. First "
        f"moment: even seeds uniform over the {length:.0f} s of a run, odd seeds within one phase.",
    )


class _Try:
    """The command, started again until it ends.

    Attributes:
      phases: what it was doing at each kill.
      seconds, lengths, code: of the last start: its time, the time of each phase, its exit code.
      traceback: whether any start printed one.
      state: what it ended in.
    """

    def __init__(self, runs: tiny.Tiny, moments: list[tuple[str, float]]):
        """Kills after each moment: (phase, seconds since that phase began, or since the start without a phase)."""
        folder = runs.new()
        flags = runs.flags(folder)
        self.phases: list[str] = []
        self.traceback = False
        for i, moment in enumerate([*moments, ("never", 0.0)]):
            output = folder / f"output{i}"
            self._start(runs, flags, folder / "run", output, *moment)
            self.traceback |= "Traceback (most recent" in output.read_text()
            if self.code is not None:
                break
        self.state = tiny.state(folder / "run")

    def _start(self, runs: tiny.Tiny, flags: list[str], workdir: Path, output: Path, wanted: str, delay: float) -> None:
        begin = time.monotonic()
        began = None if wanted else begin
        self.lengths: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        program = runs.real(output, *flags, compiled=workdir.parent / "compiled")
        phase, last = PHASES[0], begin
        while (code := program.poll()) is None:
            phase, now = phase_of(output.read_text(), workdir), time.monotonic()
            self.lengths[phase] += now - last
            last = now
            if began is None and phase == wanted:
                began = now
            if began is not None and now - began >= delay:
                self.phases.append(phase)
                break
            time.sleep(_POLL)
        tiny.kill_group(program)
        self.code, self.seconds = code, time.monotonic() - begin


def phase_of(output: str, workdir: Path) -> str:
    """What a program is doing that has printed `output`."""
    if "devices " not in output:
        last = {output.rfind("building"): "building", output.rfind("decode"): "decoding", -1: "imports"}
        return last[max(last)]
    if re.search(r"^test  ", output, re.M):
        return "reporting" if "last checkpoint" in output else "evaluating"
    if any("tmp" in path.name for path in (workdir / "checkpoints").glob("*")):
        return "saving"
    return "training" if "loss=" in output else "compiling"
