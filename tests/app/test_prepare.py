"""--mode=prepare: what is not there is downloaded, counted, and drawn as training will see it."""

import functools
import hashlib
import http.server
import threading

import cv2
import googlenet_weights
import jax
import numpy as np
import photographs
import PIL.Image
import pytest

from symm_jax import errors, models
from symm_jax.app import prepare
from symm_jax.data import augment, datasets, sources
from symm_jax.training.train import train


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a server of the folder tmp_path/served, on the loopback."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_an_empty_folder_is_filled_from_the_mirrors(server, tiny, tmp_path, capsys):
    photographs.cars_by_classes(tmp_path / "served")
    photographs.pack(tmp_path / "served", "any-name.zip")
    tiny.data.dir = str(tmp_path / "empty")
    with pytest.raises(errors.InputError, match="--mode=prepare"):
        train(tiny, tmp_path / "run")
    tiny.data.mirrors = (f"{server}/absent/any-name.zip", f"{server}/any-name.zip")
    prepare.prepare(tiny, tmp_path / "run")
    out, err = capsys.readouterr()
    assert [p.name for p in (tmp_path / "empty").glob("[!.]*")] == ["any-name.zip"]
    assert "train     15 images of 5 classes" in out and "test      9 images of 3 classes" in out
    assert "404" in err and "the protocol 8,054 images" in err
    with PIL.Image.open(tmp_path / "run/figures/pairs.png") as sheet:
        assert min(sheet.size) > 150
    (tmp_path / "served/any-name.zip").unlink()
    prepare.prepare(tiny, tmp_path / "run")  # nothing is fetched twice


def test_a_page_in_place_of_an_archive_does_not_stick(server, tmp_path, data_source):
    (tmp_path / "served/a.zip").write_bytes(b"<html>sign in</html>" * 100)
    config = data_source("cars196", tmp_path / "cars", mirrors=(f"{server}/a.zip",))
    with pytest.raises(errors.InputError, match=r"downloaded is now .*a.zip.wrong, and the next run"):
        datasets.fetch(config)
    (tmp_path / "served/a.zip").unlink()
    photographs.cars_by_classes(tmp_path / "served")
    photographs.pack(tmp_path / "served", "a.zip")
    datasets.fetch(config)
    assert len(datasets.load(config, "test", 16).labels) == 9


def test_what_training_would_refuse_is_said_when_all_is_prepared(tiny, tmp_path, capsys):
    tiny.batch_size = 12
    with pytest.raises(errors.InputError, match="6 pairs need 6 classes"):
        prepare.prepare(tiny, tmp_path / "run")
    assert "train     15 images" in capsys.readouterr().out and (tmp_path / "run/figures/pairs.png").exists()
    tiny.batch_size, tiny.losses = 8, ({"name": "n_pair"},)
    with pytest.raises(errors.InputError, match="did you mean 'npair'"):
        prepare.prepare(tiny, tmp_path / "other")


def test_of_several_files_the_missing_ones_are_fetched(server, tmp_path, data_source, capsys):
    (tmp_path / "served/a.mat").write_bytes(b"a")
    config = data_source("cars196", tmp_path / "cars", mirrors=(f"{server}/a.mat", f"{server}/b.mat"))
    with pytest.raises(errors.InputError, match="b.mat could not be downloaded"):
        datasets.fetch(config)
    (tmp_path / "served/a.mat").unlink()
    (tmp_path / "served/b.mat").write_bytes(b"b")
    datasets.fetch(config)
    assert sorted(p.name for p in (tmp_path / "cars").glob("[!.]*")) == ["a.mat", "b.mat"]
    (tmp_path / "cars/a.mat").rename(tmp_path / "cars/mine.mat")
    datasets.fetch(config)  # the user's own files are there: nothing is added to them
    assert not (tmp_path / "cars/a.mat").exists()


def test_weights_are_fetched_and_told_from_others(server, tmp_path, monkeypatch, capsys):
    content = googlenet_weights.write(tmp_path / "served/w.mat").read_bytes()
    name = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    (known,) = sources.remotes("googlenet")
    from configs import car_npair

    config = car_npair.get_config().model
    config.pretrained = str(tmp_path / "data/tf_ckpt_from_caffe.mat")
    config.mirrors = (f"{server}/w.mat",)
    with pytest.raises(errors.InputError, match=f"{known.git_blob}"):
        prepare.fetch_weights(config)
    monkeypatch.setitem(sources._PUBLISHED, known.name, known._replace(git_blob=name))
    monkeypatch.setitem(sources._SOURCES, "googlenet", (known._replace(git_blob=name),))
    prepare.fetch_weights(config)
    weights = models.load_pretrained("googlenet", config.pretrained)["params"]
    assert weights["conv1_7x7_s2"]["kernel"].shape == (7, 7, 3, 64)
    assert "not the published" not in capsys.readouterr().err
    monkeypatch.undo()
    models.load_pretrained("googlenet", config.pretrained)
    assert "is not the published file" in capsys.readouterr().err
    config.pretrained, config.mirrors = str(tmp_path / "data/typing-error.mat"), ()
    with pytest.raises(errors.InputError, match="no file .*typing-error.mat, and nothing of that name to download"):
        prepare.fetch_weights(config)
    config.pretrained, config.mirrors = str(tmp_path / "data/own-name.mat"), (f"{server}/absent.mat",)
    with pytest.raises(errors.InputError, match="another address in config.model.mirrors"):
        prepare.fetch_weights(config)


def test_data_sets_without_an_address_say_what_they_need(tmp_path, data_source):
    datasets.fetch(data_source("inshop", tmp_path / "empty"))
    with pytest.raises(errors.InputError, match="who sign their agreement") as error:
        datasets.load(data_source("inshop", tmp_path / "empty"), "train", 16)
    assert "prepare" not in str(error.value)


def drawing():
    """A scene (300, 400, 3) with edges in all directions, the box of a disc in it, and that box."""
    image = np.full((300, 400, 3), 220, np.uint8)
    cv2.circle(image, (210, 140), 90, (200, 60, 30), -1, cv2.LINE_AA)
    cv2.line(image, (120, 50), (300, 230), (20, 20, 20), 5, cv2.LINE_AA)
    cv2.putText(image, "Rg", (150, 170), cv2.FONT_HERSHEY_SIMPLEX, 2.5, (30, 90, 200), 6, cv2.LINE_AA)
    return image, (110, 40, 310, 240)


def test_box_and_augmentation_are_where_opencv_puts_them(tmp_path, data_source):
    """From the photograph on disk to the network's input, beside OpenCV's crop, resize, window and flip."""
    photographs.cars_original(tmp_path / "cars", classes=(1, 2, 99, 100), photographs_per_class=2)
    image, (x1, y1, x2, y2) = drawing()
    PIL.Image.fromarray(image).save(tmp_path / "cars/car_ims/000001.jpg", quality=98)
    rows = [(f"car_ims/{i + 1:06d}.jpg", *photographs.CARS_BOX, c, 0) for i, c in enumerate((1, 1, 2, 2, 99, 99, 100))]
    photographs.write_annotations(tmp_path / "cars", [(rows[0][0], x1, y1, x2, y2, 1, 0), *rows[1:]])
    size, squashed = 64, 72
    side = augment.stored_side(size, enlarge=1.125, max_margin=0.05)
    arrays = datasets.load(data_source("cars196", tmp_path / "cars"), "train", side)
    stored = arrays.images[[int(np.argmax(arrays.images.std((1, 2, 3))))]]

    keys = jax.random.split(jax.random.key(0), 12)
    options = {"image_size": size, "min_margin": 0.05, "max_margin": 0.05}
    augmented = jax.jit(functools.partial(augment.augment, **options))(
        keys, np.repeat(stored, 12, 0), np.ones((12, 2), np.float32)
    )
    margin = round(0.05 * (x2 - x1))
    box = image[y1 + margin : y2 - margin, x1 + margin : x2 - margin]
    whole = cv2.resize(box, (squashed, squashed), interpolation=cv2.INTER_AREA).astype(float)
    places = [(t, l, flip) for t in range(9) for l in range(9) for flip in (False, True)]
    windows = np.stack([whole[t : t + size, l : l + size][:, :: -1 if flip else 1] for t, l, flip in places])
    chosen = set()
    for result in np.asarray(augmented):
        errors_ = np.abs(windows - result).mean((1, 2, 3))
        best = np.argmin(errors_)
        assert errors_[best] < 2  # grey levels
        assert np.sort(errors_)[1] > errors_[best] + 0.3  # no other window will do
        chosen.add(places[best])
    assert len(chosen) > 8 and {flip for _, _, flip in chosen} == {False, True}
