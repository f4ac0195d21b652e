"""Orbax checkpoints: WORKDIR/checkpoints/STEP/{params,batch_stats,opt_state,config,digests}.

Parameters, running statistics and optimiser state are separate items. Evaluation does not read the optimiser state.
Arrays are stored as one device holds them, so a run may be resumed on another number of devices. The SHA-256 of each
array is stored too, because Orbax restores an array with a flipped bit without an error.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from symm_jax import distributed, files
from symm_jax.errors import InputError
from symm_jax.run import best, paths

_UNFINISHED = ".orbax-checkpoint-tmp"  # part of the names that Orbax gives to folders that are not complete


class Writer:
    """Saves asynchronously. Use it as a context manager: leaving it waits for what is still being written."""

    def __init__(self, workdir: Path, config: Mapping[str, Any], *, keep: int = 0):
        """Prepares to save.

        Args:
          workdir: the run's folder.
          config: saved with the arrays; plain JSON types.
          keep: number of newest checkpoints to keep, see `delete_old`; 0 keeps all.
        """
        self._workdir, self._config, self._keep = workdir, dict(config), keep
        self._manager = ocp.CheckpointManager(
            paths.checkpoints(workdir),
            options=ocp.CheckpointManagerOptions(enable_async_checkpointing=True, create=True),
        )

    def save(self, step: int, params: Any, opt_state: Any, batch_stats: Any = None) -> None:
        """Starts to save, and returns when the arrays have left the device.

        With several processes, each calls this with the same numpy arrays and writes a part of them.

        Raises:
          InputError: the folder holds this step or a later one.
          Exception: an earlier save has failed.
        """
        trees = {"params": params, "opt_state": opt_state} | ({"batch_stats": batch_stats} if batch_stats else {})
        items = ocp.args.Composite(
            **{name: ocp.args.StandardSave(_replicated(tree)) for name, tree in trees.items()},
            config=ocp.args.JsonSave(self._config),
            digests=ocp.args.JsonSave({name: _digests(tree) for name, tree in trees.items()}),
        )
        # Orbax returns False, and saves nothing, when the folder holds this step or a later one.
        if not self._manager.save(step, args=items, force=True):
            raise InputError(
                f"step {step} was not saved: {paths.checkpoints(self._workdir)} holds the steps "
                f"{self._manager.all_steps()}. Pass another --workdir."
            )
        self._delete_old()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()
        self._delete_old()

    def _delete_old(self) -> None:
        if not self._keep or not distributed.is_main():
            return
        try:
            choice = best.read(self._workdir)
        except InputError:  # the best step is not known: nothing is deleted, and evaluation reports the damage
            return
        delete_old(self._workdir, self._keep, choice["step"] if choice else None)


def steps(workdir: Path) -> list[int]:
    """The steps of the complete checkpoints in rising order."""
    folder = paths.checkpoints(workdir)
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if p.name.isdecimal())
    # Orbax renames a step into place when it is complete. A folder without metadata is not a step.
    return sorted(int(p.name) for p in found if (p / "_CHECKPOINT_METADATA").exists())


def restore(workdir: Path, step: int, **abstract: Any) -> dict[str, Any]:
    """Reads items of a step, e.g. `restore(workdir, 100, params=shapes)["params"]`.

    Args:
      workdir: the run's folder.
      step: one of `steps(workdir)`.
      **abstract: item name -> the tree of arrays or jax.ShapeDtypeStruct that the item must hold.

    Raises:
      InputError: the checkpoint is damaged, or its arrays have other shapes.
      FileNotFoundError: the checkpoint has been deleted, perhaps while it was read.
    """
    path = paths.checkpoint(workdir, step).resolve()  # Orbax needs an absolute path
    restored = {}
    try:
        stored = path / "digests" / "metadata"
        digests = json.loads(stored.read_text()) if stored.exists() else {}  # older checkpoints have none
        with ocp.StandardCheckpointer(multiprocessing_options=_single_process_options()) as checkpointer:
            for name, tree in abstract.items():
                target = jax.tree.map(_on_one_device, tree)
                restored[name] = checkpointer.restore(path / name, target)
                for leaf, digest in _digests(restored[name]).items() if name in digests else ():
                    if digests[name].get(leaf) != digest:
                        raise ValueError(f"{name}{leaf} is not what was saved: its SHA-256 differs")
    except Exception as error:  # Orbax raises bare Exception, KeyError, ValueError, ... for damaged files
        if _is_being_deleted(path):
            raise FileNotFoundError(f"checkpoint {path} has been deleted") from error
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"checkpoint {path} cannot be read ({first[:300]}). To go on without it, move it out of the folder."
        ) from error
    return restored


def remove_unfinished(workdir: Path) -> None:
    """Deletes what a process left that was killed while it saved or deleted. Only the training process calls this."""
    for leftover in paths.checkpoints(workdir).glob(f"*{_UNFINISHED}*"):
        shutil.rmtree(leftover)


def delete_old(workdir: Path, keep: int, best_step: int | None) -> None:
    """Deletes all checkpoints but the newest `keep` and the best. Only the training process calls this.

    Nothing is deleted while an evaluator still needs checkpoints that it has listed. The next call deletes them.

    Args:
      workdir: the run's folder.
      keep: number of newest checkpoints to keep, 1 or more. A resumed run starts from the newest.
      best_step: the step of the best checkpoint so far, or None.
    """
    old = [step for step in steps(workdir)[:-keep] if step != best_step]
    if not old:
        return
    try:
        with files.lock(paths.reading_lock(workdir), busy="an evaluator reads checkpoints"):
            for step in old:
                path = paths.checkpoint(workdir, step)
                # It is renamed first: a reader finds the whole checkpoint or none.
                shutil.rmtree(path.rename(path.with_name(f"{step}{_UNFINISHED}-deleted")))
    except InputError:
        return


def _digests(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): hashlib.sha256(np.ascontiguousarray(x).view(np.uint8).data).hexdigest()
        for path, x in leaves
    }


def _is_being_deleted(path: Path) -> bool:
    """Whether a step is gone, or goes within a second: the files of a step are deleted one by one."""
    deadline = time.monotonic() + 1
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not path.exists()


def _single_process_options() -> ocp.options.MultiprocessingOptions:
    """Options for reading: no process waits for another, which may have ended."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})


def _replicated(tree: Any) -> Any:
    """The arrays that all processes have, in the form that lets Orbax divide the writing among them."""
    if jax.process_count() == 1:
        return tree
    replicated = jax.sharding.NamedSharding(jax.sharding.Mesh(jax.devices(), "all"), jax.sharding.PartitionSpec())
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, replicated, lambda i: x[i]), tree)


def _on_one_device(x: Any) -> jax.ShapeDtypeStruct:
    # Without a sharding Orbax looks for the devices that saved. Another machine does not have them.
    device = jax.local_devices()[0]
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.sharding.SingleDeviceSharding(device))
