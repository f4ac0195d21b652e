"""Records and arrays are built by workers or in one process, and a failed build leaves nothing behind."""

import pickle
import shutil
import subprocess
import sys
import tempfile
import types
import zlib

import numpy as np
import photographs
import pytest

from symm_jax import errors
from symm_jax.data import arrays, checksums, datasets
from symm_jax.data.cars196 import Cars196
from symm_jax.data.example_proto import Example
from symm_jax.data.inshop import Inshop
from symm_jax.data.records import Records


def test_builders_work_with_tfds_alone(cars, tmp_path):
    import tensorflow_datasets as tfds

    builder = Cars196(data_dir=tmp_path / "tfds")
    config = tfds.download.DownloadConfig(manual_dir=cars)
    builder.download_and_prepare(download_config=config, file_format="array_record")
    assert builder.info.splits["train"].num_examples == 15
    (example,) = [e for e in builder.as_data_source("test") if e["filename"] == b"car_ims/000016.jpg"]
    assert example["image"].shape == (48, 64, 3) and example["label"] == 98


@pytest.mark.parametrize(("kind", "make"), [(Cars196, photographs.cars_original), (Inshop, photographs.inshop)])
def test_records_are_read_as_by_tfds(kind, make, tmp_path):
    import tensorflow_datasets as tfds

    make(tmp_path / "source")
    builder = kind(data_dir=tmp_path / "tfds")
    config = tfds.download.DownloadConfig(manual_dir=tmp_path / "source")
    builder.download_and_prepare(download_config=config, file_format="array_record")
    decoders = {"image": tfds.decode.SkipDecoding()}
    for split, expected in builder.as_data_source(decoders=decoders).items():
        found = pickle.loads(pickle.dumps(Records(builder, split)))
        assert len(found) == len(expected) > 0
        for mine, theirs in zip(found, expected, strict=True):
            assert {**mine, "box": list(mine.get("box", []))} == {**theirs, "box": list(theirs.get("box", []))}
        rows = np.array([2, 0])
        assert [e["filename"] for e in Records(builder, split, rows)] == [expected[i]["filename"] for i in (2, 0)]


def test_records_of_several_files_are_read_in_any_order(tmp_path):
    from array_record.python import array_record_module

    paths = [tmp_path / name for name in ("a", "empty", "b")]
    for path, labels in zip(paths, [(0, 1, 2), (), (3, 4)], strict=True):
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for label in labels:
            example = Example()
            example.features.feature["label"].int64_list.value.append(label)
            writer.write(example.SerializeToString())
        writer.close()
    info = types.SimpleNamespace(
        features={"label": types.SimpleNamespace(shape=())},
        splits={"all": types.SimpleNamespace(filepaths=paths, num_examples=5)},
    )
    records = Records(types.SimpleNamespace(data_path=tmp_path, info=info), "all", np.array([4, 0, 3, 2, 1]))
    assert [example["label"] for example in pickle.loads(pickle.dumps(records))] == [4, 0, 3, 2, 1]


def test_a_checksum_is_that_of_zlib():
    content = np.random.default_rng(0).integers(0, 256, (3, 1000), np.uint8)
    assert [checksums.crc32(row) for row in content] == [zlib.crc32(row) for row in content]


def test_a_build_leaves_no_temporary_folder(cars, data_source, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    datasets.load(data_source("cars196", cars), "train", 16)
    assert not list((tmp_path / "temporary").iterdir())


def test_a_cache_in_the_data_folder_is_not_data(cars, data_source, tmp_path):
    source = data_source("cars196", cars)._replace(cache_dir=str(cars / "cache"))
    first = datasets.load(source, "train", 16)
    assert datasets.load(source, "train", 16).images.filename == first.images.filename


def test_a_damaged_photograph_in_an_archive_is_named_and_no_records_stay(cars, data_source, tmp_path):
    photographs.pack(cars, "all.zip")
    content = bytearray((cars / "all.zip").read_bytes())
    content[content.index(b"car_ims/000002.jpg") + 500] ^= 1
    (cars / "all.zip").write_bytes(content)
    with pytest.raises(errors.InputError, match="all.zip cannot be read as an archive .*000002.jpg"):
        datasets.load(data_source("cars196", cars), "train", 16)
    assert not list((tmp_path / "cache").rglob("*.array_record*"))


def test_too_little_disk_is_named_before_anything_is_written(cars, data_source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 100, 100))
    with pytest.raises(errors.InputError, match=r"cache_dir: .* needs .* MB for records and has 0 MB free"):
        datasets.load(data_source("cars196", cars), "train", 16)
    assert not list((tmp_path / "cache").rglob("*.array_record*"))


def test_workers_decode_the_same_arrays(cars, data_source, monkeypatch):
    source = data_source("cars196", cars)
    alone = datasets.load(source, "train", 16)
    monkeypatch.setattr(arrays, "_MIN_FOR_WORKERS", 1)
    monkeypatch.setattr(arrays, "_VERSION", "of-workers")
    monkeypatch.setattr(arrays, "_CHUNK", 2)
    together = datasets.load(source, "train", 16)
    assert together.images.filename != alone.images.filename
    for ours, theirs in zip(together[:3], alone[:3], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    path = cars / "car_ims/000002.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(errors.InputError, match="car_ims/000002.jpg cannot be decoded"):
        datasets.load(source, "train", 16)


@pytest.mark.parametrize("n", [0, 1, 63, 1500])
def test_chunks_are_all_rows_and_the_last_ones_are_small(n):
    chunks = [*arrays._chunks(n, 2)]
    assert [row for chunk in chunks for row in chunk] == [*range(n)]
    assert all(len(chunk) <= max(4, n // 8) <= 187 for chunk in chunks) and len((chunks or [()])[-1]) <= 4


def test_leftovers_of_a_killed_process_are_removed(cars, data_source, tmp_path):
    source = data_source("cars196", cars)
    code = (
        "import os, sys; from symm_jax.data import builder, datasets; "
        "builder.Tree.in_reading_order = lambda *_: os._exit(9); "
        "datasets.load(datasets.Source('cars196', *sys.argv[1:]), 'train', 16)"
    )
    killed = subprocess.run([sys.executable, "-c", code, source.dir, source.cache_dir], timeout=60, check=False)
    assert killed.returncode == 9 and list((tmp_path / "cache").rglob("incomplete.*"))
    assert len(datasets.load(source, "train", 16).labels) == 15
    assert not list((tmp_path / "cache").rglob("incomplete.*"))


def test_a_cache_that_cannot_be_created_is_named(cars, data_source, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(errors.InputError, match="cache_dir: .* cannot be created"):
        datasets.load(data_source("cars196", cars)._replace(cache_dir=str(tmp_path / "file")), "train", 16)


def test_workers_end_when_their_parent_is_killed(tmp_path):
    code = (
        "import io, os, PIL.Image; from pathlib import Path; from symm_jax.data import arrays\n"
        "file = io.BytesIO(); PIL.Image.new('RGB', (8, 8)).save(file, 'png')\n"
        "source = [{'image': file.getvalue(), 'label': 0, 'filename': 'x'}] * 400\n"
        "arrays._CHUNK = 1; arrays.tqdm.tqdm.update = lambda *_: os.kill(os.getpid(), 9)\n"
        f"arrays.load(source, Path({str(tmp_path)!r}), 'all', arrays.Options(8))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        process.communicate(timeout=20)  # returns when the last worker has closed its output
    assert process.returncode == -9
