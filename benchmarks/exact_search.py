"""Prints how long exact search takes over a memory map of float16, next to faiss, and usearch's graph.

    pip install faiss-cpu usearch  # optional: the peers
    python benchmarks/exact_search.py [--count=1000000] [--runs=3] [--without_usearch]

The embeddings are 512 random dimensions of unit length, so that the nearest are hardly nearer than the others, which is
a hard case for a graph. faiss.IndexFlatIP searches float32 copies. Each
program runs in a process of its own, and keeps what it has opened. The two search in turn, and medians count.
"Resident" is the peak of the process, VmHWM: the pages of the memory map are in it, and the system can take them back.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import checkout  # noqa: F401
import numpy as np
from losses import print_row

DIM, K, QUERIES = 512, 10, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="number of embeddings")
    parser.add_argument("--runs", type=int, default=3, help="runs of each program")
    parser.add_argument("--without_usearch", action="store_true", help="the graph of a million takes many minutes")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        child(flags.child[0], Path(flags.child[1]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch), flags.count)
        ours = Child("ours", scratch)
        peers = [name for name in ("faiss",) if importlib.util.find_spec(name)]
        programs = [ours, *(Child(name, scratch) for name in peers)]
        print(f"{flags.count:,} embeddings of {DIM} numbers, float16, k = {K}\n")
        print_row("queries", *(f"{each.name}, s" for each in programs), "faiss / ours", "results")
        print_row(*["---"] * (len(programs) + 3))
        for n in (1, QUERIES):
            seconds = {each.name: [] for each in programs}
            for _ in range(flags.runs if n > 1 else 5 * flags.runs):
                for each in programs:
                    seconds[each.name].append(float(each.ask(f"search {n}")))
            medians = [statistics.median(times) for times in seconds.values()]
            ratio = f"{medians[1] / medians[0]:.2f}" if peers else "not installed"
            print_row(f"{n:,}", *(f"{x:.3f}" for x in medians), ratio, compared(Path(scratch), n) if peers else "")
        print("\nresident: " + ", ".join(f"{each.name} {float(each.ask('resident')):.2f} GiB" for each in programs))
        print(f"opening, with the digest of {2 * DIM * flags.count / 1e9:.1f} GB: {float(ours.ask('open')):.2f} s")
        for each in programs:
            each.end()
        if not flags.without_usearch and importlib.util.find_spec("usearch"):
            graph = Child("usearch", scratch)
            seconds, recall = graph.ask("made").split()
            print(f"\nusearch: made in {float(seconds):.0f} s, recall@{K} {float(recall):.4f}")
            for n in (1, QUERIES):
                print(f"{n:,} queries: {statistics.median(float(graph.ask(f'search {n}')) for _ in range(5)):.4f} s")
            graph.end()


def make(folder: Path, count: int) -> None:
    """Writes an index of random embeddings, of which one in a hundred is a copy of another, and queries."""
    from symm_jax.search import index

    rng = np.random.default_rng(0)

    def blocks():
        for start in range(0, count, 50_000):
            block = unit(rng, min(50_000, count - start))
            copies = rng.choice(len(block), (2, len(block) // 100))
            block[copies[0]] = block[copies[1]]
            yield block

    rows = [index.Row(f"{i:08d}.jpg", 1, 1, "", "") for i in range(count)]
    about = {"images": "/", "dim": DIM, "dtype": "float16", "weights": {"sha256": ""}}
    (folder / "index").mkdir()
    index.write(folder / "index", about, rows, blocks())
    np.save(folder / "queries.npy", unit(rng, QUERIES))


def unit(rng: np.random.Generator, n: int) -> np.ndarray:
    x = rng.standard_normal((n, DIM), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def compared(folder: Path, n: int) -> str:
    """Whether the results are those of faiss. Other rows count where their similarities differ by more than 1e-6."""
    ours, theirs = (np.load(folder / f"{name}-{n}.npz") for name in ("ours", "faiss"))
    difference = float(np.abs(ours["values"] - theirs["values"]).max())
    others = int((ours["rows"] != theirs["rows"]).sum())
    equal = "equal" if difference < 1e-6 else "not equal"
    return f"{equal} to {difference:.0e}; {others} of {n * K:,} rows are others, with such a similarity"


class Child:
    """A process that answers lines with lines."""

    def __init__(self, name: str, folder: str):
        self.name = name
        command = [sys.executable, __file__, "--child", name, folder]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line: str) -> str:
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def end(self) -> None:
        self._process.communicate()


def child(name: str, folder: Path) -> None:
    """Answers "search N" with seconds, and "resident", "open" and "made" with figures."""
    queries = np.load(folder / "queries.npy")
    start = time.perf_counter()
    search, recall = opened(name, folder)
    made = time.perf_counter() - start
    for line in sys.stdin:
        word, *number = line.split()
        if word == "search":
            n = int(number[0])
            start = time.perf_counter()
            values, rows = search(queries[:n], K)
            seconds = time.perf_counter() - start
            np.savez(folder / f"{name}-{n}.npz", values=values, rows=rows)
            print(seconds, flush=True)
        elif word == "resident":
            peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
            print(int(peak.split()[1]) / 2**20, flush=True)
        else:
            print(made, recall if word == "made" else "", flush=True)


def opened(name: str, folder: Path):
    """A function (queries, k) -> (similarities, rows), and the recall of a graph."""
    if name == "faiss":
        import faiss

        embeddings = np.load(folder / "index/embeddings.npy", mmap_mode="r")
        flat = faiss.IndexFlatIP(DIM)
        for start in range(0, len(embeddings), 50_000):
            flat.add(np.asarray(embeddings[start : start + 50_000], np.float32))
        return flat.search, 1.0
    from symm_jax.search import Index

    index = Index(folder / "index")
    if name == "ours":
        return index.search, 1.0
    from symm_jax.search.approximate import Approximate

    graph = Approximate(index)
    return graph.search, graph.recall


if __name__ == "__main__":
    main()
