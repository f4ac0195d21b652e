"""Time and memory of evaluation beside faiss's exact search and pytorch-metric-learning, and embedding's overhead.

    pip install faiss-cpu torch pytorch-metric-learning  # optional: the peers
    python benchmarks/evaluation.py                      # about ten minutes on two cores
    python benchmarks/evaluation.py --images 2000 200    # one set of that many images and classes

Embeddings are made up, 512 numbers each, of the sizes of Cars196's and Stanford Online Products' test halves.
"faiss" is its exact search (IndexFlatIP) for the largest k + 1 neighbours and the recall at every k from them;
"pytorch-metric-learning" its AccuracyCalculator with precision@1, MAP@R and R-precision; both run on the CPU.
"PyTorch" computes what "ours with MAP@R" does, but for R-precision, on a GPU if there is one: products in full float32
in blocks, and topk. Rounds alternate between the programs and a time is the median of its rounds; the first, which
compiles, does not count. Peak memory is that of a process which does nothing else. Last, GoogLeNet: images per second
of a whole evaluation, metrics included, beside the bare forward pass on images that lie ready.
"""

import argparse
import functools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import checkout  # noqa: F401
import jax
import numpy as np
from losses import median_seconds, print_row

from configs import default
from symm_jax import metrics, models
from symm_jax.data.arrays import Arrays
from symm_jax.evaluation import protocol
from symm_jax.models.embed import create_embed, embed_all

DIM = 512
KS = (1, 10, 100)
SETS = {"Cars196": (8_131, 98, 5), "Online Products": (60_502, 11_316, 3)}  # images, classes, rounds
OURS, OURS_ALL, FAISS, PEER, TORCH = "ours", "ours with MAP@R", "faiss", "pytorch-metric-learning", "PyTorch"


def embeddings_of(n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Clusters about as tight as those of a trained network: Recall@1 near 80 % at the larger size."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    centres = rng.normal(size=(classes, DIM)).astype(np.float32)
    return centres[labels] + 2.2 * rng.normal(size=(n, DIM)).astype(np.float32), labels


def faiss_recall(embeddings: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    import faiss

    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(DIM)
    index.add(unit)
    found = index.search(unit, max(KS) + 1)[1]
    right = labels[found] == labels[:, None]
    right[found == np.arange(len(labels))[:, None]] = False
    # The query itself is among the neighbours, nearly always first, and does not count as one.
    place = np.cumsum(found != np.arange(len(labels))[:, None], axis=1)
    queries = np.bincount(labels)[labels] > 1
    return {k: float(np.mean((right & (place <= k)).any(1)[queries])) for k in KS}


def peer_map_at_r(embeddings: np.ndarray, labels: np.ndarray) -> float:
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import FaissKNN

    unit = torch.nn.functional.normalize(torch.tensor(embeddings))
    names = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
    calculator = AccuracyCalculator(include=names, k="max_bin_count", device=torch.device("cpu"), knn_func=FaissKNN())
    return calculator.get_accuracy(unit, torch.tensor(labels))["mean_average_precision_at_r"]


def torch_retrieval(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Recall@k and MAP@R from the nearest of every block of queries."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    block = 8192 if device == "cuda" else 1024
    unit = torch.nn.functional.normalize(torch.tensor(embeddings, device=device))
    labels = torch.tensor(labels, device=device)
    positives = torch.bincount(labels)[labels] - 1
    k = max(*KS, positives.max().item())
    place = torch.arange(1, k + 1, device=device)
    found = []
    for rows in torch.arange(len(unit), device=device).split(block):
        similar = unit[rows] @ unit.T
        similar[torch.arange(len(rows), device=device), rows] = -torch.inf
        right = labels[similar.topk(k).indices] == labels[rows, None]
        within = right & (place <= positives[rows, None])
        average = (within * right.cumsum(1) / place).sum(1) / positives[rows]
        found.append(torch.stack([*(right[:, :k].any(1) for k in KS), average], 1)[positives[rows] > 0])
    names = *(f"recall@{k}" for k in KS), "map@r"
    return dict(zip(names, torch.cat(found).mean(0).tolist(), strict=True))


def compare_metrics(sets: list[tuple[int, int, int]]) -> None:
    columns = OURS, FAISS, OURS_ALL, PEER, TORCH
    print_row("images", "classes", *(f"{name}, s" for name in columns), f"{OURS}, peak GiB")
    print_row(*["---"] * 8)
    for n, classes, rounds in sets:
        embeddings, labels = embeddings_of(n, classes)
        ours = metrics.retrieval(embeddings, labels, KS)
        programs = {
            OURS: lambda: metrics.recall_at_k(embeddings, labels, KS),  # noqa: B023 - called in this round
            OURS_ALL: lambda: metrics.retrieval(embeddings, labels, KS),  # noqa: B023
        }
        if importable("faiss"):
            programs[FAISS] = lambda: faiss_recall(embeddings, labels)  # noqa: B023
            theirs = faiss_recall(embeddings, labels)
            np.testing.assert_allclose([ours[f"recall@{k}"] for k in KS], [theirs[k] for k in KS], atol=1e-4)
        if importable("pytorch_metric_learning") and importable("faiss"):
            programs[PEER] = lambda: peer_map_at_r(embeddings, labels)  # noqa: B023
            np.testing.assert_allclose(ours["map@r"], peer_map_at_r(embeddings, labels), atol=1e-4)
        if importable("torch"):
            programs[TORCH] = lambda: torch_retrieval(embeddings, labels)  # noqa: B023
            theirs = torch_retrieval(embeddings, labels)
            np.testing.assert_allclose([ours[name] for name in theirs], list(theirs.values()), atol=1e-4)
        seconds = median_seconds(programs, rounds)

        def beside(name, base):
            if name not in seconds:  # noqa: B023
                return "not installed"
            return f"{seconds[name]:.2f} ({seconds[name] / seconds[base]:.2f}x)"  # noqa: B023

        row = f"{seconds[OURS]:.2f}", beside(FAISS, OURS), f"{seconds[OURS_ALL]:.2f}"
        peers = beside(PEER, OURS_ALL), beside(TORCH, OURS_ALL)
        print_row(f"{n:,}", f"{classes:,}", *row, *peers, peak_of(n, classes))


def peak_of(n: int, classes: int) -> str:
    """Peak memory in GiB of a process that makes the embeddings and measures them."""
    command = [sys.executable, __file__, "--peak", str(n), str(classes)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def compare_embedding(images: int = 512, batch_size: int = 64, rounds: int = 3) -> None:
    config = default.get_config()
    config.eval_batch_size = batch_size
    how = protocol.create_protocol(config)
    model = how.model
    variables = jax.jit(functools.partial(models.init_variables, model, how.image_size))(jax.random.key(0))
    side = config.data.image_size
    with tempfile.TemporaryDirectory() as folder:
        stored = np.lib.format.open_memmap(Path(folder) / "images.npy", "w+", np.uint8, (images, side, side, 3))
        stored[:] = np.random.default_rng(0).integers(0, 256, stored.shape, dtype=np.uint8)
        test = Arrays(stored, np.arange(images, dtype=np.int32) % 64, np.ones((images, 2), np.float32))
        embed = functools.partial(embed_all, create_embed(model), batch_size=batch_size)
        scorer = protocol.Scorer(lambda v, images, label: embed(v, images, label=label), None, test, None)
        forward = jax.jit(model.apply)
        ready = jax.device_put(stored[:batch_size])

        def bare():
            for _ in range(images // batch_size):
                forward(variables, ready).block_until_ready()

        programs = {"evaluation": lambda: protocol.measure(how, scorer, variables, "embed"), "bare": bare}
        rates = {name: images / seconds for name, seconds in median_seconds(programs, rounds).items()}
    print_row("GoogLeNet, images/s", "bare forward pass", "whole evaluation", "share")
    print_row(*["---"] * 4)
    share = rates["evaluation"] / rates["bare"]
    print_row(f"{images} images", f"{rates['bare']:.1f}", f"{rates['evaluation']:.1f}", f"{100 * share:.0f} %")


def importable(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak", type=int, nargs=2, metavar=("IMAGES", "CLASSES"), help="only print peak memory, GiB")
    parser.add_argument("--images", type=int, nargs=2, metavar=("IMAGES", "CLASSES"), help="this set, and no embedding")
    arguments = parser.parse_args()
    if arguments.peak:
        metrics.retrieval(*embeddings_of(*arguments.peak), KS)
        # Not getrusage: its peak is never below what the parent held when it started this process.
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        print(f"{int(peak[1]) / 2**20:.2f}")
    else:
        print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, dim {DIM}; ratios to ours\n")
        compare_metrics([(*arguments.images, 3)] if arguments.images else list(SETS.values()))
        if not arguments.images:
            print()
            compare_embedding()
