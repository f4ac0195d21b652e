"""Speed of the data's way: decoding once, feeding pairs to the device, augmentation beside OpenCV's.

    python benchmarks/data.py FOLDER  # Cars196, whole or in part; about three minutes
    python benchmarks/data.py FOLDER --decoding  # only that table

Decoding: "Pillow" decodes the photographs with Pillow and resizes them with OpenCV, one after the other in one process,
from memory, without storing the result. "our loop" does the same with our functions. "on all cores" runs our loop in
one process per core, which is the upper limit of the machine. "prepared" is the decoding of --mode=prepare: it reads
the records of both splits, decodes and crops in one worker process per core, and writes the arrays. "first" includes
starting the workers. Each loop decodes so many photographs that it takes about as long as the preparation: the cores of
a virtual machine are faster in their first second of work than later, above all where both work. The photographs are
decoded at their size and enlarged three times, because the published photographs are larger than those of copies that
were scaled down.

Feeding: batches of 64 pairs gathered from the memory map and copied to the device, without augmentation.

Augmentation: 128 images to 227 px, float32. "OpenCV" crops, resizes, cuts the window and flips in one thread per core,
by area (which uses every source pixel when shrinking, as ours does) or linearly (which does not).
"""

import argparse
import collections
import concurrent.futures
import contextlib
import functools
import io
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import checkout  # noqa: F401
import cv2
import jax
import joblib
import numpy as np
import PIL.Image
from losses import print_row

from symm_jax.data import arrays, augment, datasets, decode, pairs
from symm_jax.data.tree import Tree
from symm_jax.training import batches

SIZE = 227
BATCH = 128
SIDE = augment.stored_side(SIZE, enlarge=1.125, max_margin=0.05)
ROUNDS = 6


def once(count: int, run: Callable[[], object]) -> float:
    """Images per second."""
    start = time.perf_counter()
    run()
    return count / (time.perf_counter() - start)


def rate(count: int, run: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median of `once` without the first."""
    return statistics.median([once(count, run) for _ in range(rounds)][1:])


def photographs(folder: Path) -> list[bytes]:
    tree = Tree(folder)
    with tree.opened() as read:
        return [read(path) for path in tree.entries if path.endswith(".jpg")]


def enlarged(encoded: bytes, factor: int) -> bytes:
    image = PIL.Image.open(io.BytesIO(encoded))
    file = io.BytesIO()
    image.resize((factor * image.width, factor * image.height)).save(file, "JPEG", quality=90)
    return file.getvalue()


def with_pillow(encoded: bytes) -> np.ndarray:
    """The code that one would write without this package. The pixels are the same."""
    with PIL.Image.open(io.BytesIO(encoded)) as image:
        return cv2.resize(np.asarray(image.convert("RGB")), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def ours(encoded: bytes) -> np.ndarray:
    return decode.resize_to_square(decode.decode(encoded, "x"), SIDE)


def bare_loop(one: Callable[[bytes], np.ndarray], encoded: list[bytes]) -> float:
    """Images per second."""
    cv2.setNumThreads(1)
    return once(len(encoded), lambda: collections.deque(map(one, encoded), maxlen=0))


class Case(NamedTuple):
    encoded: list[bytes]
    load: Callable[[], object]
    folder: Path  # the folder that `load` writes to


def prepared(folder: Path, name: str, cache: Path) -> Case:
    """A data set in the folder, with its records written."""
    source = datasets.Source(name, str(folder), str(cache), accept_duplicates=True)

    def load():
        for split in ("train", "test"):
            datasets.load(source, split, SIDE)

    load()
    (root,) = cache.glob(f"{name}-*")
    return Case(photographs(folder), load, root / "arrays")


def enlarge_all(encoded: list[bytes], folder: Path) -> None:
    """Writes the photographs, three times as large, as a data set of four classes."""
    for i, image in enumerate(joblib.Parallel(os.cpu_count())(joblib.delayed(enlarged)(e, 3) for e in encoded)):
        path = folder / f"class {i % 4}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)


def decoding(cases: dict[str, Case]) -> None:
    cores = os.cpu_count() or 1
    pool = concurrent.futures.ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"))
    print_row(
        *["images/s", "Pillow", "our loop", "on all cores", "first", "prepared"],
        *["/ (cores x Pillow)", "/ (cores x our loop)", "/ on all cores"],
    )
    print_row(*["---"] * 9)
    for name, case in cases.items():
        some, count = case.encoded[::cores], len(case.encoded)
        joblib.externals.loky.get_reusable_executor().shutdown()
        pillow, alone, at_once, all_of_it = [], [], [], []
        for _ in range(6):  # in turn, because the speed of a virtual machine changes from one second to the next
            # Without this, pending writes would make the disk's speed the limit.
            shutil.rmtree(case.folder, ignore_errors=True)
            os.sync()
            all_of_it.append(once(count, case.load))
            pillow.append(bare_loop(with_pillow, some))
            alone.append(bare_loop(ours, some))
            at_once.append(sum(pool.map(bare_loop, [ours] * cores, [some] * cores)))
        first = all_of_it.pop(0)
        bare, own, ceiling, warm = map(statistics.median, (pillow, alone, at_once, all_of_it))
        print_row(
            name,
            *[f"{value:,.0f}" for value in (bare, own, ceiling, first, warm)],
            *[f"{warm / most:.2f}" for most in (cores * bare, cores * own, ceiling)],
        )


def feeding(train_set: arrays.Arrays) -> None:
    table = pairs.class_table(train_set.labels, np.arange(len(train_set.labels)))
    steps = 30

    def feed():
        for batch in batches.generate(train_set, table, jax.random.key(0), 0, steps, BATCH // 2, 1):
            jax.block_until_ready(jax.device_put(batch))

    print_row("feeding", "images/s")
    print_row(*["---"] * 2)
    print_row(f"pairs of {SIDE} px from {train_set.images.nbytes / 1e9:.1f} GB", f"{rate(steps * BATCH, feed):,.0f}")


def augmentation(train_set: arrays.Arrays) -> None:
    images, short_side_ratio = np.array(train_set.images[:BATCH]), train_set.short_side_ratio[:BATCH]
    ours = jax.jit(functools.partial(augment.augment, image_size=SIZE))
    inputs = jax.device_put((jax.random.split(jax.random.key(0), BATCH), images, short_side_ratio))
    out = np.empty((BATCH, SIZE, SIZE, 3), np.float32)
    cv2.setNumThreads(1)

    def one(interpolation, i):
        rng = np.random.default_rng(i)
        resized = round(1.125 * SIZE)
        y, x = np.rint(rng.uniform(0.01, 0.05) * short_side_ratio[i] * SIDE).astype(int)
        image = cv2.resize(images[i, y : SIDE - y, x : SIDE - x], (resized, resized), interpolation=interpolation)
        top, left = rng.integers(0, resized - SIZE + 1, 2)
        image = image[top : top + SIZE, left : left + SIZE]
        out[i] = image[:, ::-1] if rng.integers(2) else image

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        references = {
            name: rate(BATCH, lambda kind=kind: list(pool.map(functools.partial(one, kind), range(BATCH))), 16)
            for name, kind in {"by area": cv2.INTER_AREA, "linearly": cv2.INTER_LINEAR}.items()
        }
    mine = rate(BATCH, lambda: jax.block_until_ready(ours(*inputs)), 16)
    print_row("augmentation", "images/s", "ours / theirs")
    print_row(*["---"] * 3)
    print_row("ours", f"{mine:,.0f}", "")
    for name, theirs in references.items():
        print_row(f"OpenCV, {name}", f"{theirs:,.0f}", f"{mine / theirs:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Cars196, in any layout")
    parser.add_argument("--decoding", action="store_true", help="only the table of decoding")
    folder, only_decoding = vars(parser.parse_args()).values()
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, OpenCV {cv2.__version__}\n")
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stderr(io.StringIO()):
        cache, enlarged_ones = Path(temporary) / "cache", Path(temporary) / "enlarged"
        if not only_decoding:
            train_set = datasets.load(datasets.Source("cars196", str(folder), str(cache)), "train", SIDE)
            feeding(train_set)
            print()
            augmentation(train_set)
            print()
        original = prepared(folder, "cars196", cache)
        enlarge_all(original.encoded[:1500], enlarged_ones)
        large = prepared(enlarged_ones, "folder", cache)
        cases = {f"{len(original.encoded):,} as they are": original}
        decoding(cases | {f"{len(large.encoded):,} enlarged 3x": large})
    sys.stdout.flush()
