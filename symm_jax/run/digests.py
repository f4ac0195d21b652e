"""SHA-256 digests of what a checkpoint holds. They are stored with it as its item "digests".

Orbax restores an array with a flipped bit without an error. The digests name their step and cover every item:

    {"step": 3, "params": {leaf: digest}, "opt_state": {leaf: digest}, "config": digest, "sha256": digest of the rest}

Checkpoints of earlier versions have neither "step", "config" nor "sha256", or they have no digests.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def describe(step: int, trees: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The digests of a checkpoint with the items `trees` and `config`, as plain JSON types."""
    content = {"step": step} | {name: of_leaves(tree) for name, tree in trees.items()} | {"config": of_json(config)}
    return content | {"sha256": of_json(content)}


def of_leaves(tree: Any) -> dict[str, str]:
    """{path of a leaf in the tree: digest of its bytes}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): hashlib.sha256(np.ascontiguousarray(x).view(np.uint8).data).hexdigest()
        for path, x in leaves
    }


def of_json(value: Any) -> str:
    """Digest of a value of plain JSON types. The order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def require_intact(stored: Any, step: int) -> None:
    """Raises ValueError when stored digests are empty, damaged or of another step."""
    if not isinstance(stored, dict) or not stored:
        raise ValueError("its digests are empty")
    if not stored.keys() & {"step", "config", "sha256"}:  # saved by an earlier version
        return
    content = {name: value for name, value in stored.items() if name != "sha256"}
    if stored.get("sha256") != of_json(content):
        raise ValueError("its digests are damaged")
    if stored["step"] != step:
        raise ValueError(f"its digests are of step {stored['step']}")


def require_same(stored: Mapping[str, Any], name: str, tree: Any) -> None:
    """Raises ValueError when the arrays of item `name` are not those of the stored digests."""
    expected = stored.get(name)
    if not isinstance(expected, dict):
        raise ValueError(f"its digests lack {name}")
    for leaf, digest in of_leaves(tree).items():
        if expected.get(leaf) != digest:
            raise ValueError(f"{name}{leaf} is not what was saved: its SHA-256 differs")


def not_finite(trees: Mapping[str, Any]) -> str:
    """Names the arrays that contain NaN or infinity: "params['w'] and 2 more". "" when there is none."""
    bad = [
        f"{name}{jax.tree_util.keystr(path)}"
        for name, tree in trees.items()
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
        if not np.isfinite(x).all()
    ]
    return "" if not bad else bad[0] + (f" and {len(bad) - 1} more" if len(bad) > 1 else "")
