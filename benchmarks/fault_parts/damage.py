"""Every kind of file of a workdir and of the cache: cut to half, emptied, one bit flipped, deleted."""

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import launcher

from fault_parts import tiny
from fault_parts.table import FAULT, Table

_MORE = tiny.STEPS + tiny.EVERY
# What a command writes. Only this is compared after it.
_OWN = {
    "train": ("checkpoint", "train metrics", "finished"),
    "eval": ("eval metrics", "best/"),
    "report": ("report.html", "figures/"),
}
_NOT_OF_REPORT = ("checkpoints/", "tensorboard", "pictures", "arrays/train", "arrays/validation")  # it reads none


def damage(runs: tiny.Tiny, tries: int) -> Table:
    """`tries` bits are flipped in each kind of file, each in a copy of its own."""
    whole = runs.new()
    ended = runs.run(*runs.flags(whole))
    assert ended.code == 0, ended.output
    shutil.copytree(runs.pictures, whole / "pictures", copy_function=shutil.copy2)
    # The names of the cache come from the pictures' times and not from their folder.
    kinds = {kind: file for kind, file in kinds_of_files(whole).items() if runs.only in kind}
    expected = {c: _end(c, *_start(runs, whole, c, "", lambda path: None))[1] for c in _OWN}
    rows = []
    for kind, file in kinds.items():
        cells = []
        for name, tries_of_it in (("half", 1), ("empty", 1), ("bit", tries), ("deleted", 1)):
            outcomes = [
                _outcomes(runs, whole, kind, file, _DAMAGES[name](seed), expected) for seed in range(tries_of_it)
            ]
            print(f"{kind}, {name}: {outcomes}", flush=True)
            cells.append("; ".join(dict.fromkeys(outcomes)))
        rows.append((f"`{kind}`", *cells))
    return Table(
        ("file", "cut to half", "emptied", "one bit flipped", "deleted"),
        rows,
        f"{len(kinds)} kinds of files, {tries} flipped bits each. After each damage, in copies: train on, "
        "evaluate, report.",
    )


def kinds_of_files(folder: Path) -> dict[str, str]:
    """{kind: the file that stands for it}. Steps but the newest are left out, and numbers and digests in names."""
    found: dict[str, str] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        step = re.search(r"checkpoints/(\d+)/", name)
        older = step and int(step[1]) != tiny.STEPS and "best/" not in name
        twice = "opt_state/" in name and "/d/" not in name  # of the same kinds as the files in params/
        if older or twice or path.suffix == ".lock" or path.name == ".lock":
            continue
        kind = re.sub(r"checkpoints/\d+/", "checkpoints/STEP/", name)
        kind = re.sub(r"class\d+/\d+", "CLASS/*", re.sub(r"[0-9a-f]{16,}", "*", re.sub(r"events\.out.*", "*", kind)))
        kind = re.sub(r"checkpoints/STEP/.*commit_success.txt", "checkpoints/STEP/*/commit_success.txt", kind)
        if kind.startswith("run/best/checkpoints"):
            kind = "run/best/checkpoints/STEP/*"
        if path.stat().st_size and (kind not in found or path.stat().st_size > (folder / found[kind]).stat().st_size):
            found[kind] = name
    return found


def _half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _flip(path: Path, seed: int) -> None:
    content = bytearray(path.read_bytes())
    position = random.Random(seed).randrange(len(content)) if seed else len(content) // 2
    content[position] ^= 1 << (seed % 7)
    path.write_bytes(bytes(content))


_DAMAGES: dict[str, Callable[[int], Callable[[Path], None]]] = {
    "half": lambda seed: _half,
    "empty": lambda seed: lambda path: path.write_bytes(b""),
    "bit": lambda seed: lambda path: _flip(path, seed),
    "deleted": lambda seed: Path.unlink,
}


def _outcomes(runs: tiny.Tiny, whole: Path, kind: str, file: str, harm: Callable, expected: dict) -> str:
    """The outcomes of the three commands as one cell. The commands run at once."""
    commands = [c for c in _OWN if c != "report" or not any(part in kind for part in _NOT_OF_REPORT)]
    started = {command: _start(runs, whole, command, file, harm) for command in commands}
    found = {command: _outcome(command, file, *_end(command, *started[command]), expected) for command in commands}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{command}: {outcome}" for command, outcome in found.items())


def _outcome(command: str, file: str, ended: tiny.Ended, state: dict[str, str], whole_states: dict) -> str:
    expected, message = whole_states[command], tiny.first_message(ended.output)
    print(f"    {file}, {command}: exit code {ended.code}; {message}", flush=True)
    if traceback := tiny.traceback_end(ended.output):
        return f"{FAULT} {traceback}"
    if ended.code in (1, 2) and ("error: " in ended.output or "skipped: " in ended.output):
        return "message"
    if ended.code != 0:
        return f"{FAULT} exit code {ended.code}"
    other = [name for name in state if name not in expected or state[name] != expected[name]]
    if other and command == "report" and "warning: " in ended.output:
        return "without the lost lines, with a warning"
    if other:
        return f"{FAULT} other ({', '.join(sorted(other)[:2])})"
    if lost := [name for name in expected if name not in state]:
        named = "with a warning" if "warning: " in ended.output else f"{FAULT} without a word"
        return f"{len(lost)} lines or files lost, {named}"
    if "building " in ended.output or "decode " in ended.output:
        return "same (rebuilt)"
    resumed = re.search(r"resumed from step (\d+)", ended.output)
    if command == "train" and not resumed:
        return "same (from the start)"
    return f"same (from step {resumed[1]})" if resumed and int(resumed[1]) < tiny.STEPS else "same"


def _start(runs: tiny.Tiny, whole: Path, command: str, file: str, harm: Callable) -> tuple[Path, launcher.Program]:
    """Damages a file in a copy, and starts a command there."""
    copy = runs.new(of=whole)
    run = copy / "run"
    if command == "eval" and not re.match(r"run/(eval|best|tensorboard/eval)", file):
        shutil.rmtree(run / "eval")  # so that checkpoints are read
        shutil.rmtree(run / "best")
    if file and (copy / file).exists():
        harm(copy / file)
    fields = {"num_steps": _MORE} if command == "train" else {}
    return copy, runs.start(*runs.flags(copy, command, pictures=copy / "pictures", **fields))


def _end(command: str, copy: Path, program: launcher.Program) -> tuple[tiny.Ended, dict[str, str]]:
    """Waits for a command. Returns its end, and the part of the state that it writes."""
    ended = tiny.end(program)
    state = tiny.state(copy / "run") if ended.code == 0 else {}
    shutil.rmtree(copy)
    return ended, {name: value for name, value in state.items() if name.startswith(_OWN[command])}
