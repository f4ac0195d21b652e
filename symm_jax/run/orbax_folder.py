"""One checkpoint folder as Orbax reads it, compared with its digests."""

import contextlib
import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from symm_jax import errors
from symm_jax.errors import InputError
from symm_jax.run import digests

_METADATA, _LIST_SECONDS = "_CHECKPOINT_METADATA", 60
_PLAIN_PATH = re.compile(r"[\w/.,:=+@~ -]+")


def read(folder: Path, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """The items of a checkpoint as numpy arrays, compared with its digests.

    Raises:
      InputError: the arrays have other shapes or types than `abstract`, and are those of the digests.
      Exception: the checkpoint is damaged. Orbax raises many kinds.
    """
    items = json.loads((folder / _METADATA).read_text())["item_handlers"]
    stored = None
    if "digests" in items or (folder / "digests").exists():
        stored = json.loads(read_item(folder, "digests"))
        digests.require_intact(stored, step)
        if "config" in stored and digests.of_json(json.loads(read_item(folder, "config"))) != stored["config"]:
            raise ValueError("its config is not what was saved: the SHA-256 differs")
    else:
        errors.warn(
            f"{folder.resolve().parent} has checkpoints of an earlier version without digests; whether their values "
            "are those that were saved cannot be checked"
        )
    restored = {}
    alone = _single_process_options()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        for name, tree in abstract.items():
            # Read as numpy: Orbax would look for the devices that saved, and cast to another type without a word.
            kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            args = ocp.args.PyTreeRestore(item=tree, restore_args=kinds)
            restored[name] = checkpointer.restore(folder / name, args=args)
            if stored is not None:
                digests.require_same(stored, name, restored[name])
            jax.tree_util.tree_map_with_path(
                lambda path, here, needed, name=name: _require_kind(
                    f"{name}{jax.tree_util.keystr(path)}", here, needed
                ),
                restored[name],
                tree,
            )
    return restored


def _require_kind(name: str, stored: Any, needed: Any) -> None:
    here, there = (f"{x.dtype}{list(x.shape)}" for x in (needed, stored))
    if here != there:
        raise InputError(f"its {name} is {there}, and the network has {here}")


def wait_for_list_of_items(folder: Path) -> None:
    """Waits until Orbax has listed the items of a checkpoint that it saves: it does so in a thread of its own.

    Raises:
      TimeoutError: it has not done so within a minute.
    """
    deadline = time.monotonic() + _LIST_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):  # the file is not there yet, or is being written
            if json.loads((folder / _METADATA).read_text())["item_handlers"]:
                return
        time.sleep(0.005)
    raise TimeoutError(f"Orbax has not listed its items within {_LIST_SECONDS} s")


def read_item(folder: Path, name: str) -> str:
    """The JSON text of an item."""
    return (folder / name / "metadata").read_text()


def first_line(error: Exception) -> str:
    """What an error says, in one line: those of Orbax have hundreds."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]


@contextlib.contextmanager
def plain_path(path: Path) -> Iterator[Path]:
    """A path to the same folder that Orbax does not take for a pattern, as it does with brackets.

    It is `path` itself where possible, or else a symbolic link in a temporary folder.
    """
    if _PLAIN_PATH.fullmatch(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="symm_jax-") as folder:
        link = Path(folder, "link")
        link.symlink_to(path)
        yield link


def _single_process_options() -> ocp.options.MultiprocessingOptions:
    """Options for reading: no process waits for another, which may have ended."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})


def replicated(tree: Any) -> Any:
    """The arrays that all processes have, in the form that lets Orbax divide the writing among them."""
    if jax.process_count() == 1:
        return tree
    replicated = jax.sharding.NamedSharding(jax.sharding.Mesh(jax.devices(), "all"), jax.sharding.PartitionSpec())
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, replicated, lambda i: x[i]), tree)
