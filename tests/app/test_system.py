"""What a user reads when the operating system refuses something."""

import contextlib
import errno
import os
import shlex
import shutil
import signal
import sys
import types
from pathlib import Path

import pytest

from configs import glyphs_npair
from symm_jax.app import flags, modes, system
from symm_jax.training import loop


def raised(error, cause=None):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b: No space left on device. Make room"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "a file or the output of this command: Disk quota exceeded."),
        (
            PermissionError(errno.EACCES, "Permission denied", b"/a"),
            "/a: Permission denied. Change its permissions, or",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/a", None, "/b"), "/a and /b: Read-only file system. Mount it"),
        (OSError(errno.ELOOP, "Too many links", "/a"), "/a: Too many links. Then run the same command again."),
        (OSError("a library's words"), "a library's words"),
        (
            shutil.Error([("/a", "/b", "[Errno 28] No space left")]),
            "/b: it cannot be copied from /a ([Errno 28] No space",
        ),
        (OSError("5 requested and 3 written"), "a file cannot be written to its end"),
        (
            raised(ValueError("x"), OSError(errno.EIO, "Input/output error", "/a")),
            "/a: Input/output error. Check the d",
        ),
        (
            ValueError(
                'RESOURCE_EXHAUSTED: "/w/3" in database: "/w/3/d/0": No space left on device [os_error_code=28]'
            ),
            "/w/3/d/0: No space left on device. Make room",
        ),
        (RuntimeError("Could not determine home directory."), "a path begins with ~"),
        (
            ValueError("RESOURCE_EXHAUSTED: Out of memory"),
            "the memory of the device does not suffice (RESOURCE_EXHAUSTED",
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "the program that reads the output of this command has ended"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal"), "the output of this command is in ascii, which has no '"),
        (KeyError("a bug"), ""),
    ],
)
def test_a_refusal_is_one_line_with_path_reason_and_remedy(error, message):
    described = system.describe(error)
    assert described.startswith(message) and "\n" not in described
    assert bool(described) == bool(message)


def test_a_refusal_during_a_run_is_one_line_and_exit_code_1(launch, tmp_path):
    folder = tmp_path / ("n" * 300)
    done = launch("--config=configs/glyphs_npair.py", "--mode=report", f"--workdir={folder}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"error: {folder}")
    assert done.stderr.endswith(": File name too long. Pass a folder with a shorter path.\n")


def test_help_on_a_full_device_is_one_line(monkeypatch, capsys):
    with open("/dev/full", "w") as full, pytest.raises(SystemExit) as stop:
        monkeypatch.setattr(sys, "stdout", full)
        try:
            flags.parse(["launch.py", "--help"])
        finally:
            monkeypatch.undo()
            with contextlib.suppress(OSError):
                full.close()
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith("error: a file or the output of this command: No space left on device.")


def test_the_home_directory_is_not_needed(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does for a user without an entry
    monkeypatch.setattr("symm_jax.app.compare.compare", lambda *_: ["compared"])
    assert modes.run("compare", {}, [None], False, 0) == ["compared"]


def test_a_lower_learning_rate_is_a_command_that_can_be_followed(monkeypatch, capsys):
    monkeypatch.setattr(flags, "CONFIG", types.SimpleNamespace(value=glyphs_npair.get_config()))
    monkeypatch.setattr(flags, "MODE", types.SimpleNamespace(value="train"))
    monkeypatch.setattr(flags, "workdirs", lambda: [Path("/runs/my a")])
    given = ["--config=a.py", "--workdir", "my a", "--config.optimizer.learning_rate=0.003", "--config.seed", "3"]
    monkeypatch.setattr(sys, "argv", ["launch.py", *given])
    flags.print_error(FloatingPointError("training diverged"))
    error = capsys.readouterr().err
    assert error.startswith("error: training diverged. A lower learning rate may help, in another folder:\n  python la")
    assert shlex.split(error.splitlines()[1]) == [
        *("python", "launch.py", "--config=a.py", "--config.seed", "3"),
        *("--workdir=/runs/my a-lr0.0003", "--config.optimizer.learning_rate=0.0003"),
    ]
    monkeypatch.setattr(flags, "MODE", types.SimpleNamespace(value="compare"))
    methods = type(glyphs_npair.get_config())({"methods": {"npair": glyphs_npair.get_config()}})
    monkeypatch.setattr(flags, "CONFIG", types.SimpleNamespace(value=methods))
    flags.print_error(FloatingPointError("training diverged"))
    assert "--config.methods.npair.optimizer.learning_rate=0.0003\n" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_is_noted_and_the_second_ends_the_process(number):
    before = signal.getsignal(number)
    with loop._stop_signals() as received:
        os.kill(os.getpid(), number)
        assert received == [number]
        assert signal.getsignal(number) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(number) == before


def test_nohup_keeps_its_meaning():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with loop._stop_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
        assert received == [] and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
