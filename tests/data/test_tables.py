"""Annotation readers: errors name the file, the line and the field, and damaged files never crash the program."""

import io

import numpy as np
import photographs
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from symm_jax import errors, matfile
from symm_jax.data import datasets, tables

PARSERS = (tables.parse_relative_path, tables.parse_int, tables.parse_float)


def rows(text, **options):
    return list(tables.rows(text.encode() if isinstance(text, str) else text, "t.txt", PARSERS, **options))


def test_rows_of_text():
    assert rows("\ufeffhead\na/b.jpg 3 0.5\r\n\n  c.jpg\t4.0 -1e3 \n", header=1) == [
        ("a/b.jpg", 3, 0.5),
        ("c.jpg", 4, -1e3),
    ]
    assert rows('"a, b.jpg",3,0.5\n', separator=",") == [("a, b.jpg", 3, 0.5)]
    odd = "Screenshot\u202f\u00a0\u2028\u0085.jpg"  # white space that str.split and str.splitlines would cut
    assert rows(f"{odd} 1 2\r{odd} 3 4") == [(odd, 1, 2.0), (odd, 3, 4.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 1\n", "line 1: 2 fields instead of 3"),
        ("a.jpg 1 2\nb.jpg 1.5 2\n", "line 2: '1.5' is not an integer"),
        ("a.jpg x 2\n", "line 1: 'x' is not a number"),
        ("a.jpg 1 nan\n", "'nan' is not a number"),
        ("a.jpg 1 inf\n", "'inf' is not a number"),
        ("a.jpg 1_0 2\n", "'1_0' is not a number"),
        ("a.jpg ٣ 2\n", "is not a number"),
        ("a.jpg 1e99 2\n", "is not a number"),
        ("/etc/passwd 1 2\n", "is not a relative file path"),
        ("a/../b.jpg 1 2\n", "is not a relative file path"),
        ("a\\b.jpg 1 2\n", "is not a relative file path"),
        (f"{'a' * 2000} 1 2\n", "fields instead of 3"),
        (b"\xff\xfe\x00", "is not a text file"),
    ],
)
def test_faults_of_a_text_are_named(text, message):
    with pytest.raises(errors.InputError, match=message) as error:
        rows(text)
    assert "t.txt" in str(error.value)


def test_faults_of_csv_are_named():
    with pytest.raises(errors.InputError, match="line 1"):
        rows('"a.jpg,1,2\n', separator=",")


STRUCT_PARSERS = {"fname": tables.parse_relative_path, "class": tables.parse_int}


def mat(path, rows=(("a.jpg", 3), ("b.jpg", 4)), fields=("fname", "class")):
    photographs.structs(path, "annotations", rows, fields)
    return path.read_bytes()


def read(content):
    return list(tables.structs(content, "x.mat", "annotations", STRUCT_PARSERS))


def test_structs_of_matlab(tmp_path):
    assert read(mat(tmp_path / "x.mat")) == [("a.jpg", 3), ("b.jpg", 4)]
    assert read(mat(tmp_path / "x.mat", [("a.jpg", 3)])) == [("a.jpg", 3)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: mat(p, [("a.jpg", np.arange(3)), ("b.jpg", 4)]), "2 of 'fname', 0 of 'class'"),
        (lambda p: mat(p, [("a.jpg", "x"), ("b.jpg", 4)]), "2 of 'fname', 0 of 'class'"),
        (lambda p: mat(p, [("a.jpg",)], ("fname",)), "1 of 'fname', 0 of 'class'"),
        (lambda p: mat(p, [("a.jpg", float("nan"))]), r"annotations\(1\): 'nan' is not a number"),
        (lambda p: mat(p)[:300], "cannot be read as a MATLAB file"),
        (lambda p: mat(p)[:128], "no complete struct array"),
        (lambda p: b"", "cannot be read as a MATLAB file"),
        (lambda p: b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400), "cannot be read as a MATLAB file"),
    ],
    ids=["array", "text", "field", "nan", "cut", "header", "empty", "version"],
)
def test_faults_of_matlab_are_named(make, message, tmp_path):
    with pytest.raises(errors.InputError, match=message) as error:
        read(make(tmp_path / "x.mat"))
    assert str(error.value).startswith("x.mat")


def test_a_reader_that_crashes_or_fills_memory_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"a": np.zeros(5_000_000)}, do_compression=True)
    assert path.stat().st_size < 1e6
    assert matfile.read(path)["a"].size == 5_000_000
    monkeypatch.setattr(matfile, "_MAX_MEMORY", 2**27)
    with pytest.raises(errors.InputError, match="cannot be read as a MATLAB file"):
        matfile.read(path)
    monkeypatch.setattr(matfile, "_PROGRAM", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(errors.InputError, match="cannot be read as a MATLAB file .*-11"):
        matfile.read(path)


def test_nothing_in_a_matlab_file_is_unpickled(tmp_path):
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    (tmp_path / "x.mat").write_bytes(file.getvalue())
    with pytest.raises(errors.InputError, match="cannot be read"):
        matfile.read(tmp_path / "x.mat")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(content=st.one_of(st.binary(max_size=60), st.text().map(str.encode)), separator=st.sampled_from([None, ","]))
def test_any_text_is_a_table_or_is_named(content, separator):
    try:
        for name, label, value in rows(content, separator=separator):
            assert isinstance(label, int) and abs(value) < 1e9 and not {"..", ""} & {*name.split("/")}
    except errors.InputError as error:
        assert "t.txt" in str(error)


def damaged(data, content):
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    return bytes(content)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_damaged_matlab_files_are_read_or_named(data, tmp_path_factory):
    content = damaged(data, mat(tmp_path_factory.mktemp("fuzz") / "x.mat"))
    try:
        found = read(content)
    except errors.InputError as error:
        assert str(error).startswith("x.mat")
    else:
        assert all(isinstance(name, str) and isinstance(label, int) for name, label in found)


TEXTS = {
    "cars196": (photographs.cars_by_classes, "anno_train.csv"),
    "cub200_2011": (photographs.cub, "CUB_200_2011/bounding_boxes.txt"),
    "sop": (photographs.sop, "Stanford_Online_Products/Ebay_train.txt"),
    "inshop": (photographs.inshop, "Eval/list_eval_partition.txt"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_damaged_tables_are_read_or_named(name, tmp_path):
    from symm_jax.data.tree import Tree

    write, table = TEXTS[name]
    write(tmp_path)
    path, whole = tmp_path / table, (tmp_path / table).read_bytes()
    builder = datasets.BUILDERS[name](data_dir=tmp_path / "tfds")

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(data=st.data())
    def fuzz(data):
        path.write_bytes(damaged(data, whole))
        try:
            found = builder.scan(Tree(tmp_path))
        except errors.InputError as error:
            assert str(tmp_path) in str(error) or table in str(error)
        else:
            for examples in found.splits.values():
                for e in examples.values():
                    assert 0 <= e.label < builder.NUM_CLASSES
                    assert e.box is None or (0 <= e.box[0] < e.box[2] and 0 <= e.box[1] < e.box[3])

    fuzz()
