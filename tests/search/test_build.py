"""An index of embeddings: only what is new is embedded, whatever happens to the files meanwhile."""

import os
from pathlib import Path

import numpy as np
import photographs
import pytest

import symm_jax
from symm_jax.app import fields
from symm_jax.errors import InputError
from symm_jax.search import Index, build, decoding, images, index

pytestmark = pytest.mark.usefixtures("module_on_one_device")


@pytest.fixture
def embedded(network, monkeypatch):
    """The numbers of pictures that were decoded, call by call."""
    counts = []
    plain = decoding.decode_ahead

    def counted(sources, count, *others):
        counts.append(count)
        return plain(sources, count, *others)

    monkeypatch.setattr(decoding, "decode_ahead", counted)
    return counts


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def test_only_what_is_new_or_changed_is_embedded(network, photos, tmp_path, embedded):
    out = tmp_path / "index"
    assert build.build(network, photos, out) == []
    first = Index(out)
    assert first.paths == [str(path) for path in sorted(photos.rglob("*.jpg"))] and len(first) == 12
    assert first.labels == sorted(("apple", "lemon", "melon", "pear") * 3)
    np.testing.assert_array_equal(first.embeddings, network.embed(photos))
    assert set(content(out)) == {*index.FILES, ".lock"}
    before = content(out)
    embedded.clear()
    build.build(network, photos, out)
    assert embedded == [] and content(out) == before
    os.utime(photos / "apple/0.jpg", ns=(1, 1))  # the same content: read, not embedded
    photographs.photograph(photos / "apple/4.jpg", 200)
    photographs.photograph(photos / "pear/new.jpg", 210)
    (photos / "lemon/1.jpg").unlink()
    build.build(network, photos, out)
    second = Index(out)
    assert embedded == [3]
    assert second.paths == [str(path) for path in sorted(photos.rglob("*.jpg"))]
    np.testing.assert_array_equal(second.embeddings, network.embed(photos))
    assert second.rows[0].modified == 1
    embedded.clear()
    photos.rename(tmp_path / "moved")
    build.build(network, tmp_path / "moved", out)
    assert embedded == [] and Index(out).paths[0].startswith(str(tmp_path / "moved"))


def test_a_killed_run_goes_on_and_ends_with_the_same_files(network, photos, tmp_path, embedded, monkeypatch):
    build.build(network, photos, tmp_path / "whole")
    monkeypatch.setattr(build, "_CHUNK_SECONDS", 0.0)
    out, writes = tmp_path / "index", []
    write = build._write_chunk

    def killed(*arguments):
        if len(writes) == 2:
            raise SystemExit
        writes.append(write(*arguments))
        return writes[-1]

    monkeypatch.setattr(build, "_write_chunk", killed)
    with pytest.raises(SystemExit):
        build.build(network, photos, out)
    monkeypatch.setattr(build, "_write_chunk", write)
    damaged = sorted((out / "unfinished").glob("*.npy"))[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    build.build(network, photos, out)
    assert embedded[1:] == [12, 8]  # one chunk of four was whole
    assert content(out) == content(tmp_path / "whole") | {".lock": (out / ".lock").read_bytes()}


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_an_index_is_whole_wherever_its_replacement_is_killed(network, photos, tmp_path, monkeypatch, renamed):
    out, plain = tmp_path / "index", Path.replace
    build.build(network, photos, out)
    (photos / "lemon/1.jpg").unlink()
    before, count = content(out), iter(range(9))

    def replace(self, target):
        if self.name == "index.json.next.partial" and not renamed:
            raise OSError(28, "No space left on device")
        if self.suffix == ".next" and next(count) == renamed:
            raise SystemExit
        return plain(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(SystemExit if renamed else OSError):
        build.build(network, photos, out)
    assert len(Index(out)) == (11 if renamed else 12)
    assert renamed or content(out) == before  # nothing new counts before all of it is there
    monkeypatch.setattr(Path, "replace", plain)
    build.build(network, photos, out)
    assert len(Index(out)) == 11 and set(content(out)) == {*index.FILES, ".lock"}


def test_damaged_pictures_are_listed_and_the_others_embedded(network, photos, tmp_path, embedded):
    (photos / "pear/3.jpg").write_bytes(b"cut")
    (photos / "pear/gone.jpg").symlink_to("/absent.jpg")
    faults = build.build(network, photos, tmp_path / "index")
    assert len(faults) == 2 and "gone.jpg" in faults[0] and "3.jpg" in faults[1]
    assert (tmp_path / "index/damaged.txt").read_text().splitlines() == faults
    assert len(Index(tmp_path / "index")) == 11
    photographs.photograph(photos / "pear/3.jpg", 100)
    (photos / "pear/gone.jpg").unlink()
    assert build.build(network, photos, tmp_path / "index") == []
    assert not (tmp_path / "index/damaged.txt").exists() and embedded[-1] == 1
    for path in photos.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of the pictures .*can be used:\n.*apple/0.jpg"):
        build.build(network, photos, tmp_path / "index")
    assert len(Index(tmp_path / "index")) == 12


def test_archives_leftovers_and_odd_names(network, tmp_path, capsys):
    photos = tmp_path / "photos"
    for name in ("a/1.jpg", "b/2.JPEG", "b/.hidden.jpg", "@eaDir/3.jpg", "more/c/4.jpg", "more/c/5.jpg"):
        photographs.photograph(photos / name.replace("JPEG", "jpeg"), 50)
    photographs.pack(photos, "more.zip", root="more")
    odd = os.fsdecode(b'b/\xff,"\\x41\n.jpg')
    photographs.photograph(photos / "b/odd.jpg", 60)
    (photos / "b/odd.jpg").rename(photos / odd)
    (photos / "b/notes.txt").write_text("")
    build.build(network, photos, tmp_path / "index")
    found = Index(tmp_path / "index")
    assert [row.path for row in found.rows] == ["a/1.jpg", "b/2.jpeg", odd, "more/c/4.jpg", "more/c/5.jpg"]
    assert found.labels == ["a", "b", "b", "more", "more"]
    assert Path(found.paths[2]).exists()
    assert "files of other kinds are ignored, 1 in all, such as b/notes.txt" in capsys.readouterr().err


def swap_embeddings(folder):
    np.save(folder / "embeddings.npy", np.ones((12, 8), np.float32))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "embeddings.npy").write_bytes(b"cut"), "embeddings.npy is not what was written"),
        (swap_embeddings, "embeddings.npy is not what was written"),
        (lambda f: (f / "images.csv").unlink(), "images.csv"),
        (lambda f: (f / "index.json").write_text("{"), "is damaged"),
        (lambda f: (f / "index.json").write_text('{"version": 1, "files": {}}'), "no digests"),
        (lambda f: (f / "index.json").unlink(), "No such file"),
    ],
)
def test_a_damaged_index_is_refused_and_left_as_it_is(network, photos, tmp_path, damage, message):
    build.build(network, photos, tmp_path / "index")
    damage(tmp_path / "index")
    before = content(tmp_path / "index")
    for use in (Index, lambda folder: build.build(network, photos, folder)):
        with pytest.raises(InputError, match=f"(?s)is damaged.*{message}|{message}.*Restore it"):
            use(tmp_path / "index")
    assert content(tmp_path / "index").keys() == before.keys()


def test_wrong_folders_are_refused(network, workdir, photos, tmp_path):
    out = tmp_path / "index"
    build.build(network, photos, out)
    before = content(out)
    other = symm_jax.load(workdir, step=2)
    with pytest.raises(InputError) as error:
        build.build(other, photos, out)
    text = fields.describe(error.value)
    assert network.weights["sha256"] in text and other.weights["sha256"] in text and "step 2" in text
    assert text.startswith("--out: ") and text.endswith("Another folder: --out=FOLDER.")
    with pytest.raises(InputError, match="as float32, and this command as float16") as error:
        build.build(network, photos, out, dtype="float16")
    assert fields.describe(error.value).startswith("--float16: ")
    photographs.photograph(tmp_path / "others/1.jpg", 9)
    for pictures, folder, message in [
        (tmp_path / "others", out, "none of them is in"),
        (photos / "pear", photos, "lie in the folder"),
        (photos, workdir, "is not an index and holds other files"),
        (photos, photos / "pear/3.jpg", "is a file"),
        (workdir, tmp_path / "new", "holds no pictures"),
        (tmp_path / "absent", tmp_path / "new", "does not exist"),
    ]:
        with pytest.raises(InputError, match=message):
            build.build(network, pictures, folder)
    assert content(out) == before and not (tmp_path / "new").exists()
    for folder, step, message in [(tmp_path, None, "holds no checkpoints"), (workdir, 3, r"step 3. Its steps: 1, 2")]:
        with pytest.raises(InputError, match=message):
            symm_jax.load(folder, step)
    with pytest.raises(InputError, match="is not an index"):
        Index(photos)
    (out / "images.csv").write_text("")
    with pytest.raises(InputError, match="is damaged") as error:
        build.build(network, photos, out)
    assert error.value.argument == "out"


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(photos, monkeypatch):
    scan = os.scandir

    def refusing(folder):
        if str(folder).endswith("pear"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match="pear cannot be read .*Or move it out"):
        images.list_pictures(photos)
