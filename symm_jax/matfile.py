"""Reads MATLAB files in a process of its own: scipy's reader can crash, or be made to fill memory, by a damaged one.

`read` is the way in.
"""

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np

from symm_jax.errors import InputError

_MAX_MEMORY = 4 * 2**30  # bytes
_MAX_SECONDS = 300
_PROGRAM = "import sys; from symm_jax import matfile; matfile._main(int(sys.argv[1]))"


def read(path: Path) -> dict[str, np.ndarray]:
    """`parse` of a file; InputError when it is missing, too."""
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    return parse(path.read_bytes(), str(path))


def parse(content: bytes, name: str) -> dict[str, np.ndarray]:
    """The variables of a MATLAB file up to version 7.2.

    A struct array `a` becomes an array (n,) "a.f" for each field f, a cell array an array (n,); texts become strings.

    Args:
      content: of the file.
      name: of the file, for messages.

    Returns:
      {name: array of numbers or strings}. Variables and fields of other kinds are left out.

    Raises:
      InputError: it is damaged, or not a MATLAB file.
    """
    command = [sys.executable, "-c", _PROGRAM, str(_MAX_MEMORY)]
    package = Path(__file__).parents[1]
    try:
        done = subprocess.run(
            command, input=content, capture_output=True, timeout=_MAX_SECONDS, cwd=package, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{name} cannot be read in {_MAX_SECONDS} s; get it anew") from None
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise InputError(f"{name} cannot be read as a MATLAB file ({last[0]}); get it anew")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as arrays:
        return {str(name): arrays[f"array{i}"] for i, name in enumerate(arrays["names"])}


def _main(max_memory: int) -> None:
    """What the other process does: reads the file from its standard input, writes the arrays as .npz to its output."""
    import scipy.io

    with contextlib.suppress(ImportError, ValueError):  # not on Windows, and macOS refuses this limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (max_memory, max_memory))
    arrays = _plain(scipy.io.loadmat(io.BytesIO(sys.stdin.buffer.read())))
    file = io.BytesIO()
    # Numbered, for a name may be anything.
    np.savez(file, names=np.array([*arrays], str), **{f"array{i}": x for i, x in enumerate(arrays.values())})
    sys.stdout.buffer.write(file.getvalue())


def _plain(content: dict) -> dict[str, np.ndarray]:
    """Arrays of numbers and strings, out of what scipy returns."""
    flat = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray):
            fields = value.dtype.names or ()
            flat |= {f"{name}.{field}": value[field] for field in fields} if fields else {name: value}
    arrays = {name: _stack(x) if x.dtype == object else x for name, x in flat.items()}
    return {name: x for name, x in arrays.items() if x.dtype.kind in "biufcU"}


def _stack(cells: np.ndarray) -> np.ndarray:
    """(n,) numbers or strings out of as many cells, each with one; of other cells an array that is left out."""
    values = [np.squeeze(cell) for cell in cells.ravel()]
    kinds = {"U" if v.dtype.kind == "U" else "n" for v in values}
    plain = len(kinds) == 1 and all(v.ndim == 0 and v.dtype.kind in "biufU" for v in values)
    return np.array(values) if plain else np.empty(0, object)
