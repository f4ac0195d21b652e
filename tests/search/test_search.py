"""Embedding one's own pictures: as evaluation does, only what is new, whatever happens to the files meanwhile."""

import json
import os
import shutil
from pathlib import Path

import cv2
import flax.linen as nn
import jax
import numpy as np
import photographs
import PIL.Image
import pytest

import symm_jax
from configs.pretrained import efficientnet_lite0
from symm_jax import models
from symm_jax.app import config_check, fields
from symm_jax.app.embed import embed
from symm_jax.app.use_flags import Use
from symm_jax.data import arrays, datasets
from symm_jax.errors import InputError
from symm_jax.models.embed import create_embed, embed_all
from symm_jax.run import best, checkpoints, config_json, paths
from symm_jax.search import Index, build, decoding, embedder, images, index
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import create_state

pytestmark = pytest.mark.usefixtures("module_on_one_device")

CLASSES = ("apple", "lemon", "melon", "pear")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on a folder of pictures, with checkpoints of random weights at the steps 1 and 2."""
    from configs import folder_symm_npair

    root = tmp_path_factory.mktemp("search")
    for number in range(12):
        photographs.photograph(root / f"photos/{CLASSES[number % 4]}/{number}.jpg", 10 * number, (48, 40 + number))
    config = folder_symm_npair.get_config()
    config.data.dir, config.data.cache_dir = str(root / "photos"), str(root / "cache")
    config.data.image_size, config.eval_batch_size = 16, 4
    config.model.name, config.model.pretrained, config.model.dim = "convnet", "", 8
    config.model.options = type(config)({"widths": (8, 8)})
    recipe = create_recipe(config)
    (root / "run").mkdir()
    paths.config(root / "run").write_text(json.dumps(config_json.to_dict(config)))
    with checkpoints.Writer(root / "run", config_json.to_dict(config)) as writer:
        for step in (1, 2):
            state = create_state(recipe._replace(key=jax.random.key(step)))
            writer.save(step, state.params, state.opt_state)
    best.keep(root / "run", best.TEST, {"step": 1, "recall@1": 0.5}, "recall@1", np.zeros((6, 8), np.float32))
    return root / "run"


@pytest.fixture
def photos(workdir, tmp_path):
    return shutil.copytree(workdir.parent / "photos", tmp_path / "photos")


@pytest.fixture(scope="module")
def network(workdir):
    return symm_jax.load(workdir)


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


def norm(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def test_embeddings_are_those_of_evaluation_bit_for_bit(network, workdir):
    config = config_json.read(workdir)
    test = datasets.load(datasets.Source.from_section(config.data), "test", 16)
    recipe = create_recipe(config)
    params = create_state(recipe._replace(key=jax.random.key(1))).params  # the best step, not the newest
    expected = norm(embed_all(create_embed(recipe.model), {"params": params}, test.images, 4, "embed"))
    photos = workdir.parent / "photos"
    found = network.embed(photos)
    assert found.shape == (12, network.dim) == (12, 8) and found.dtype == np.float32 and network.image_size == 16
    assert len(expected) == 6 and {row.tobytes() for row in expected} <= {row.tobytes() for row in found}
    files = sorted(photos.rglob("*.jpg"))
    np.testing.assert_array_equal(network.embed(files), found)  # a folder is taken in the order of its paths
    pictures = [np.asarray(PIL.Image.open(path)) for path in files]
    np.testing.assert_array_equal(network.embed(pictures), found)
    np.testing.assert_array_equal(network.embed(np.stack(pictures[:1] * 3)), found[[0, 0, 0]])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert network.embed([]).shape == (0, 8)
    assert not np.array_equal(symm_jax.load(workdir, step=2).embed(photos), found)


def test_many_pictures_are_decoded_in_processes_in_order(photos, monkeypatch):
    monkeypatch.setattr(decoding, "_MIN_FOR_WORKERS", 2)
    monkeypatch.setattr(decoding, "_CHUNK", 2)
    (photos / "pear/3.jpg").write_bytes(b"cut")
    files = [*sorted(photos.rglob("*.jpg")), photos / "absent.jpg"]
    sources = [decoding.Source(str(path), path) for path in files]
    options = arrays.Options(16, orient=True)
    found = list(decoding.decode_ahead(sources, len(sources), options, ahead=2))
    for path, ours in zip(files, found, strict=True):
        alone = decoding._decode(options, decoding.Source(str(path), path))
        assert ours[::2] == alone[::2]
        np.testing.assert_array_equal(ours.pixels, alone.pixels)
    assert [path.name for path, each in zip(files, found, strict=True) if each.fault] == ["3.jpg", "absent.jpg"]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 4, 4, 3)), "must be uint8 RGB.* got an image of float64"),
        (np.zeros((4, 4, 3), np.uint8), r"got an image of uint8 \(4, 3\)"),
        (["/absent.jpg"], "/absent.jpg cannot be read .*Restore|restore"),
        ("/absent", "/absent does not exist"),
    ],
)
def test_what_is_no_picture_is_named(network, x, message):
    with pytest.raises(InputError, match=message):
        network.embed(x)


def test_only_what_is_new_or_changed_is_embedded(network, photos, tmp_path, embedded):
    out = tmp_path / "index"
    assert build.build(network, photos, out) == []
    first = Index(out)
    assert first.paths == [str(path) for path in sorted(photos.rglob("*.jpg"))] and len(first) == 12
    assert first.labels == sorted(CLASSES * 3)
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


def test_float16_and_the_newest_of_a_run_that_was_not_evaluated(network, workdir, photos, tmp_path, capsys):
    build.build(network, photos, tmp_path / "index", dtype="float16")
    stored = Index(tmp_path / "index").embeddings
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, network.embed(photos), atol=1e-3)
    copy = shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("best"))
    assert embedder._choose(copy, None) == (copy, 2)
    assert "was not evaluated" in capsys.readouterr().err
    assert embedder._choose(paths.best(workdir), None) == (paths.best(workdir), 1)


class Pool(nn.Module):
    """A backbone whose features are the mean colours, times a weight."""

    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, images):
        return self.param("weight", nn.initializers.ones, (1, 3)) * images.astype("float32").mean((1, 2))


def test_a_pretrained_backbone_alone(photos, tmp_path, monkeypatch):
    weight = np.array([[1, 2, 3]], np.float32)
    monkeypatch.setitem(models.BACKBONES, "pool", models.BackboneSpec(Pool, lambda path: {"weight": weight}))
    config = efficientnet_lite0.get_config()
    config_check.check(config)
    config.model.name, config.data.image_size = "pool", 16
    config.model.pretrained = str(tmp_path / "weights")
    (tmp_path / "weights").touch()
    given = Use(images=photos, out=tmp_path / "index")
    assert embed(config, given) == []
    found = Index(tmp_path / "index")
    picture = cv2.resize(np.asarray(PIL.Image.open(found.paths[0])), (16, 16), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(found.embeddings[:1], norm(weight * picture.mean((0, 1))[None]), atol=1e-6)
    assert found.about["weights"]["file"] == str(tmp_path / "weights")
    config.model.pretrained = ""
    with pytest.raises(InputError, match="a backbone alone needs pretrained weights"):
        embed(config, given)


def test_from_the_command_line(workdir, photos, tmp_path, launch):
    (photos / "pear/3.jpg").write_bytes(b"cut")
    command = ("--mode=embed", f"--workdir={workdir}", f"--images={photos}", f"--out={tmp_path / 'index'}")
    first = launch(*command)
    assert first.returncode == 1, first.stderr
    assert "error: could not be embedded:\n  image" in first.stderr and "3.jpg" in first.stderr
    assert f"index     {tmp_path / 'index'}: 11 embeddings of 8 numbers" in first.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode=embed", "--images=a", "--out=b"], "--mode=embed needs --workdir=DIR, or a pretrained backbone"),
        (["--mode=embed", "--config=configs/car_npair.py", "--out=b"], "--mode=embed needs --images=FOLDER"),
        (["--config=configs/car_npair.py", "--out=b"], "--out needs --mode=embed"),
        (
            ["--mode=embed", "--workdir=/tmp/absent-run", "--images=a", "--out=b"],
            "/tmp/absent-run holds no config.json",
        ),
        (
            ["--mode=embed", "--config=configs/car_npair.py", "--images=a", "--out=b", "--step=1"],
            "--step needs --workdir",
        ),
    ],
)
def test_flags_that_do_not_go_together(arguments, message, launch):
    result = launch(*arguments)
    assert result.returncode == 2 and message in result.stderr
