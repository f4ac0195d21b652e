"""Writes the folder of an exported network: all of it, or nothing."""

import hashlib
import importlib.resources
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

from symm_jax import errors, files, models
from symm_jax.errors import InputError
from symm_jax.export import card, forward
from symm_jax.search.embedder import Embedder

STABLEHLO, SAFETENSORS, ONNX = "model.stablehlo", "model.safetensors", "model.onnx"
BACKBONE, LOAD, CARD = "backbone.py", "load.py", "README.md"
_FILES = (STABLEHLO, SAFETENSORS, ONNX, BACKBONE, LOAD, CARD)
_MODULE_FIELDS = ("dtype", "param_dtype", "parent", "name")


def write(network: Embedder, out: Path, run: card.Run | None = None) -> None:
    """Writes a network into a folder. An export that is there is replaced as a whole.

    Args:
      network: the network.
      out: the folder.
      run: what is known of its training; None for a pretrained backbone alone.

    Raises:
      InputError: there is something else at `out`, or the network is not finite.
    """
    _check(out, network, run)
    description = describe(network)
    lock = out.with_name(f".{out.name}.export.lock")
    with (
        files.lock(lock, busy=f"another process exports to {out}"),
        files.new_directory(out, replace=True) as folder,
    ):
        try:
            missing = _write_models(network, description, folder)
            written = {path.name: _size_and_digest(path) for path in sorted(folder.iterdir())}
            _save(folder / CARD, card.text(network, description, written, missing, run).encode())
        finally:
            lock.unlink(missing_ok=True)
    for name, reason in missing.items():
        errors.warn(f"{name} was not written: {reason}")
    sizes = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, (size, _) in written.items() if name.startswith("model"))
    print(f"export    {out}: {sizes}, {CARD}")


def describe(network: Embedder) -> dict[str, Any]:
    """The network in plain JSON types, with all options of its backbone: what load.py needs to build it."""
    alone = not isinstance(network.model, models.Embedder)
    backbone = network.model if alone else network.model.backbone
    options = {name: getattr(backbone, name) for name in backbone.__dataclass_fields__ if name not in _MODULE_FIELDS}
    return {
        "name": network.network["name"],
        "dim": network.dim,
        "image_size": network.image_size,
        "dtype": np.dtype(backbone.dtype).name,
        "param_dtype": np.dtype(backbone.param_dtype).name,
        "options": json.loads(json.dumps(options, default=str)),
    }


def _check(out: Path, network: Embedder, run: card.Run | None) -> None:
    if run and out.is_relative_to(run.workdir):
        raise InputError(f"{out} lies in the workdir, which only holds the run", argument="out")
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file", argument="out")
    names = {path.name for path in out.iterdir()}
    if names and (SAFETENSORS not in names or names - {*_FILES, "__pycache__"}):
        other = sorted(names - {*_FILES})[:1] or sorted(names)
        raise InputError(f"{out} is not an export and holds other files, such as {other[0]}", argument="out")
    if SAFETENSORS in names and (theirs := _weights(out / SAFETENSORS)) != network.weights["sha256"]:
        raise InputError(
            f"{out} is the export of other weights: there SHA-256 {theirs}, here {network.weights['sha256']}",
            argument="out",
        )


def _weights(path: Path) -> str:
    """The digest of the weights in a file that `_to_safetensors` made; "unknown" for another file."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get("sha256", "unknown")
    except (OSError, safetensors.SafetensorError):
        return "unknown"


def _write_models(network: Embedder, description: dict[str, Any], folder: Path) -> dict[str, str]:
    """Writes all files but the card. Returns the reason for each that cannot be written."""
    missing = {}
    _save(folder / SAFETENSORS, _to_safetensors(network, description))
    source = importlib.resources.files("symm_jax.export") / "standalone"
    if (source / f"{description['name']}.py").is_file():
        _save(folder / BACKBONE, (source / f"{description['name']}.py").read_bytes())
        _save(folder / LOAD, (source / LOAD).read_bytes())
    else:
        missing[BACKBONE] = f"{description['name']} is a backbone of your own; its definition is yours to add"
    _save(folder / STABLEHLO, forward.to_stablehlo(network))
    try:
        _save(folder / ONNX, _to_onnx(network))
    except ImportError:
        missing[ONNX] = "the package onnx is not installed. Run: pip install 'symm_jax[onnx]', or pip install onnx"
    except InputError as error:
        missing[ONNX] = error.fact
    return missing


def _to_safetensors(network: Embedder, description: dict[str, Any]) -> bytes:
    tensors: dict[str, Any] = flatten_dict(jax.tree.map(np.asarray, dict(network.variables)), sep="/")
    metadata = {
        "format": "flax",
        "network": json.dumps(description),
        "preprocessing": json.dumps(network.preprocessing),
        "sha256": network.weights["sha256"],
    }
    contiguous = {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in tensors.items()}
    return _in_order(safetensors.numpy.save(contiguous, metadata))


def _in_order(file: bytes) -> bytes:
    """A safetensors file with its header sorted, so that the same weights give the same bytes each time."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[end:]


def _to_onnx(network: Embedder) -> bytes:
    from symm_jax.export import onnx_graph  # imported here: the package onnx may be absent

    model, variables = forward.in_float32(network)
    convert: Callable[..., bytes] = onnx_graph.convert
    # "gpu": textbook operations, such as grouped convolutions, where XLA is fastest with others on a CPU.
    return convert(forward.unit_embeddings(model, "gpu"), variables, forward.any_images(network))


def _save(path: Path, content: bytes) -> None:
    with files.naming(path):
        path.write_bytes(content)


def _size_and_digest(path: Path) -> tuple[int, str]:
    with open(path, "rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
