"""Seconds from the command of `make demo` to the end of its first training step, by phase, with warm caches.

    python benchmarks/start.py [--rounds N]

The command is `launch.py --config=configs/glyphs_symm_npair.py` with one step, in a fresh workdir. A first run, which
is not counted, writes the data set and the compiled programs. "traced", "lowered" and "compiled or loaded" are parts of
a phase, summed over its programs. Values are medians.
"""

import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import checkout
import jax
from losses import print_row

PARTS = ("traced", "lowered", "compiled or loaded")
ONE_STEP = ("--config.num_steps=1", "--config.checkpoint_every=1", "--config.log_every=1")


def run(arguments: list[str], environment: dict[str, str]) -> float:
    """Seconds that a Python program takes."""
    start = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, *arguments], check=True, cwd=checkout.ROOT, env=environment, **quiet)
    return time.perf_counter() - start


def phases(folder: Path, environment: dict[str, str]) -> list[tuple[str, float, dict[str, float], int]]:
    """Name, seconds, parts and programs of each phase of one start."""
    out = folder / "phases"
    command = ["benchmarks/start_phases.py", str(out), str(time.time()), "--config=configs/glyphs_symm_npair.py"]
    command += ["--mode=train", f"--workdir={folder / 'run'}", f"--config.data.cache_dir={folder.parent / 'data'}"]
    folder.mkdir()
    run([*command, *ONE_STEP], environment)
    before, found = 0.0, []
    for phase, end, parts, programs in map(json.loads, out.read_text().splitlines()):
        again = any(phase == name for name, *_ in found)
        found.append((f"{phase}, again with huge pages" if again else phase, end - before, parts, programs))
        before = end
    return [*found, ("all", before, {}, 0)]


def main(rounds: int) -> None:
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}\n")
    runs = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        # A user's shell has not asked for huge pages.
        environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        environment["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/compiled"
        helps = [run(["launch.py", "--help"], environment) for _ in range(rounds)]
        phases(Path(folder, "first"), environment)
        for i in range(rounds):
            for phase, *values in phases(Path(folder, str(i)), environment):
                runs[phase].append(values)
    print_row("start", "s", *PARTS, "programs")
    print_row(*["---"] * 6)
    print_row("`launch.py --help`", f"{statistics.median(helps):.2f}", *[""] * 4)
    for phase, values in runs.items():
        seconds, parts, programs = zip(*values, strict=True)
        medians = [statistics.median(part.get(name, 0) for part in parts) for name in PARTS]
        print_row(
            phase,
            f"{statistics.median(seconds):.2f}",
            *[f"{value:.2f}" if value else "" for value in medians],
            str(max(programs) or ""),
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args().rounds)
