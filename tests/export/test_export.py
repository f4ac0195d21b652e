"""An export: each of its files gives the embeddings of the network, in a process without symm_jax."""

import json
import os
import re
import subprocess
import sys

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import photographs
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from symm_jax import models
from symm_jax.app import fields
from symm_jax.data import arrays, decode
from symm_jax.errors import InputError
from symm_jax.export import card, forward, onnx_graph, write
from symm_jax.export.standalone import convnet, efficientnet_lite0, googlenet, resnet50
from symm_jax.search import embedder

pytestmark = pytest.mark.usefixtures("module_on_one_device")


def variables_of(model, side, seed=0):
    """Random variables that keep activations in scale, without compiling an initialiser."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: models.init_variables(model, side, key), jax.random.key(0))

    def draw(like):
        if len(like.shape) == 1:
            return rng.uniform(0.1, 0.2, like.shape).astype(np.float32)
        return (rng.normal(size=like.shape) * np.sqrt(2 / np.prod(like.shape[:-1]))).astype(np.float32)

    return jax.tree.map(draw, shapes)


def network_of(model, side, name, **about):
    return embedder.Embedder(
        model,
        variables_of(model, side),
        options=arrays.Options(side, orient=True),
        batch_size=8,
        weights={"workdir": "/runs/1", "step": 2},
        network={"name": name, **about},
    )


@pytest.fixture(scope="module")
def network():
    return network_of(models.create("convnet", dim=8, widths=(8, 16)), 17, "convnet")


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "model"
    write.write(network, out)
    return out


def run_onnx(content, images):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def test_the_code_on_the_card_gives_the_embeddings_of_the_network(network, exported):
    photographs.photograph(exported.parent / "picture.jpg", 40, (60, 50))
    (exported / "picture.jpg").write_bytes((exported.parent / "picture.jpg").read_bytes())
    preparing, *loading = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), flags=re.DOTALL)
    assert len(loading) == 3 and all(len([x for x in code.splitlines() if x]) <= 5 for code in loading)
    code = "import sys\nsys.modules['symm_jax'] = None\n" + preparing
    code += "images = np.concatenate([images, 255 - images, images // 2])\nnp.save('images.npy', images)\n"
    code += "".join(f"{part}\nnp.save('embeddings{i}.npy', embeddings)\n" for i, part in enumerate(loading))
    environment = {name: x for name, x in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}
    subprocess.run([sys.executable, "-c", code], cwd=exported, env=environment, check=True)
    images = np.load(exported / "images.npy")
    picture = decode.decode((exported / "picture.jpg").read_bytes(), "picture", orient=True)
    np.testing.assert_array_equal(images[0], cv2.resize(picture, (17, 17), interpolation=cv2.INTER_AREA))
    expected = network.embed(images)
    for number in range(3):
        found = np.load(exported / f"embeddings{number}.npy")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
    for path in (*exported.glob("*.npy"), exported / "picture.jpg"):
        path.unlink()


# Name, module here, definition in Flax, side, options, table of the architecture, rows of it for a quick test.
BACKBONES = [
    ("convnet", None, convnet, 33, {"widths": (8, 16)}, "", ()),
    ("googlenet", models.googlenet, googlenet, 64, {"lrn": "caffe"}, "INCEPTION", ("3a", "3b", "4e")),
    ("efficientnet_lite0", models.efficientnet_lite, efficientnet_lite0, 37, {}, "STAGES", (0, 2)),
    ("resnet50", models.resnet, resnet50, 33, {"train_batch_norm": True}, "STAGES", (0, 1)),
]


@pytest.mark.parametrize(
    ("name", "module", "alone", "side", "options", "table", "rows"), BACKBONES, ids=[x[0] for x in BACKBONES]
)
def test_each_backbone_and_its_definition_in_flax_agree(name, module, alone, side, options, table, rows, monkeypatch):
    """Both are converted to ONNX, which is far quicker than compiling them."""
    if table:
        whole = getattr(module, table)
        assert getattr(alone, table) == whole
        short = {row: whole[row] for row in rows} if isinstance(whole, dict) else tuple(whole[row] for row in rows)
        monkeypatch.setattr(module, table, short)
        monkeypatch.setattr(alone, table, short)
    model = models.create(name, **options).backbone
    network = network_of(model, side, name)
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    with jax.numpy_rank_promotion("allow"):
        ours, theirs = (
            run_onnx(
                onnx_graph.convert(forward.unit_embeddings(x, "gpu"), network.variables, forward.any_images(network)),
                images,
            )
            for x in (model, alone.Backbone(**write.describe(network)["options"]))
        )
    assert ours.shape == (3, network.dim) and np.ptp(ours, axis=0).max() > 1e-3
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def many_operations(weights, images):
    x = images.astype(jnp.float32) / 255 + weights["w"].reshape(1, 1, 1, 3)
    low = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 3, 1), (1, 1, 2, 1), [(0, 0), (1, 0), (1, 2), (0, 0)])
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 1, 2), (1, 2, 1, 1), "VALID")
    kept = jnp.where(x[:, 1:, 2] > 0.5, jnp.exp(-x[:, 1:, 2]), jax.nn.sigmoid(x[:, 1:, 2])) ** 3
    parts = [low.sum((1, 2)), total.max((1, 2)), kept.min(1), jnp.clip(x, 0.2, 0.7).mean((1, 2))]
    per_image = jnp.broadcast_to(weights["w"].reshape(1, 3), (images.shape[0], 3))  # a constant for each image
    return jnp.concatenate([*parts, per_image, jnp.einsum("nhwc,nhwd->ncd", x, x).reshape(-1, 9)], axis=1)


def test_operations_of_onnx_compute_what_those_of_jax_do():
    weights = {"w": np.array([0.1, -0.2, 0.3], np.float32)}
    (n,) = jax.export.symbolic_shape("n")
    content = onnx_graph.convert(many_operations, weights, jax.ShapeDtypeStruct((n, 6, 7, 3), jnp.uint8))
    images = np.random.default_rng(1).integers(0, 256, (4, 6, 7, 3), np.uint8)
    np.testing.assert_allclose(run_onnx(content, images), many_operations(weights, images), rtol=1e-5)


class Sorted(nn.Module):
    """A backbone of one's own, with an operation that is not converted."""

    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, images):
        x = jnp.sort(images.astype("float32").reshape(images.shape[0], -1), axis=1)[:, :4]
        return self.param("weight", nn.initializers.ones, (1, 4)) * x


def test_what_cannot_be_written_is_on_the_card(tmp_path, monkeypatch, capsys):
    network = network_of(Sorted(), 4, "sorted")
    write.write(network, tmp_path / "a")
    text = (tmp_path / "a/README.md").read_text()
    assert "`model.onnx` is absent: ONNX: the operation 'sort' of JAX is not converted" in text
    assert "`backbone.py` is absent: sorted is a backbone of your own" in text and "from load import" not in text
    assert {x.name for x in (tmp_path / "a").iterdir()} == {"README.md", "model.stablehlo", "model.safetensors"}
    monkeypatch.delattr("symm_jax.export.onnx_graph")
    monkeypatch.setitem(sys.modules, "symm_jax.export.onnx_graph", None)  # as when onnx is not installed
    write.write(network, tmp_path / "a")
    assert "pip install 'symm_jax[onnx]'" in (tmp_path / "a/README.md").read_text()
    assert "model.onnx was not written: the package onnx is not installed" in capsys.readouterr().err


def test_a_network_in_bfloat16_keeps_its_numbers_and_onnx_computes_in_float32(tmp_path):
    model = models.create("convnet", dim=8, widths=(8,), dtype="bfloat16", param_dtype="bfloat16")
    network = network_of(model, 8, "convnet")
    network.variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), network.variables)
    write.write(network, tmp_path / "a")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    found = run_onnx((tmp_path / "a/model.onnx").read_bytes(), images)
    np.testing.assert_allclose(found, network.embed(images), atol=0.02)
    text = (tmp_path / "a/README.md").read_text()
    assert "the network computes in bfloat16" in text and "`model.onnx` computes in float32" in text
    exported = jax.export.deserialize(bytearray((tmp_path / "a/model.stablehlo").read_bytes()))
    assert exported.platforms == ("cpu", "cuda") and b"/symm_jax/" not in (tmp_path / "a/model.stablehlo").read_bytes()


def test_the_same_weights_give_the_same_file(network):
    files = {write._to_safetensors(network, {"name": "é"}) for _ in range(8)}
    assert len(files) == 1
    tensors = safetensors.numpy.load(files.pop())
    assert tensors.keys() == flatten_dict(dict(network.variables), sep="/").keys()


def test_folders_that_are_no_export_are_refused_and_an_export_is_replaced_whole(
    network, exported, tmp_path, monkeypatch
):
    run = card.Run(tmp_path / "run", 2, {}, None, None, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other/model.safetensors").touch()
    (tmp_path / "other/thesis.tex").touch()
    (tmp_path / "file").touch()
    for out, message in [
        (tmp_path / "run/out", "lies in the workdir"),
        (tmp_path / "other", "is not an export and holds other files, such as thesis.tex"),
        (tmp_path / "file", "is a file"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            write.write(network, out, run)
        assert fields.describe(error.value).endswith("Another folder: --out=FOLDER.")
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    with monkeypatch.context() as patch, pytest.raises(InputError, match="is the export of other weights"):
        patch.setitem(network.weights, "sha256", "of others")
        write.write(network, exported)

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(forward, "to_stablehlo", lambda network: b"x")
    monkeypatch.setattr(write, "_to_onnx", lambda network: b"x")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(write.card, "text", lambda *_: full("README.md", ""))
        write.write(network, exported)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert [path.name for path in exported.parent.iterdir() if path.name.startswith("model")] == ["model"]
    write.write(network, exported)
    assert (exported / "model.onnx").read_bytes() == b"x"


def test_the_card_says_how_the_network_was_trained_and_measured(network, tmp_path):
    from configs import glyphs_symm_npair
    from symm_jax.run import config_json, metric_log, paths

    config = config_json.to_dict(glyphs_symm_npair.get_config())
    paths.config(tmp_path).write_text(json.dumps(config))
    paths.data(tmp_path).write_text(json.dumps({"train split": "1,200 images of 60 classes (0123)"}))
    with metric_log.MetricLog(tmp_path, "eval") as log:
        log.write(2, {"recall@1": 0.625, "nmi": 0.5})
    run = card.read_run(tmp_path, 2)
    text = card.text(network, write.describe(network), {"model.onnx": (1234, "ab")}, {}, run)
    for words in (
        "- data set: glyphs",
        "- train split: 1,200 images of 60 classes",
        "- losses: name npair",
        f"- updates: 2 of {config['num_steps']:,}; {config['batch_size']} images each, seed 0",
        "| recall@1 | 0.6250 |",
        "Checkpoint: step 2, named by the user.",
        "| `model.onnx` | the network with its weights, for ONNX Runtime and others; opset 18 | 1,234 | `ab` |",
        "resized to 17 x 17 pixels",
        "Trained from random weights.",
    ):
        assert words in text, words
