"""Imported before `configs` and `symm_jax`, so that both are those of this checkout, whatever is installed."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

sys.path.insert(1, str(ROOT))  # after this folder
