"""What the number of devices changes: nothing in the result, and how much in speed.

    python benchmarks/scaling.py  # about two minutes on two cores

Every row is a process of its own that sees so many devices: GPUs where there are, else host devices, which share the
CPU's cores, so that their images per second show what sharing costs and not what it gains. More devices than there are
GPUs are left out.

Training: Symm + N-pair with the demonstration's network and Adam, 32 pairs of made-up images of 64 px. "parameters" is
their largest difference after 10 steps from those of one device, beside how far they moved. Such a network enlarges
rounding from step to step, whatever caused it; the row "1, rounded" tells by how much: one device again, which starts
from weights 2.4e-7 larger, two roundings of float32. (With a network without kinks all devices agree to 1e-6 after 10
steps: tests/test_devices.py.) Images per second are of the steps after those.

Evaluation: embedding images of 64 px, and Recall@k, MAP@R and R-precision of 8,131 made-up embeddings of 98 classes,
the second time, when all is compiled.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import checkout  # noqa: F401
import jax
import numpy as np
from evaluation import DIM, KS, SETS, embeddings_of
from losses import print_row

from configs import glyphs_symm_npair
from symm_jax import metrics, models
from symm_jax.data import augment, pairs
from symm_jax.data.arrays import Arrays
from symm_jax.evaluation.protocol import create_protocol
from symm_jax.models.embed import create_embed, embed_all
from symm_jax.training import batches
from symm_jax.training.loop import unreplicate
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import create_state, pmap_train_step

ROWS = {"1": 1, "1, rounded": 1, "2": 2, "4": 4, "8": 8}
STEPS, TIMED = 10, 30
SIZE, BATCH = 64, 64


def patterned_images(n: int, side: int) -> Arrays:
    """Four noisy images a class, each class another pattern: of noise alone a network makes one and the same point."""
    rng = np.random.default_rng(0)
    labels = np.arange(n, dtype=np.int32) // 4
    patterns = rng.integers(0, 192, (labels[-1] + 1, 8, 8, 3), dtype=np.uint8)
    place = np.arange(side) * 8 // side
    images = patterns[:, place][:, :, place][labels] + rng.integers(0, 64, (n, side, side, 3), dtype=np.uint8)
    return Arrays(images, labels, np.ones((n, 2), np.float32))


def training(config, devices: int, factor: float) -> tuple[dict, np.ndarray]:
    """Figures of a run from weights x `factor`, and how far its parameters have moved after STEPS."""
    recipe = create_recipe(config)
    side = augment.stored_side(SIZE, enlarge=config.augment.enlarge, max_margin=config.augment.max_margin)
    arrays = patterned_images(4 * BATCH, side)
    table = pairs.class_table(arrays.labels, np.arange(len(arrays.labels)))
    stream = batches.generate(arrays, table, recipe.key, 0, STEPS + TIMED, BATCH // 2, devices)
    state = create_state(recipe)
    first = jax.device_get(jax.tree.map(lambda x: factor * x, state.params))
    state = state._replace(params=first)
    state, step = batches.replicate(state), pmap_train_step(recipe)
    times, losses = [], []
    for number, batch in enumerate(stream, 1):
        start = time.perf_counter()
        state, steps = jax.block_until_ready(step(state, batch))
        times.append(time.perf_counter() - start)
        if number in (1, STEPS):
            losses.append(float(unreplicate(steps["loss"])))
        if number == STEPS:
            params = jax.device_get(unreplicate(state.params))
            moved = [np.ravel(b - a) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(params), strict=True)]
    return {"losses": losses, "train": BATCH / statistics.median(times[STEPS:])}, np.concatenate(moved)


def evaluation(config) -> dict:
    how = create_protocol(config)
    model = how.model
    variables = jax.jit(lambda key: models.init_variables(model, how.image_size, key))(jax.random.key(0))
    test, embed = patterned_images(2048, SIZE), create_embed(model)
    embeddings, labels = embeddings_of(*SETS["Cars196"][:2])
    for _ in range(2):
        start = time.perf_counter()
        embed_all(embed, variables, test.images, 256, "embed")
        middle = time.perf_counter()
        values = metrics.retrieval(embeddings, labels, KS)
        end = time.perf_counter()
    return {"embed": len(test.labels) / (middle - start), "metrics": end - middle, "map@r": values["map@r"]}


def measure(row: str, path: Path) -> None:
    """Writes a row's figures, or none where there are fewer devices."""
    devices = ROWS[row]
    jax.config.update("jax_num_cpu_devices", devices)
    if len(jax.local_devices()) < devices:
        return
    config = glyphs_symm_npair.get_config()
    config.data.image_size, config.batch_size = SIZE, BATCH
    figures, moved = training(config, devices, 1 + 2.0**-22 if "rounded" in row else 1.0)
    figures |= evaluation(config) | {"kind": jax.local_devices()[0].device_kind}
    np.savez(path, moved=moved, figures=json.dumps(figures))


def compare() -> None:
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for row, devices in ROWS.items():
            path = Path(folder) / f"{row}.npz"
            visible = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(devices)))}
            command = [sys.executable, __file__, "--measure", row, str(path)]
            subprocess.run(command, check=True, env=os.environ | visible, stderr=subprocess.DEVNULL)
            if path.exists():
                with np.load(path) as file:
                    rows[row] = json.loads(str(file["figures"])), file["moved"]
    one, first = rows["1"]
    print(f"{one['kind']}, {os.cpu_count()} cores, jax {jax.__version__}, metrics of dim {DIM}\n")
    names = "loss, step 1", f"step {STEPS}", "parameters (moved)", "training, images/s"
    names += "embedding, images/s", "metrics, s", "MAP@R"
    print_row("devices", *names)
    print_row(*["---"] * (1 + len(names)))
    for row, (figures, moved) in rows.items():
        apart = f"{np.abs(moved - first).max():.1e} ({np.abs(moved).max():.1e})"
        speeds = f"{figures['train']:.0f}", f"{figures['embed']:,.0f}", f"{figures['metrics']:.2f}"
        print_row(row, *(f"{loss:.6f}" for loss in figures["losses"]), apart, *speeds, f"{figures['map@r']:.8f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs=2, metavar=("ROW", "FILE"), help="only write a row's figures")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], Path(arguments.measure[1]))
    else:
        compare()
