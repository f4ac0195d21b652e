"""Embedding one's own pictures: as evaluation does, by a run or a pretrained backbone, from the command line."""

import shutil

import cv2
import flax.linen as nn
import jax
import numpy as np
import PIL.Image
import pytest

import symm_jax
from configs.pretrained import efficientnet_lite0
from symm_jax import models
from symm_jax.app import config_check
from symm_jax.app.embed import embed
from symm_jax.app.use_flags import Use
from symm_jax.data import arrays, datasets
from symm_jax.errors import InputError
from symm_jax.models.embed import create_embed, embed_all
from symm_jax.run import config_json, paths
from symm_jax.search import Index, build, decoding, embedder
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import create_state

pytestmark = pytest.mark.usefixtures("module_on_one_device")


def norm(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


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
