"""Faults injected into a tiny run, and what came of them: the tables of docs/reliability.md.

    python benchmarks/faults.py                        # every part, few tries
    python benchmarks/faults.py kill --tries=30        # one part
    python benchmarks/faults.py --write                # also puts each table into docs/reliability.md

A cell that begins with FAULT broke a promise. Above the tables, the program prints every try, with the seed that
repeats it; the exit code is then 1. Nothing outside a scratch folder is touched, but the page with --write.

    part      tries are              what is injected
    kill      runs                   kill -9 of the process group at random moments, from empty caches on
    damage    bits per kind of file  every kind of file cut, emptied, one bit flipped, deleted
    signals   (not used)             SIGTERM, SIGINT, SIGHUP in every phase
    disk      levels of free space   a disk that fills up, and read-only folders; needs `unshare -rm`
    together  (not used)             two trainers, two evaluators, a deleter, two builders, a lost peer
    growth    steps / 100            memory, file descriptors and threads over a long run and many checkpoints
    fuzz      times the examples     the property tests of readers, with more examples

Compiled programs are kept in $JAX_COMPILATION_CACHE_DIR, if it is set, so that the next call is faster.
Times on two idle cores: kill 1 min per try, damage 15 min, signals 10 min, disk 10 min, together 5 min, growth 5 min.
"""

import argparse
import datetime
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import checkout

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(checkout.ROOT / "tests"))  # for the launcher of the tests

import jax
import launcher
from absl import logging
from fault_parts import damage, disk, fuzz, growth, kill, signals, tiny, together
from fault_parts.table import insert

PAGE = checkout.ROOT / "docs/reliability.md"
# Part -> function (runs, tries) -> table, and the tries of a short run.
PARTS = {
    "kill": (kill.kill, 5),
    "damage": (damage.damage, 1),
    "signals": (signals.signals, 1),
    "disk": (disk.disk, 4),
    "together": (together.together, 1),
    "growth": (growth.growth, 200),
    "fuzz": (fuzz.fuzz, 10),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--tries", type=int, help="see above; by default few")
    parser.add_argument("--write", action="store_true", help=f"write the tables into {PAGE.name}")
    parser.add_argument("--only", default="", help="with damage and signals: rows whose name contains this")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folder")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"unknown part {', '.join(unknown)}; parts: {', '.join(PARTS)}")
    parts = arguments.parts or [*PARTS]
    if "disk" in parts:
        disk.enter_namespace()
    # A program that was started by nohup, or in the background of a script, ignores these. Those started here must not.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.set_verbosity(logging.ERROR)  # Orbax logs every restore
    os.chdir(checkout.ROOT)
    count = 0
    scratch = tempfile.mkdtemp(prefix="faults-")
    try:
        tiny.set_environment(Path(scratch))
        with launcher.Launcher() as launch:
            runs = tiny.Tiny(Path(scratch), launch, arguments.only)
            for name in parts:
                run, few = PARTS[name]
                tries = arguments.tries or few
                table = run(runs, tries)
                count += table.faults()
                command = f"`python benchmarks/faults.py {name} --tries={tries}"
                command += f" --only={arguments.only}`" if arguments.only else "`"
                text = f"{command}, {_where()}. {table.tried}\n\n{table.markdown()}"
                print(f"\n{text}\n", flush=True)
                if arguments.write:
                    insert(PAGE, name, text)
    finally:
        if arguments.keep:
            print(f"files     {scratch}")
        else:
            subprocess.run(["rm", "-rf", scratch])
    if count:
        sys.exit(f"{count} faults")


def _where() -> str:
    cpu = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ": ?"
    )
    return f"{datetime.date.today()}, {os.cpu_count()} cores ({cpu.partition(':')[2].strip()}), jax {jax.__version__}"


if __name__ == "__main__":
    main()
