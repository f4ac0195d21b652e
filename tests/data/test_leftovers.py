"""Files that nobody meant as data: leftovers, archives that are unpacked already, and what cannot be read."""

import os
import re
import shutil
import tarfile
import zipfile

import photographs
import pytest

from symm_jax import errors
from symm_jax.data import archives, datasets
from symm_jax.data.tree import Tree, as_text

LEFTOVERS = (
    *("@eaDir/0.jpg/SYNOPHOTO_THUMB_XL.jpg", "#recycle/0.jpg", "@Recently-Snapshot/x/0.jpg", "$RECYCLE.BIN/S-1/0.jpg"),
    *("lost+found/0.jpg", ".Trash-1000/files/0.jpg", ".thumbnails/0.jpg", ".AppleDouble/0.jpg", "__MACOSX/a/0.jpg"),
    *("._0.jpg", ".DS_Store", "Thumbs.db", "thumbs.db", "Desktop.ini", ".ipynb_checkpoints/0-checkpoint.jpg"),
)


def write(root, *names, grey=0):
    for k, name in enumerate(names):
        photographs.photograph(root / f"{name}.png", grey + k)
        (root / f"{name}.png").rename(root / name)


def classes(root, count=4):
    for i in range(count):
        write(root, f"{'abcdef'[i]}/0.jpg", f"{'abcdef'[i]}/1.jpg", grey=10 * i)


def entries(root):
    return sorted(Tree(root).entries)


def scan(name, root):
    """{split: {path: example}}."""
    return datasets.BUILDERS[name](data_dir=root.parent / "tfds").scan(Tree(root)).splits


def pack(archive, root, names):
    """A zip of {file below root: name of the member}."""
    with zipfile.ZipFile(archive, "w") as file:
        for name, member in names.items():
            file.write(root / name, member)


def patch_zip(path, offset, value):
    """Overwrites a byte of the first member's header in the central directory."""
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + offset] = value
    path.write_bytes(content)


def test_leftovers_are_not_pictures(tmp_path):
    classes(tmp_path)
    clean = entries(tmp_path)
    write(tmp_path, *LEFTOVERS, *(f"a/{name}" for name in LEFTOVERS))
    assert entries(tmp_path) == clean
    photographs.pack(tmp_path, "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as file:
        assert len(file.namelist()) > len(LEFTOVERS)
    assert entries(tmp_path) == clean


@pytest.mark.parametrize("inside", ["", "pets/"])
def test_an_archive_beside_its_unpacked_folder_is_used_once(inside, tmp_path, capsys):
    classes(tmp_path / "pets")
    clean = entries(tmp_path)
    pack(tmp_path / "pets.zip", tmp_path, {name: inside + name.removeprefix("pets/") for name in clean})
    if inside:  # Windows unpacks pets.zip to pets/pets/
        (tmp_path / "pets").rename(tmp_path / "x")
        (tmp_path / "pets").mkdir()
        (tmp_path / "x").rename(tmp_path / "pets/pets")
        clean = [f"pets/{name}" for name in clean]
    assert entries(tmp_path) == clean
    assert sum(map(len, scan("folder", tmp_path).values())) == 8
    assert "is unpacked already" not in capsys.readouterr().err
    (tmp_path / clean[0]).unlink()
    assert entries(tmp_path) == clean
    assert "7 of its 8 files are in the data folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: patch_zip(path, 8, 1), "is encrypted. Unpack the archive with its password"),
        (lambda path: patch_zip(path, 10, 9), "compressed by Deflate64, .* with 7z or unzip"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "cannot be read as an archive .* Download it again"),
    ],
    ids=["encrypted", "deflate64", "truncated"],
)
def test_an_archive_that_is_not_needed_does_not_block(damage, message, tmp_path, capsys):
    photographs.inshop(tmp_path)
    pack(tmp_path / "img.zip", tmp_path, {name: name for name in entries(tmp_path) if name.startswith("img/")})
    damage(tmp_path / "img.zip")
    assert len(scan("inshop", tmp_path)["train"]) == 6
    warned = capsys.readouterr().err
    assert re.search(f"img.zip.*{message}.* It is left out", warned)
    shutil.rmtree(tmp_path / "img")
    with pytest.raises(errors.InputError, match=f"has none of the(.|\n)*{message}"):
        scan("inshop", tmp_path)


def test_a_broken_archive_in_a_folder_of_classes(tmp_path, capsys):
    classes(tmp_path)
    (tmp_path / "e.zip").write_bytes(b"PK")
    assert len(scan("folder", tmp_path)["train"]) == 4
    assert "e.zip cannot be read as an archive" in capsys.readouterr().err
    pack(tmp_path / "f.zip", tmp_path, {"a/0.jpg": "f/0.jpg"})  # classes come from archives, so one of e.zip's may too
    with pytest.raises(errors.InputError, match=r"e.zip cannot be read as .* Or move it out of the data folder.$"):
        scan("folder", tmp_path)


def test_a_folder_that_cannot_be_read_matters_when_photographs_are_missing(tmp_path, deny, capsys):
    photographs.cub(tmp_path)
    (tmp_path / "private").mkdir()
    deny("private")
    assert len(scan("cub200_2011", tmp_path)["train"]) == 6
    assert "private cannot be read (Permission denied). Make it readable. It is left out" in capsys.readouterr().err
    next(tmp_path.rglob("*_0001.jpg")).unlink()
    with pytest.raises(errors.InputError, match=r"lacks 1 of the 6 (.|\n)*private cannot be read \(Permission"):
        scan("cub200_2011", tmp_path)


def test_top_folders_are_located_one_by_one(tmp_path):
    names = [f"cars_{half}/{k}.jpg" for half in ("train", "test") for k in range(3)]
    nested = [f"{name.split('/')[0]}/{name}" for name in names]  # as Kaggle packs them
    for name in (*nested, "a/cars_test/0.jpg", "cars_train/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert Tree(tmp_path).locate([*names, "cars_test/9.jpg", "other.jpg"]) == [*nested, None, None]


def test_most_of_a_split_must_be_there(tmp_path):
    photographs.cub(tmp_path)
    for k in range(2, 6):
        next(tmp_path.rglob(f"*_{k:04d}.jpg")).unlink()
    with pytest.raises(errors.InputError, match=r"lacks 4 of the 6 .* such as images/\S*_0002.jpg, .*_0005.jpg\. "):
        scan("cub200_2011", tmp_path)


@pytest.mark.parametrize("layout", ["{}", "{half}/{}"])
def test_pictures_of_rare_endings_count_and_lost_classes_are_named(layout, tmp_path, capsys):
    classes(tmp_path)
    (tmp_path / "a/0.jpg").rename(tmp_path / "a/0.JFIF")
    (tmp_path / "b/0.jpg").rename(tmp_path / "b/0.jpe")
    for name in ("e/0.heic", "e/1.HEIC", "f/readme", "a/notes/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    if "half" in layout:
        for half, names in {"train": "abef", "test": "cd"}.items():
            for name in names:
                (tmp_path / half).mkdir(exist_ok=True)
                (tmp_path / name).rename(tmp_path / half / name)
    assert sum(map(len, scan("folder", tmp_path).values())) == 8
    e, f = (layout.format(name, half="train") for name in "ef")
    assert f"2 folders have files but no pictures, and are not classes: {e} (.heic), {f} (no ending)" in (
        capsys.readouterr().err
    )


ODD_NAMES = ("Screenshot 1.02.03\u202fPM.jpg", "no\u00a0break.jpg", "back\\slash.jpg", "line\nbreak.jpg")


def test_odd_names_are_read_from_archives(tmp_path):
    names = [f"d/{name}" for name in (*ODD_NAMES, "a/../b.jpg", "a\\..\\c.jpg")]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zip_, tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in names:
            zip_.writestr(name, b"1")
            tar.addfile(tarfile.TarInfo(name))
    expected = [*(f"d/{name}".replace("\\", "/") for name in ODD_NAMES), "d/b.jpg", "d/c.jpg"]
    for path in (tmp_path / "x.zip", tmp_path / "x.tar"):
        found = archives.members(path)
        assert list(found) == expected
        with archives.reader(path) as read:
            assert {len(read(member)) for member in found.values()} <= {0, 1}


def test_names_that_are_not_utf8_are_read(tmp_path, data_source, capsys):
    classes(tmp_path / "mine", 3)
    odd = os.fsdecode(b"x\xe9")
    write(tmp_path / "mine", f"{odd}/0.jpg", f"{odd}/1.jpg", grey=90)
    (tmp_path / "mine" / odd / "notes.txt").write_text("x")
    source = data_source("folder", tmp_path / "mine")
    assert len(datasets.load(source, "train", 16).labels) + len(datasets.load(source, "test", 16).labels) == 8
    assert "x\\xe9/notes.txt" in capsys.readouterr().err
    assert as_text(f"a\\xe9/{odd}") == "a\\\\xe9/x\\xe9"
    with pytest.raises(errors.InputError, match=r"cache_dir: the name of the folder .*x\\xe9 is not UTF-8"):
        datasets.load(source._replace(cache_dir=str(tmp_path / odd)), "train", 16)
