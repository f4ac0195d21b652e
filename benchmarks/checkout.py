"""Imported before `configs` and `symm_jax`, so that both are those of this checkout, whatever is installed.

A benchmark that imports this has huge pages, as launch.py has.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

sys.path.insert(1, str(ROOT))  # after this folder

from symm_jax.app import huge_pages  # noqa: E402

huge_pages.restart()
