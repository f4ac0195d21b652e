"""Reads MATLAB files in a separate process: a damaged file can crash scipy's reader, or make it fill the memory.

The entry point is `read`.
"""

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from symm_jax.errors import InputError

_MAX_MEMORY = 4 * 2**30  # bytes
_MAX_SECONDS = 300
_PROGRAM = "import sys; from symm_jax import matfile; matfile._main(int(sys.argv[1]))"


def read(path: Path) -> dict[str, np.ndarray]:
    """`parse` of a file. Raises InputError also when there is no such file."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    return parse(path.read_bytes(), str(path))


def parse(content: bytes, name: str) -> dict[str, np.ndarray]:
    """The variables of a MATLAB file up to version 7.2.

    A struct array `a` becomes an array (n,) "a.f" for each field f. A cell array becomes an array (n,). Character
    arrays become strings.

    Args:
      content: the file's bytes.
      name: the file's name, for messages.

    Returns:
      {name: array of numbers or strings}. Variables and fields of other kinds are left out.

    Raises:
      InputError: the file is damaged, or is not a MATLAB file.
    """
    command = [sys.executable, "-c", _PROGRAM, str(_MAX_MEMORY)]
    package = Path(__file__).parents[1]
    try:
        done = subprocess.run(
            command, input=content, capture_output=True, timeout=_MAX_SECONDS, cwd=package, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{name} cannot be read within {_MAX_SECONDS} s. Download it again.") from None
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise InputError(f"{name} cannot be read as a MATLAB file ({last[0]}). Download it again.")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as arrays:
        return {str(name): arrays[f"array{i}"] for i, name in enumerate(arrays["names"])}


def _main(max_memory: int) -> None:
    """The program of the other process: reads the file from standard input, and writes the arrays as .npz to output."""
    import scipy.io

    with contextlib.suppress(ImportError, ValueError):  # Windows has no such module, and macOS refuses this limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (max_memory, max_memory))
    arrays = _plain_arrays(scipy.io.loadmat(io.BytesIO(sys.stdin.buffer.read())))
    # Numbered, because the name of a variable may be any string.
    numbered: dict[str, Any] = {f"array{i}": x for i, x in enumerate(arrays.values())}
    file = io.BytesIO()
    np.savez(file, names=np.array([*arrays], str), **numbered)
    sys.stdout.buffer.write(file.getvalue())


def _plain_arrays(content: dict) -> dict[str, np.ndarray]:
    """Arrays of numbers and strings from the result of scipy."""
    flat = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray):
            fields = value.dtype.names or ()
            flat |= {f"{name}.{field}": value[field] for field in fields} if fields else {name: value}
    arrays = {name: _stack(x) if x.dtype == object else x for name, x in flat.items()}
    return {name: x for name, x in arrays.items() if x.dtype.kind in "biufcU"}


def _stack(cells: np.ndarray) -> np.ndarray:
    """(n,) numbers or strings from n cells with one value each; an empty object array for other cells."""
    values = [np.squeeze(cell) for cell in cells.ravel()]
    kinds = {"U" if v.dtype.kind == "U" else "n" for v in values}
    plain = len(kinds) == 1 and all(v.ndim == 0 and v.dtype.kind in "biufU" for v in values)
    return np.array(values) if plain else np.empty(0, object)
