"""The tiny run that the parts disturb (96 drawn pictures, 12 steps, 4 checkpoints), and the state that it ends in."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import launcher
import numpy as np
import orbax.checkpoint as ocp
import PIL.Image
from checkout import ROOT

from symm_jax.run import checkpoints, paths

STEPS, EVERY = 12, 3
_WALL_CLOCK = ("images_per_second", "crc32")  # the checksum covers the other
_FIELDS = {
    "model.pretrained": "",
    "model.name": "convnet",
    "model.options": "{'widths': (8, 8)}",
    "model.dim": 8,
    "data.image_size": 16,
    "data.validation_classes": 2,
    "batch_size": 8,
    "num_steps": STEPS,
    "checkpoint_every": EVERY,
    "log_every": 1,
    "clustering": False,
    "optimizer.learning_rate": 0.01,
}


class Ended(NamedTuple):
    """A program that has ended: its exit code (None if it had to be killed), and all that it printed."""

    code: int | None
    output: str


class Tiny:
    """Starts launch.py on the tiny run. All files are in one scratch folder."""

    def __init__(self, scratch: Path, launch: launcher.Launcher, only: str = ""):
        self.only = only
        self.scratch, self._launch, self._count = scratch, launch, 0
        self._ends: dict[int, dict[str, str]] = {}
        self.pictures = draw_pictures(scratch / "pictures")

    def new(self, *, of: Path | None = None) -> Path:
        """A folder for one try, empty or a copy. It will hold `run`, the workdir, and `cache`."""
        self._count += 1
        folder = self.scratch / f"try{self._count}"
        shutil.copytree(of, folder, symlinks=True) if of else folder.mkdir()
        return folder

    def flags(self, folder: Path, mode: str = "train_and_eval", pictures: Path | None = None, **fields) -> list[str]:
        """The command line. `fields` are fields of the config, with __ in the place of a dot."""
        changed = _FIELDS | {"data.dir": pictures or self.pictures, "data.cache_dir": folder / "cache"}
        changed |= {name.replace("__", "."): value for name, value in fields.items()}
        return [
            f"--config={ROOT / 'configs/folder_symm_npair.py'}",
            f"--workdir={folder / 'run'}",
            f"--mode={mode}",
            *(f"--config.{name}={value}" for name, value in changed.items()),
        ]

    def start(self, *flags: str) -> launcher.Program:
        """Starts the program as a fork of a process that has imported everything."""
        return self._launch.start(*flags)

    def run(self, *flags: str, timeout: float = 300) -> Ended:
        """Runs the program to its end, as such a fork."""
        return end(self.start(*flags), timeout)

    def real(self, output: Path, *flags: str, compiled: Path | None = None) -> subprocess.Popen:
        """Starts the program as a user does, in a session of its own. It prints to a file.

        `compiled` is a folder for compiled programs, in the place of that of all others.
        """
        variables = os.environ | ({"JAX_COMPILATION_CACHE_DIR": str(compiled)} if compiled else {})
        with open(output, "w") as file:
            command = [sys.executable, str(ROOT / "launch.py"), *flags]
            outputs: Any = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
            return subprocess.Popen(command, **outputs, start_new_session=True, env=variables)

    def reference(self, steps: int = STEPS) -> dict[str, str]:
        """The state of a run that nothing disturbed."""
        if steps not in self._ends:
            folder = self.new()
            ended = self.run(*self.flags(folder, num_steps=steps))
            assert ended.code == 0, ended.output
            self._ends[steps] = state(folder / "run")
        return self._ends[steps]


def end(program: launcher.Program, timeout: float = 300) -> Ended:
    """Waits for a program. Kills it when the time is over."""
    try:
        return Ended(program.wait(timeout), program.output())
    except AssertionError:
        program.kill()
        return Ended(None, program.output())


def set_environment(scratch: Path) -> None:
    """Sets what all programs need that are started from now on: the same flags, and the same compiled programs."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(scratch / "compiled"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["XLA_FLAGS"] = launcher.xla_flags(devices=1)
    os.environ["PYTHONUNBUFFERED"] = "1"  # what a program printed before it was killed is read


def draw_pictures(folder: Path, classes: int = 16, per_class: int = 6) -> Path:
    """Draws coloured patterns, one folder per class. Those of a class are alike. Returns the folder."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        pattern = rng.normal(size=(5, 5, 3))
        (folder / f"class{label:03d}").mkdir(parents=True)
        for i in range(per_class):
            values = 128 + 40 * (pattern + 0.8 * rng.normal(size=pattern.shape))
            small = PIL.Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
            small.resize((40, 32), PIL.Image.Resampling.BICUBIC).save(folder / f"class{label:03d}/{i}.jpg", quality=95)
    return folder


def state(workdir: Path) -> dict[str, str]:
    """What a run has computed, {what: its digest or value}. Nothing in it depends on the clock or on paths."""
    found = {}
    for step in checkpoints.steps(workdir):
        for item in ("params", "opt_state", "batch_stats"):
            path = paths.checkpoint(workdir, step) / item
            if path.exists():
                try:
                    tree = _read_item(path.resolve())
                except Exception as error:
                    tree = {f"unreadable: {type(error).__name__}": np.zeros(0)}
                for leaf, array in _leaves(tree):
                    found[f"checkpoint {step} {item} {leaf}"] = _digest(np.asarray(array).tobytes())
    for kind in ("train", "eval"):
        for row in rows(workdir, kind):
            values = json.dumps({name: x for name, x in row.items() if name not in _WALL_CLOCK}, sort_keys=True)
            key = f"{kind} metrics {row['step']}"
            found[f"{key}, again" if key in found else key] = values
    for path in (paths.choice(workdir), paths.embeddings(workdir), paths.data(workdir), paths.report(workdir)):
        if path.exists():
            content = path.read_bytes().replace(str(workdir.resolve()).encode(), b"WORKDIR")  # the report names it
            found[str(path.relative_to(workdir))] = _digest(content)
    for path in sorted(paths.figures(workdir).glob("*")):
        found[str(path.relative_to(workdir))] = _digest(path.read_bytes())
    if paths.finished(workdir).exists():
        found["finished"] = paths.finished(workdir).read_text()
    return found


def _read_item(path: Path) -> Any:
    """The arrays of an item. Without _METADATA, which only names them, they are read with that of another step."""
    if (path / "_METADATA").exists():
        return ocp.StandardCheckpointer().restore(path)
    other = next(path.parent.parent.glob(f"[0-9]*/{path.name}/_METADATA"))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        shutil.copytree(path, copy)
        shutil.copyfile(other, copy / "_METADATA")
        return ocp.StandardCheckpointer().restore(copy)


def rows(workdir: Path, kind: str) -> list[dict]:
    """The lines of a metric file, as they are stored. A torn line is left out."""
    path, found = paths.metrics(workdir, kind), []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            found.append(row)
    return found


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """What is missing, added or other."""
    return [name for name in expected.keys() | found.keys() if found.get(name) != expected.get(name)]


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def first_message(output: str) -> str:
    """The first error of a program, else its first warning, without the paths' folders."""
    for kind in ("error: ", "warning: "):
        for line in output.replace("\r", "\n").splitlines():
            if line.startswith(kind):
                return _without_folders(line)[:160]
    return ""


def traceback_end(output: str) -> str:
    """The last line of what a program printed, if it printed a traceback, else ""."""
    if "Traceback (most recent" not in output:
        return ""
    return f"traceback ({_without_folders(output.strip().splitlines()[-1])[:90]})"


def wait_until(condition: Callable[[], object], program, timeout: float = 300) -> bool:
    """Looks every few milliseconds. Returns False when the program ends, or the time is over, before it holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if program.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.004)
    return True


def kill_group(program: subprocess.Popen) -> None:
    """kill -9 of the program and all its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
    program.wait()


def session_members(session: int) -> list[int]:
    """The processes that a program has started and that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def _without_folders(line: str) -> str:
    return re.sub(r"(/[\w.,=\[\]-]+)+/(?=[\w.])", "", line)


def _leaves(tree, prefix: str = "") -> Iterable[tuple[str, np.ndarray]]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _leaves(value, f"{prefix}/{name}")
    elif isinstance(tree, (list, tuple)):
        for i, value in enumerate(tree):
            yield from _leaves(value, f"{prefix}/{i}")
    elif tree is not None:
        yield prefix, tree


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
