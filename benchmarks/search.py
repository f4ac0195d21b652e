"""Prints how fast a folder of pictures is embedded into an index, next to the bare forward pass of the same network.

    python benchmarks/search.py [--images=FOLDER] [--count=512]

EfficientNet-Lite0 at 224 px with random weights: the time does not depend on them. Without --images, photographs of
500 x 375 pixels are made of noise. The bare pass embeds decoded arrays in batches of the same size. The two alternate,
and the better of the runs of each counts. Compilation is not included, and start-up neither.
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
from pathlib import Path

import checkout  # noqa: F401
import cv2
import jax
import numpy as np
import PIL.Image
from losses import print_row

from symm_jax import models
from symm_jax.data import arrays
from symm_jax.models.embed import create_embed, embed_all
from symm_jax.search import build, images
from symm_jax.search.embedder import Embedder

SIDE, BATCH, RUNS = 224, 64, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of pictures")
    parser.add_argument("--count", type=int, default=512, help="number of pictures that are made without --images")
    flags = parser.parse_args()
    model = models.create("efficientnet_lite0").backbone
    variables = models.init_variables(model, SIDE, jax.random.key(0))
    embedder = Embedder(
        model, variables, options=arrays.Options(SIDE, orient=True), batch_size=BATCH, weights={}, network={}
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = flags.images or made(Path(scratch, "photographs"), flags.count)
        n = len(images.list_pictures(folder).pictures)
        squares = np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)
        embed = create_embed(model)
        embed_all(embed, variables, squares[:BATCH], BATCH, "compile")
        embedder.embed(squares[:BATCH])
        bare, whole = [], []
        for run in range(RUNS):
            bare.append(seconds(lambda: embed_all(embed, variables, squares, BATCH, "bare")))
            with contextlib.redirect_stdout(io.StringIO()):
                whole.append(seconds(lambda run=run: build.build(embedder, folder, Path(scratch, f"index{run}"))))
    device = jax.devices()[0].device_kind
    print(f"{jax.device_count()} x {device}, {os.cpu_count()} cores, jax {jax.__version__}, {n} pictures, {SIDE} px\n")
    print_row("", "seconds", "images/s", "of the bare pass")
    print_row(*["---"] * 4)
    for name, best in {"bare forward pass": min(bare), "folder to index": min(whole)}.items():
        print_row(name, f"{best:.1f}", f"{n / best:.1f}", f"{min(bare) / best:.2f}")


def made(folder: Path, count: int) -> Path:
    """Photographs of smooth noise, as large as JPEGs of their size are."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (47, 63, 3), dtype=np.uint8)
        PIL.Image.fromarray(cv2.resize(coarse, (500, 375))).save(folder / f"{number:06d}.jpg", quality=90)
    return folder


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
