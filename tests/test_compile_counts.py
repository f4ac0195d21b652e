"""Counts of programs that are compiled for a GPU without one. They need the CUDA plugin, and else are skipped."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import compiled  # noqa: E402

has_plugin = any(importlib.util.find_spec(name) for name in ("jax_cuda13_plugin", "jax_cuda12_plugin"))

# Kernels and GB at most. Lower a bound when its program has become better.
BOUNDS = {
    "inception 3b, float32": (42, 4.3),
    "inception 3b, bfloat16": (47, 2.2),
    "loss of 64 pairs": (66, 0.01),
    "loss of 4,096 pairs": (78, 5.2),
    "loss of 16,384 pairs": (565, 97.3),
    "loss of 65,536 pairs": (3901, 1957),
}
SLOW_BOUNDS = {
    "step, float32": (540, 26.2),
    "step, bfloat16": (575, 14.8),
}


@pytest.mark.skipif(not has_plugin, reason="no CUDA plugin")
@pytest.mark.parametrize("name", [*BOUNDS, *SLOW_BOUNDS])
def test_kernels_and_bytes_stay_below_their_bounds(name):
    if name in SLOW_BOUNDS and "SLOW_COMPILES" not in os.environ:
        pytest.skip("takes minutes: SLOW_COMPILES=1 runs it")
    command = [sys.executable, str(ROOT / "benchmarks" / "compile_counts.py"), f"--only={name}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row = next(line for line in output.splitlines() if line.startswith(f"| {name} |"))
    kernels, gigabytes = row.split("|")[2:4]
    most_kernels, most_gigabytes = (BOUNDS | SLOW_BOUNDS)[name]
    assert int(kernels.replace(",", "")) <= most_kernels
    assert float(gigabytes.replace(",", "")) <= most_gigabytes


PROGRAM = """HloModule example

%fused_slice (p0: f32[8,4], p1: f32[2,4]) -> f32[2,4] {
  %p0 = f32[8,4]{1,0} parameter(0)
  %p1 = f32[2,4]{1,0} parameter(1)
  %part = f32[2,4]{1,0} slice(%p0), slice={[0:2], [0:4]}
  ROOT %sum = f32[2,4]{1,0} add(%part, %p1)
}

%body (state: (s32[], f32[2,4])) -> (s32[], f32[2,4]) {
  %state = (s32[], f32[2,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[2,4]{1,0} get-tuple-element(%state), index=1
  %copied = f32[2,4]{1,0} copy(%x)
  ROOT %next = (s32[], f32[2,4]{1,0}) tuple(%i, %copied)
}

ENTRY %main (a: f32[8,4], b: f32[2,4]) -> (s32[], f32[2,4]) {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[2,4]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %fusion = f32[2,4]{1,0} fusion(%a, %b), kind=kLoop, calls=%fused_slice
  %start = (s32[], f32[2,4]{1,0}) tuple(%zero, %fusion)
  ROOT %loop = (s32[], f32[2,4]{1,0}) while(%start), body=%body, "known_trip_count":{"n":"5"}
}
"""


def test_counts_of_a_program_are_those_worked_by_hand():
    """The fusion reads a quarter of `a`, and `b`, and writes as much: 3 x 32 bytes. Each of 5 copies moves 64."""
    assert compiled.count(PROGRAM) == compiled.Counts(kernels=1 + 5, bytes=3 * 32 + 5 * 64)
