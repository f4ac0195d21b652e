"""Checkpoints: what is listed is whole, what is damaged is refused and kept, and a save is believed when it is read."""

import errno
import gc
import json
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax import errors, files
from symm_jax.run import checkpoints, digests, orbax_folder, paths

PARAMS = {"w": np.linspace(-1, 1, 3000, dtype=np.float32).reshape(50, 60), "b": np.zeros(4, jnp.bfloat16)}
MOMENTS = {"count": np.int32(7), "mu": {"w": np.full((50, 60), 2, np.float32)}}


def write(workdir, *steps, params=PARAMS):
    with checkpoints.Writer(workdir, {"seed": 3}) as writer:
        for step in steps:
            writer.save(step, params, MOMENTS)


def read(workdir, step):
    return checkpoints.restore(workdir, step, params=PARAMS)["params"]


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("golden")
    write(workdir, 1)
    return paths.checkpoint(workdir, 1)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """A damaged checkpoint is not waited for, as if it were being deleted."""
    monkeypatch.setattr(checkpoints, "_DELETION_SECONDS", 0.0)


def same(restored):
    jax.tree.map(np.testing.assert_array_equal, restored, {"params": PARAMS, "opt_state": MOMENTS})


@pytest.mark.parametrize(
    "name", ["lr=0.1,seed=[1]", "a*?", "**", "{a}", "back\\slash", "white\u202fspace", "not utf-8 \udcff"]
)
def test_a_workdir_may_have_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    workdir = Path(name)
    write(workdir, 1)
    assert {p.name for p in paths.checkpoints(workdir).iterdir()} == {"1"}
    for folder in (workdir, workdir.absolute()):
        same(checkpoints.restore(folder, 1, params=PARAMS, opt_state=MOMENTS))


def test_a_save_that_does_not_read_back_is_no_checkpoint(tmp_path, monkeypatch):
    write(tmp_path, 1)
    read_whole = orbax_folder.read

    def lose(folder, step, trees):  # as Orbax did, which took a path for a pattern
        shutil.rmtree(folder / "params/d")
        return read_whole(folder, step, trees)

    monkeypatch.setattr(orbax_folder, "read", lose)
    with pytest.raises(OSError, match=r"checkpoint was not saved \(it does not read back.*Earlier") as failed:
        write(tmp_path, 2)
    assert failed.value.errno == errno.EIO and failed.value.filename.endswith("checkpoints/2")
    assert {p.name for p in paths.checkpoints(tmp_path).iterdir()} == {"1"}


def test_a_save_waits_for_the_list_of_its_items(tmp_path, monkeypatch):
    path, whole = tmp_path / "_CHECKPOINT_METADATA", '{"item_handlers": {"params": ""}}'
    states = iter([None, "", '{"item_handlers": null}', whole])

    def go_on(_):
        if (state := next(states)) is not None:
            path.write_text(state)

    monkeypatch.setattr(orbax_folder.time, "sleep", go_on)
    orbax_folder.wait_for_list_of_items(tmp_path)
    assert path.read_text() == whole


@pytest.mark.parametrize(
    "lost",
    [jax.errors.JaxRuntimeError("another process has died"), ValueError("UNKNOWN: Gloo AllGather failed: has died")],
)
@pytest.mark.parametrize("hidden", [True, False])
def test_a_lost_process_is_told_from_a_failed_save(tmp_path, monkeypatch, lost, hidden):
    writer = checkpoints.Writer(tmp_path, {})
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(type(lost), match="has died"), writer._explained_errors():
        if hidden:
            raise TimeoutError("Timed out while waiting for a barrier.") from lost
        raise lost


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path):
    write(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OSError, match="no space left") as failed:
            write(tmp_path, 2, params={"w": np.random.default_rng(0).normal(size=10000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert failed.value.errno == errno.ENOSPC
    assert {p.name for p in paths.checkpoints(tmp_path).iterdir()} == {"1"}
    write(tmp_path, 2)
    assert checkpoints.steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("name", ["params", "opt_state", "batch_stats"])
def test_values_that_are_not_finite_are_not_saved_and_not_used(tmp_path, monkeypatch, name):
    items = {"params": PARAMS, "opt_state": MOMENTS, "batch_stats": {"m": np.zeros(2, np.float32)}}
    items[name] = {"bad": np.float32([0, np.nan]), "worse": jnp.asarray([np.inf], jnp.bfloat16)}
    with checkpoints.Writer(tmp_path, {}) as writer:
        with pytest.raises(FloatingPointError, match=rf"step 3: {name}\['bad'\] and 1 more contain NaN or infinity"):
            writer.save(3, **items)
        with monkeypatch.context() as earlier_version:
            earlier_version.setattr(digests, "not_finite", lambda trees: "")
            writer.save(4, **items)
    assert checkpoints.steps(tmp_path) == [4]
    with pytest.raises(checkpoints.DamagedError, match=rf"4 cannot be used: {name}\['bad'\] and 1 more contain NaN"):
        checkpoints.restore(tmp_path, 4, **items)


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 4
    path.write_bytes(whole)


# Orbax leaves reads behind that fail unheard when a file is damaged.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("alter", [truncated, emptied, flipped, Path.unlink], ids=lambda alter: alter.__name__)
def test_an_altered_file_is_found_or_changes_nothing(golden, tmp_path, alter):
    names = [p.relative_to(golden) for p in golden.rglob("*") if p.is_file() and p.stat().st_size]
    assert len(names) > 9
    found = set()
    for number, name in enumerate(names):
        step = paths.checkpoint(tmp_path / str(number), 1)
        shutil.copytree(golden, step)
        alter(step / name)
        try:
            same(checkpoints.restore(tmp_path / str(number), 1, params=PARAMS, opt_state=MOMENTS))
        except checkpoints.DamagedError as error:
            assert f"checkpoint {step} cannot be read (" in str(error)
            found.add(str(name))
    gc.collect()  # or what was left behind fails another test
    needed = {"config/metadata", "digests/metadata", "params/manifest.ocdbt", "opt_state/manifest.ocdbt"}
    needed |= {"_CHECKPOINT_METADATA"} if alter is not flipped else set()  # the byte may be one of a time
    assert not needed - found


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    write(tmp_path, 1)
    files = [p for p in (tmp_path / "checkpoints/1/params").rglob("d/*") if p.is_file()]
    assert files
    for path in files:
        whole = path.read_bytes()
        for place in np.linspace(0, len(whole) - 1, 3).astype(int):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            try:
                restored = read(tmp_path, 1)
            except errors.InputError as error:
                assert "checkpoints/1 cannot be read" in str(error)
            else:  # some bytes carry nothing
                jax.tree.map(np.testing.assert_array_equal, restored, PARAMS)
        path.write_bytes(whole)
    gc.collect()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda stored: {}, "its digests are empty"),
        (lambda stored: stored | {"step": 2}, "its digests are damaged"),
        (lambda stored: digests.describe(2, {"params": PARAMS}, {"seed": 3}), "its digests are of step 2"),
        (lambda stored: digests.describe(1, {"opt_state": MOMENTS}, {"seed": 3}), "its digests lack params"),
        (lambda stored: digests.describe(1, {"params": PARAMS}, {"seed": 4}), "its config is not what was saved"),
        (lambda stored: {"params": {}}, "is not what was saved"),
        (lambda stored: {"params": digests.of_leaves(PARAMS)}, ""),  # of an earlier version
    ],
)
def test_digests_name_their_step_and_cover_every_item(golden, tmp_path, change, said):
    step = paths.checkpoint(tmp_path, 1)
    shutil.copytree(golden, step)
    path = step / "digests/metadata"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    if said:
        with pytest.raises(checkpoints.DamagedError, match=said):
            read(tmp_path, 1)
    else:
        read(tmp_path, 1)


def test_a_checkpoint_without_digests_is_read_with_a_warning_if_it_never_had_any(golden, tmp_path, capsys):
    step = paths.checkpoint(tmp_path, 1)
    shutil.copytree(golden, step)
    shutil.rmtree(step / "digests")
    with pytest.raises(checkpoints.DamagedError, match="digests/metadata"):
        read(tmp_path, 1)
    metadata = json.loads((step / "_CHECKPOINT_METADATA").read_text())
    del metadata["item_handlers"]["digests"]
    (step / "_CHECKPOINT_METADATA").write_text(json.dumps(metadata))
    for _ in range(2):
        jax.tree.map(np.testing.assert_array_equal, read(tmp_path, 1), PARAMS)
    assert capsys.readouterr().err.count("of an earlier version without digests") == 1


def test_arrays_of_another_network_are_no_damage(golden):
    for other in ({"w": PARAMS["w"].T}, {"w": PARAMS["w"].astype(jnp.bfloat16)}):
        with pytest.raises(
            errors.InputError, match=r"another network: its params\['w'\] is float32\[50, 60\], "
        ) as said:
            checkpoints.restore(golden.parent.parent, 1, params=PARAMS | other)
        assert not isinstance(said.value, checkpoints.DamagedError)


def test_the_newest_that_is_whole_is_used_and_the_damaged_are_kept(golden, tmp_path, capsys):
    for step in (1, 2, 4, 5):
        shutil.copytree(golden, paths.checkpoint(tmp_path, step))  # all but the first have digests of another step
    paths.checkpoint(tmp_path, 7).mkdir()
    (paths.checkpoint(tmp_path, 5) / "_CHECKPOINT_METADATA").unlink()
    (paths.checkpoints(tmp_path) / "damaged-7").mkdir()
    step, items = checkpoints.restore_newest(tmp_path, params=PARAMS, opt_state=MOMENTS)
    assert step == 1
    same(items)
    said = capsys.readouterr().err
    assert said.count("Step 1 is used in its place") == 4 and "checkpoints/7 cannot be read" in said
    moved = checkpoints.set_aside(tmp_path, step)
    assert [path.name for path in moved] == ["damaged-2", "damaged-4", "damaged-5", "damaged-7-2"]
    assert (moved[0] / "params").is_dir()
    assert checkpoints.steps(tmp_path) == [1]
    with checkpoints.Writer(tmp_path, {}, keep=1) as writer:
        writer.save(2, PARAMS, MOMENTS)
    assert checkpoints.steps(tmp_path) == [2]
    assert all(path.exists() for path in moved)


def test_when_all_are_damaged_all_are_named_and_none_is_touched(tmp_path):
    for step in (3, 6):
        paths.checkpoint(tmp_path, step).mkdir(parents=True)
    with pytest.raises(errors.InputError, match=r"no checkpoint in .* can be used:(?s:.*)/6 cannot(?s:.*)/3 cannot"):
        checkpoints.restore_newest(tmp_path, params=PARAMS)
    assert checkpoints.steps(tmp_path) == [3, 6]


def test_what_says_nothing_about_the_files_is_no_damage(golden, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(orbax_folder, "read", refuse)
    with pytest.raises(errors.InputError, match="Permission denied.* It may be intact") as said:
        read(golden.parent.parent, 1)
    assert not isinstance(said.value, checkpoints.DamagedError)


def test_a_deleted_step_is_told_from_a_damaged_one(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def delete_meanwhile(*_):
        shutil.rmtree(tmp_path / "checkpoints/1")
        raise KeyError("an item is gone")

    with monkeypatch.context() as patched:
        patched.setattr(orbax_folder, "read", delete_meanwhile)
        with pytest.raises(FileNotFoundError, match="checkpoints/1 has been deleted"):
            read(tmp_path, 1)
    with pytest.raises(FileNotFoundError):
        read(tmp_path, 1)


def test_unfinished_saves_are_not_listed_and_go(golden, tmp_path):
    folder = paths.checkpoints(tmp_path / "[a]")
    shutil.copytree(golden, folder / "1")
    shutil.copytree(golden, folder / "3.orbax-checkpoint-tmp")
    for other in ("007", "x", "damaged-4", "\u0663"):
        (folder / other).mkdir()
    assert checkpoints.steps(tmp_path / "[a]") == [1]
    checkpoints.remove_unfinished(tmp_path / "[a]")
    assert {p.name for p in folder.iterdir()} == {"1", "007", "x", "damaged-4", "\u0663"}


def test_a_step_that_is_there_is_not_saved_again(tmp_path):
    paths.checkpoint(tmp_path, 7).mkdir(parents=True)
    with pytest.raises(errors.InputError, match=r"step 3 was not saved: .* holds the steps \[7\]"):
        write(tmp_path, 3)


def test_the_newest_and_the_best_are_kept(golden, tmp_path):
    for step in range(1, 6):
        shutil.copytree(golden, paths.checkpoint(tmp_path, step))
    checkpoints.delete_old(tmp_path, 2, 1)
    assert checkpoints.steps(tmp_path) == [1, 4, 5]
    assert {p.name for p in paths.checkpoints(tmp_path).iterdir()} == {"1", "4", "5"}
    checkpoints.delete_old(tmp_path, 9, None)
    assert checkpoints.steps(tmp_path) == [1, 4, 5]


def test_nothing_is_deleted_while_an_evaluator_reads(golden, tmp_path):
    for step in (1, 2, 3):
        shutil.copytree(golden, paths.checkpoint(tmp_path, step))
    with files.lock(paths.reading_lock(tmp_path)):
        checkpoints.delete_old(tmp_path, 1, None)
        assert checkpoints.steps(tmp_path) == [1, 2, 3]
    checkpoints.delete_old(tmp_path, 1, None)
    assert checkpoints.steps(tmp_path) == [3]


def test_a_writer_keeps_as_many_as_it_is_told(tmp_path):
    with checkpoints.Writer(tmp_path, {}, keep=2) as writer:
        for step in range(1, 5):
            writer.save(step, PARAMS, MOMENTS)
    assert checkpoints.steps(tmp_path) == [3, 4]
