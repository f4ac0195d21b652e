"""A disk that fills up, and folders that cannot be written: on a tmpfs that only this program sees."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from fault_parts import tiny
from fault_parts.table import FAULT, Table

_INSIDE = "FAULTS_NAMESPACE"
_SIZE = 64  # MiB
_MODES = ("prepare", "train", "eval", "report")
_MORE = tiny.STEPS + tiny.EVERY


def enter_namespace() -> None:
    """Starts this program again where it may mount. Without that, the part says that it was not possible."""
    if _INSIDE in os.environ:
        return
    inside = ["unshare", "--user", "--map-root-user", "--mount"]
    possible = shutil.which("unshare") and not subprocess.run([*inside, "true"], capture_output=True).returncode
    os.environ[_INSIDE] = "1" if possible else ""
    if possible:
        os.execvp(inside[0], [*inside, sys.executable, *sys.argv])


def disk(runs: tiny.Tiny, tries: int) -> Table:
    """Each mode starts with 0, 1 / tries, 2 / tries, ... of the space that it needs."""
    head = ("command", "disk", "outcome", "the message names", "the same command, later")
    if not os.environ.get(_INSIDE):
        return Table(head, [("all", "", "not tried: this machine forbids `unshare` or mounts", "", "")], "")
    before, expected, needs = {}, {}, {}
    folder = runs.new()
    _mount(folder)
    for mode in _MODES:
        before[mode] = runs.new(of=folder)
        free = _free(folder)
        ended = runs.run(*runs.flags(folder, mode))
        assert ended.code == 0, ended.output
        needs[mode] = free - _free(folder)
        expected[mode] = _everything(folder)
    last = runs.new(of=folder)
    _unmount(folder)
    rows = []
    for mode in _MODES:
        for level in range(tries):
            free = needs[mode] * level // tries
            rows.append(
                _one(runs, before[mode], expected[mode], mode, f"{free // 1024} of {needs[mode] // 1024} KiB", free)
            )
    for mode in _MODES:
        rows.append(_one(runs, before[mode], expected[mode], mode, "read-only", None))
    rows.append(_read_only_cache(runs, last))
    return Table(head, rows, f"Free space in {tries} levels per command, and a read-only file system.")


def _one(runs: tiny.Tiny, start: Path, expected: dict, mode: str, name: str, free: int | None) -> tuple[str, ...]:
    folder = runs.new()
    _mount(folder)
    shutil.copytree(start, folder, dirs_exist_ok=True)
    ballast = folder / "ballast"
    if free is None:
        _remount(folder, "ro")
    else:
        _fill(ballast, max(0, _free(folder) - free))
    earlier = _everything(folder)
    ended = runs.run(*runs.flags(folder, mode))
    kept = _everything(folder)
    if free is None:
        _remount(folder, "rw")
    else:
        ballast.unlink()
    outcome, named = _outcome(ended)
    if lost := [key for key in earlier if kept.get(key) != earlier[key] and not _may_change(key, mode)]:
        outcome += f"; {FAULT} earlier results changed: {sorted(lost)[:2]}"
    again = runs.run(*runs.flags(folder, mode))
    different = tiny.differences(_everything(folder), expected) if again.code == 0 else []
    later = "same state"
    if again.code or different:
        later = f"{FAULT} exit code {again.code} {tiny.first_message(again.output)} {sorted(different)[:2]}"
    _unmount(folder)
    print(f"{mode}, {name}: {outcome}; {named}; {later}", flush=True)
    if FAULT in outcome:
        print(f"    {ended.output.strip()[-600:]}", flush=True)
    return f"`--mode={mode}`", name, outcome, named, later


def _read_only_cache(runs: tiny.Tiny, complete: Path) -> tuple[str, ...]:
    """A complete cache that cannot be written is used."""
    folder = runs.new(of=complete)
    shutil.rmtree(folder / "cache")
    (folder / "cache").mkdir()
    _mount(folder / "cache")
    shutil.copytree(complete / "cache", folder / "cache", dirs_exist_ok=True)
    _remount(folder / "cache", "ro")
    ended = runs.run(*runs.flags(folder, num_steps=_MORE))
    different = tiny.differences(tiny.state(folder / "run"), runs.reference(_MORE)) if ended.code == 0 else []
    outcome, named = _outcome(ended)
    _unmount(folder / "cache")
    print(f"read-only cache: {outcome}; {named}; {sorted(different)[:3]}", flush=True)
    good = ended.code == 0 and not {name for name in different if not name.startswith(("report", "figures"))}
    return (
        "`--mode=train_and_eval`",
        "complete cache, read-only",
        "goes on" if good else f"{FAULT} {outcome}".replace(f"{FAULT} {FAULT}", FAULT),
        named,
        "",
    )


def _outcome(ended: tiny.Ended) -> tuple[str, str]:
    """What a command did on its disk, and the path that its message names."""
    message = tiny.first_message(ended.output)
    named = re.search(
        r"[\w.*-]+(?:/[\w.*-]+)+|[\w-]+\.\w+|\bcache\b|\brun\b",
        re.sub(r"^(error|warning): ((config\.[\w.]+|--\w+): )?", "", message),
    )
    if traceback := tiny.traceback_end(ended.output):
        return f"{FAULT} {traceback}", ""
    if ended.code == 0:
        return "done", ""
    if ended.code not in (1, 2) or not message:
        return f"{FAULT} exit code {ended.code} ({message})", ""
    return f"message, exit code {ended.code}", f"`{named[0]}`" if named else textwrap.shorten(
        message, 80, placeholder=" ..."
    )


def _may_change(key: str, mode: str) -> bool:
    """What a command writes again: its own results, if it has any of before."""
    own = {"report": ("report.html", "figures/"), "eval": ("eval metrics", "best/"), "train": ("finished",)}
    return key.startswith(own.get(mode, ()))


def _everything(folder: Path) -> dict[str, str]:
    """The state of the run, and the decoded arrays."""
    found = tiny.state(folder / "run")
    for path in sorted((folder / "cache").rglob("*.npy")):
        if "partial" not in str(path):
            found[path.relative_to(folder).as_posix()] = str(hash(path.read_bytes()))
    return found


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _fill(path: Path, count: int) -> None:
    with open(path, "wb") as file:
        if count:
            os.posix_fallocate(file.fileno(), 0, count)


def _mount(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}m", "none", str(folder)], check=True)


def _remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
