"""Exports each backbone, and compares each file with the embeddings of this project, in a process without it.

    python benchmarks/export.py FOLDER_OF_JPEGS

Takes 64 photographs of the folder. The code on the model card loads each file. EfficientNet-Lite0 has its ImageNet
weights; the others have random ones, because no file of theirs comes with a package. Random networks spread pictures
little. The column "spread", the largest range of a number over the pictures, says what to compare a difference with.
"""

import contextlib
import io
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import checkout  # noqa: F401
import jax
import numpy as np
from losses import print_row

from symm_jax import models
from symm_jax.data import arrays, decode
from symm_jax.export import write
from symm_jax.search import embedder

COUNT, DIM = 64, 128
SIDES = {"efficientnet_lite0": 224, "googlenet": 227, "resnet50": 224, "convnet": 64}


def main(folder: str) -> None:
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    paths = paths[:: max(1, len(paths) // COUNT)][:COUNT]
    pictures = [decode.decode(path.read_bytes(), str(path), orient=True) for path in paths]
    print(f"{len(pictures)} photographs, jax {jax.__version__}, {jax.devices()[0].device_kind}\n")
    columns = ("network", "side", "dim", "StableHLO", "ONNX", "Flax", "spread", "MB of each", "export, s")
    print_row(*columns)
    print_row(*["---"] * len(columns))
    for name, side in SIDES.items():
        network = embedder.load_backbone(name) if name == "efficientnet_lite0" else with_random_weights(name, side)
        images = np.stack([decode.resize_to_square(picture, side) for picture in pictures])
        expected = network.embed(images)
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch, name)
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                write.write(network, out)
            seconds = time.perf_counter() - start
            sizes = [(out / file).stat().st_size / 1e6 for file in (write.STABLEHLO, write.ONNX, write.SAFETENSORS)]
            differences = [np.abs(found - expected).max() for found in embeddings(out, images)]
        spread = np.ptp(expected, axis=0).max()
        figures = (*(f"{x:.1e}" for x in differences), f"{spread:.3f}", f"{min(sizes):.1f} to {max(sizes):.1f}")
        print_row(name, str(side), f"{network.dim:,}", *figures, f"{seconds:.1f}")


def with_random_weights(name: str, side: int) -> embedder.Embedder:
    model = models.create(name, dim=DIM)
    return embedder.Embedder(
        model,
        models.init_variables(model, side, jax.random.key(0)),
        options=arrays.Options(side, orient=True),
        batch_size=COUNT,
        weights={"pretrained": "random"},
        network={"name": name},
    )


def embeddings(export: Path, images: np.ndarray) -> list[np.ndarray]:
    """The embeddings by each of the three pieces of code on the card that load a file."""
    np.save(export / "images.npy", images)
    blocks = re.findall(r"```python\n(.*?)```", (export / write.CARD).read_text(), flags=re.DOTALL)[1:]
    found = []
    for block in blocks:
        code = f"import sys\nsys.modules['symm_jax'] = None\n{block}\nnp.save('embeddings.npy', embeddings)"
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=export, check=True)
        found.append(np.load(export / "embeddings.npy"))
    return found


if __name__ == "__main__":
    main(sys.argv[1])
