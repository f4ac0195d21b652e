"""A cache that is damaged, read-only, of before or on a full disk gives the same arrays, or one message."""

import contextlib
import errno
import io
import json
import os
import shutil

import joblib
import numpy as np
import photographs
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symm_jax import errors, files
from symm_jax.data import arrays, datasets, manifest
from symm_jax.data.records import DamagedRecords, Records


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A data set and its cache, which tests copy."""
    root = tmp_path_factory.mktemp("built")
    photographs.cars_original(root / "cars")
    datasets.load(datasets.Source("cars196", str(root / "cars"), str(root / "cache")), "train", 16)
    return root


@pytest.fixture
def source(built, tmp_path):
    shutil.copytree(built / "cache", tmp_path / "cache")
    return datasets.Source("cars196", str(built / "cars"), str(tmp_path / "cache"))


def load(source):
    return [np.array(x) for x in datasets.load(source, "train", 16)[:5] if x is not None]


def folder_of_arrays(source):
    return datasets.load(source, "train", 16).images.filename.parent


def flip(content, position):
    return content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]


def damaged(content):
    """Contents of a damaged file; None for a missing one."""
    return [b"", content[: len(content) // 2], content + b"0", bytes(len(content)), flip(content, -40), None]


def replace(path, content):
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "shorter.npy", "digests.npy", "manifest.json"])
def test_a_damaged_array_is_named_and_decoded_again(source, name, capsys):
    expected, path = load(source), folder_of_arrays(source) / name
    for content in damaged(path.read_bytes()):
        replace(path, content)
        errors.warn.cache_clear()
        for found, good in zip(load(source), expected, strict=True):
            np.testing.assert_array_equal(found, good)
        said = capsys.readouterr().err
        # A wrong digest in the manifest is reported as damage of the array.
        assert "The images are decoded again" in said and str(path if name != manifest.NAME else path.parent) in said
        load(source)
        assert "decoded again" not in capsys.readouterr().err


@pytest.mark.parametrize("change", ["dtype", "labels", "pictures swapped", "another split", "no digests"])
def test_whole_arrays_that_are_not_those_that_were_written_are_decoded_again(source, change, capsys):
    expected, folder = load(source), folder_of_arrays(source)
    images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
    if change == "dtype":
        np.save(folder / "images.npy", images.view(np.int8))
    if change == "labels":
        np.save(folder / "labels.npy", labels[::-1])
    if change == "pictures swapped":
        np.save(folder / "images.npy", images[::-1])
    if change == "another split":
        datasets.load(source, "test", 16)
        shutil.rmtree(folder)
        (folder.parent / folder.name.replace("train", "test")).rename(folder)
    if change == "no digests":
        (folder / manifest.NAME).unlink()
    for found, good in zip(load(source), expected, strict=True):
        np.testing.assert_array_equal(found, good)
    assert "The images are decoded again" in capsys.readouterr().err


def test_pixels_are_verified_once_or_not_at_all_on_request(source, monkeypatch):
    folder = folder_of_arrays(source)
    read = []
    monkeypatch.setattr(os, "pread", lambda *arguments, pread=os.pread: read.append(1) or pread(*arguments))
    load(source)
    assert not read
    replace(folder / "images.npy", flip((folder / "images.npy").read_bytes(), -2))
    monkeypatch.setenv("SYMM_JAX_VERIFY_PIXELS", "0")
    load(source)
    assert not read
    monkeypatch.delenv("SYMM_JAX_VERIFY_PIXELS")
    load(source)
    assert read


def test_what_is_decoded_is_read_once_and_not_read_back(source, monkeypatch):
    datasets.load(source, "test", 16)  # records the duplicates, for which all records are read
    shutil.rmtree(folder_of_arrays(source))
    read = []
    get = Records.__getitem__
    monkeypatch.setattr(Records, "__getitem__", lambda self, index: read.append(index) or get(self, index))
    monkeypatch.setattr(os, "pread", None)
    assert load(source)[0].shape == (15, 16, 16, 3)
    assert read == [*range(15)]


def test_the_manifest_lists_everything(source):
    folder = folder_of_arrays(source)
    listed = json.loads((folder / "manifest.json").read_text())["arrays"]
    assert {f"{name}.npy" for name in listed} == {path.name for path in folder.glob("*.npy")}
    for name, known in listed.items():
        array = np.load(folder / f"{name}.npy")
        assert (known["dtype"], known["shape"]) == (array.dtype.str, list(array.shape))
        assert known["bytes"] == (folder / f"{name}.npy").stat().st_size


def records_of(source):
    return next(datasets._open(source).root.rglob("*-train.array_record*"))


RECORD_DAMAGE = {
    "bit": (".array_record-", lambda content: flip(content, 5000)),
    "cut at a block": (".array_record-", lambda content: content[:65536]),
    "not JSON": ("dataset_info.json", lambda content: content[:300]),
    "other number": ("dataset_info.json", lambda content: content.replace(b'"15"', b'"05"')),
}


@pytest.mark.parametrize("damage", RECORD_DAMAGE)
def test_damaged_records_are_written_again(source, damage, capsys):
    expected = load(source)
    name, change = RECORD_DAMAGE[damage]
    (path,) = [path for path in records_of(source).parent.iterdir() if name in path.name and "-test." not in path.name]
    path.write_bytes(change(path.read_bytes()))
    shutil.rmtree(next(datasets._open(source).root.glob("arrays/train-*")))
    for found, good in zip(load(source), expected, strict=True):
        np.testing.assert_array_equal(found, good)
    said = capsys.readouterr().err
    assert str(path.parents[1]) in said and "damaged (" in said and "They are written again" in said


@pytest.mark.parametrize("change", [(b'"15"', b'"35"'), (b'"train"', b'"trbin"'), None])
def test_records_that_do_not_fit_their_description_are_damaged(source, change):
    path = records_of(source).with_name("dataset_info.json")
    replace(path, path.read_bytes().replace(*change) if change else None)
    with pytest.raises(DamagedRecords, match=f"the records in {path.parent} are damaged"):
        Records(datasets._open(source).create(), "train")


def test_records_with_any_changed_byte_or_any_length_are_read_right_or_not_at_all(source):
    builder, path = datasets._open(source).create(), records_of(source)
    good, content = list(Records(builder, "train")), path.read_bytes()
    assert len(good) == 15

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.integers(0, 36_000) | st.integers(65_536, 66_000), st.booleans())
    def check(position, cut):
        path.write_bytes(content[:position] if cut else flip(content, position))
        with contextlib.suppress(DamagedRecords):
            assert list(Records(builder, "train")) == good

    check()


def test_a_label_that_is_out_of_range_is_not_read(source):
    records = Records(datasets._open(source).create(), "train")
    records._num_classes = 1
    with pytest.raises(errors.InputError, match=r"record \d+ has label \d+ of 1 classes"):
        list(records)


def png():
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(file, "png")
    return file.getvalue()


EXAMPLES = [{"image": png(), "label": label, "filename": f"{label}.png"} for label in (0, 2**31 - 1)]


def test_a_label_of_64_bits_is_not_wrapped(tmp_path):
    assert list(arrays.load(EXAMPLES, tmp_path, "all", arrays.Options(8)).labels) == [0, 2**31 - 1]
    for label in (2**31, 2**32 + 5, -1):
        with pytest.raises(errors.InputError, match=f"image x has label {label}"):
            arrays.load([{**EXAMPLES[0], "label": label, "filename": "x"}], tmp_path, "bad", arrays.Options(8))


def refuse(number):
    def raise_error(*_, **__):
        raise OSError(number, os.strerror(number))

    return raise_error


def test_a_complete_cache_is_read_where_nothing_can_be_written(source, monkeypatch, capsys):
    expected, folder = load(source), folder_of_arrays(source)
    monkeypatch.setattr(files, "lock", refuse(errno.EROFS))
    monkeypatch.setattr(files, "new_directory", refuse(errno.EROFS))
    np.testing.assert_array_equal(load(source)[0], expected[0])
    with pytest.raises(errors.InputError, match=r"cache_dir: the decoded images .* \(Read-only file system\)"):
        datasets.load(source, "train", 12)
    (folder / manifest.NAME).rename(folder / "aside")
    np.testing.assert_array_equal(load(source)[0], expected[0])
    assert "have no digests and are not verified" in capsys.readouterr().err
    (folder / "aside").rename(folder / manifest.NAME)
    (folder / "labels.npy").write_bytes(b"")
    with pytest.raises(errors.InputError, match=r"labels.npy is damaged: it has 0 bytes .*Read-only file system"):
        load(source)
    records_of(source).write_bytes(b"")
    with pytest.raises(errors.InputError, match=r"cache_dir: the damaged records in .* \(Read-only file system\)"):
        load(source)


def test_a_full_disk_is_named_with_the_numbers_of_bytes(tmp_path, monkeypatch):
    for broken in ("posix_fallocate", "truncate"):
        with monkeypatch.context() as patch:
            if broken == "posix_fallocate":
                patch.setattr(os, "posix_fallocate", refuse(errno.ENOSPC))
            else:
                patch.setattr(arrays, "_decode_range", refuse(errno.EDQUOT))  # a worker cannot write
            with pytest.raises(errors.InputError, match=r"cache_dir: .* need 384 bytes, and the disk has [\d,]+ free"):
                arrays.load(EXAMPLES, tmp_path, "all", arrays.Options(8))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_reserve_space_is_used(tmp_path, monkeypatch, capsys, number):
    monkeypatch.setattr(os, "posix_fallocate", refuse(number))
    assert arrays.load(EXAMPLES, tmp_path, "all", arrays.Options(8)).images.shape == (2, 8, 8, 3)
    assert f"the file system of {tmp_path} cannot reserve space" in capsys.readouterr().err


def test_damaged_photographs_of_both_splits_are_listed_in_one_run(cars, data_source, monkeypatch):
    monkeypatch.setattr(datasets, "_MAX_LISTED", 2)
    names = [f"car_ims/{number:06d}.jpg" for number in (1, 3, 16, 17)]  # two of train, two of test
    for name in names:
        (cars / name).write_bytes(b"no picture")
    for split in ("train", "test"):
        with pytest.raises(errors.InputError, match=r"and 2 more. All 4 are listed in (.*)") as error:
            datasets.load(data_source("cars196", cars), split, 16)
        with open(str(error.value).rsplit("listed in ", 1)[1]) as file:
            listed = file.read().splitlines()
        assert [line.split()[1] for line in listed] == names


def test_there_are_as_many_workers_as_this_process_may_use(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_MIN_FOR_WORKERS", 1)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    asked, parallel = [], joblib.Parallel
    monkeypatch.setattr(joblib, "Parallel", lambda n, **options: asked.append(n) or parallel(n, **options))
    monkeypatch.setattr(os, "cpu_count", lambda: 52)
    arrays.load(EXAMPLES, tmp_path, "all", arrays.Options(8))
    assert asked == [1]
