"""benchmarks/gpu.sh with a stub in the place of Python: what it runs, skips and returns."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"
NO_GPU = 'case "$*" in *default_backend*) exit 1 ;; esac'


def run(folder: Path, *arguments: str, python: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    stub = folder / "python"
    stub.write_text(f"#!/bin/sh\n{python}\n")
    stub.chmod(0o755)
    known = {key: value for key, value in os.environ.items() if key not in ("JAX_PLATFORMS", "SMALL", "OUT")}
    known |= {"PYTHON": str(stub), "KEEP": str(folder / "keep")} | environment
    return subprocess.run(["bash", str(SCRIPT), *arguments], env=known, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [(), ("4",), ("1", "x"), ("1", "0"), ("1", "60", "3")])
def test_wrong_arguments_print_the_usage(tmp_path, arguments):
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "usage: bash benchmarks/gpu.sh 1|2|3 [SECONDS]\n")


def test_without_a_gpu_nothing_runs(tmp_path):
    done = run(tmp_path, "2", python=NO_GPU)
    assert done.returncode == 1 and not done.stdout
    assert "finds no GPU" in done.stderr


def test_a_failed_part_ends_in_an_error_after_the_others(tmp_path):
    done = run(tmp_path, "2", python='case "$*" in *hotspots*) echo broken >&2; exit 3 ;; esac', JAX_PLATFORMS="cpu")
    assert done.returncode == 1
    assert done.stdout.count("(ended with 3)\nbroken") == 2
    assert done.stdout.index("## Pools, layer by layer") > done.stdout.index("(ended with 3)")
    assert done.stdout.endswith("parts that failed: 2\n")


def test_parts_without_time_are_skipped(tmp_path):
    done = run(tmp_path, "2", "5", python='echo "$@"', JAX_PLATFORMS="cpu")
    assert done.returncode == 0
    assert done.stdout.count("(skipped: no time is left)") == done.stdout.count("## ") == 5
    assert ".py" not in done.stdout
