"""Atomic writes and locks, also where the disk is full or the file system has no locks."""

import errno
import fcntl
import resource
import threading
from pathlib import Path

import pytest

from symm_jax import files
from symm_jax.errors import InputError


@pytest.fixture
def full_disk():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, full_disk):
    path, folder = tmp_path / "file", tmp_path / "folder"
    files.write_text(path, "before")
    with files.new_directory(folder) as new:
        files.write_text(new / "part", "before")
    with pytest.raises(OSError, match="File too large"):
        files.write_text(path, "x" * 5000)
    with pytest.raises(OSError, match="File too large"), files.new_directory(folder, replace=True) as new:
        (new / "part").write_text("x" * 5000)
    assert path.read_text() == (folder / "part").read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_comes_back_when_it_cannot_be_replaced(tmp_path, monkeypatch):
    with files.new_directory(tmp_path / "folder") as new:
        (new / "part").touch()
    rename = type(tmp_path).rename

    def refuse(path, target):
        if target == tmp_path / "folder" and not path.name.endswith("before"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", refuse)
    with pytest.raises(OSError, match="Input/output"), files.new_directory(tmp_path / "folder", replace=True):
        pass
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["part"]


def test_the_folder_of_before_survives_a_kill_between_two_renamings(tmp_path):
    (tmp_path / ".folder.partial-0123abcd-before").mkdir()
    (tmp_path / ".folder.partial-0123abcd-before/part").touch()
    (tmp_path / ".folder.partial-0123abcd").mkdir()
    with pytest.raises(ZeroDivisionError), files.new_directory(tmp_path / "folder", replace=True):
        _ = 1 / 0
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["folder", "folder/part"]


def test_names_are_on_the_disk_too(tmp_path, monkeypatch):
    flushed = []

    def flush(path):
        flushed.append((path.name, sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("."))))

    monkeypatch.setattr(files, "_flush", flush)
    with files.new_directory(tmp_path / "folder") as folder:
        (folder / "a").touch()
    assert [names for _, names in flushed] == [[], [], ["folder"]]  # the file, its folder; then the folder's name
    assert flushed[-1][0] == tmp_path.name
    files.write_text(tmp_path / "file", "x")
    assert flushed[-1] == (tmp_path.name, ["file", "folder"])


def test_a_held_lock_is_waited_for(tmp_path, capsys):
    free = threading.Event()

    def hold():
        with files.lock(tmp_path / ".lock"):
            held.set()
            assert free.wait(10)

    held, thread = threading.Event(), threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    threading.Timer(0.3, free.set).start()
    with files.wait_for_lock(tmp_path / ".lock", busy="another process works here"):
        assert free.is_set()
    assert capsys.readouterr().out.startswith("another process works here (held by process")
    thread.join()
    with pytest.raises(InputError, match="takes no new files"), files.wait_for_lock(Path("/proc/.lock"), busy="busy"):
        pass


def test_folders_and_files_of_others_are_no_leftovers(tmp_path):
    theirs = ["folder.partial-backup", "folder.partial-0123abcd", ".folder.partial-notes", ".other.partial-0123abcd"]
    for name in theirs:
        (tmp_path / name).mkdir()
    (tmp_path / ".folder.partial-01234567").touch()
    with files.new_directory(tmp_path / "folder"):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {*theirs, ".folder.partial-01234567", "folder"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux has /proc")
def test_a_folder_that_takes_no_files_is_not_taken_for_a_busy_one():
    with pytest.raises(InputError, match="/proc takes no new files"), files.lock(Path("/proc/.lock"), busy="busy"):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])  # filelock has a substitute for ENOSYS
def test_without_locks_a_warning_is_given(tmp_path, monkeypatch, capsys, number):
    def flock(*_):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    with files.lock(tmp_path / "a/.lock", busy="busy"):
        pass
    assert "has no locks ([Errno" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError), files.lock(tmp_path / "a/.lock"):
        _ = 1 / 0
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"), files.lock(tmp_path / "b.lock"):
        pass


def test_a_lock_on_a_full_disk_is_held(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_text", refuse)
    with files.lock(tmp_path / ".lock"), pytest.raises(files.InputError, match="busy"):
        files.lock(tmp_path / ".lock", busy="busy").__enter__()


def test_a_file_is_flushed_while_it_is_written_and_errors_wait_for_the_last_flush(tmp_path, monkeypatch):
    flushed, failed = threading.Event(), threading.Event()

    def flush(path):
        (failed if flushed.is_set() else flushed).set()
        if failed.is_set():
            raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(files, "_flush", flush)
    monkeypatch.setattr(files, "_FLUSH_SECONDS", 0.01)
    with files.flushing(tmp_path / "file"):
        assert failed.wait(10)
    assert flushed.is_set()
