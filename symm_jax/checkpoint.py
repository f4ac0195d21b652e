"""Orbax checkpoints: WORKDIR/checkpoints/STEP/{params,batch_stats,opt_state,config,digests}.

Parameters, running statistics (of models that have them) and optimiser state are separate items, so that evaluation
leaves out the last. All are stored as one device holds them: a run may be resumed on another number of devices. Each
array's SHA-256 is stored too, since Orbax restores an array with a flipped bit without a word.
"""

import hashlib
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from symm_jax.errors import InputError

# Orbax reports every save and restore on the root logger's level; its errors still show.
logging.getLogger("absl").setLevel(logging.ERROR)


class Writer:
    """Saves asynchronously. Use as a context manager: leaving it waits for what is still being written."""

    def __init__(self, workdir: Path, config: dict):
        self._directory = directory(workdir)
        self._config = config
        self._manager = ocp.CheckpointManager(
            self._directory, options=ocp.CheckpointManagerOptions(enable_async_checkpointing=True, create=True)
        )

    def save(self, step: int, params: Any, opt_state: Any, batch_stats: Any = None) -> None:
        """Starts saving; returns once the arrays are off the device. Raises what an earlier save failed with.

        Of several processes all call this with the same numpy arrays, and each writes a share.
        """
        trees = {"params": params, "opt_state": opt_state} | ({"batch_stats": batch_stats} if batch_stats else {})
        items = ocp.args.Composite(
            **{name: ocp.args.StandardSave(_shared(tree)) for name, tree in trees.items()},
            config=ocp.args.JsonSave(self._config),
            digests=ocp.args.JsonSave({name: _digests(tree) for name, tree in trees.items()}),
        )
        # Orbax answers False, and saves nothing, when the folder holds this step or a later one.
        if not self._manager.save(step, args=items, force=True):
            raise InputError(
                f"step {step} was not saved: {self._directory} holds steps {self._manager.all_steps()}; delete what "
                "does not belong there, or use another --workdir"
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()


def directory(workdir: Path) -> Path:
    return workdir / "checkpoints"


def steps(workdir: Path) -> list[int]:
    """The finished steps in rising order."""
    if not directory(workdir).is_dir():
        return []
    found = (p for p in directory(workdir).iterdir() if p.name.isdecimal())
    # Orbax renames a step into place when it is whole; metadata is missing from a folder that is not a step.
    return sorted(int(p.name) for p in found if (p / "_CHECKPOINT_METADATA").exists())


def restore(workdir: Path, step: int, **abstract: Any) -> dict[str, Any]:
    """Reads items of a step, e.g. `restore(workdir, 100, params=shapes)["params"]`.

    Args:
      workdir: the run's folder.
      step: one of `steps(workdir)`.
      **abstract: item name -> the tree of arrays or jax.ShapeDtypeStruct that it must hold.

    Raises:
      InputError: the checkpoint is damaged, or of other shapes.
      FileNotFoundError: it has been deleted, perhaps while it was read.
    """
    path = directory(workdir) / str(step)
    restored = {}
    try:
        stored = path / "digests" / "metadata"
        digests = json.loads(stored.read_text()) if stored.exists() else {}  # older checkpoints have none
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
            for name, tree in abstract.items():
                target = jax.tree.map(_on_one_device, tree)
                restored[name] = checkpointer.restore(path / name, target)
                for leaf, digest in _digests(restored[name]).items() if name in digests else ():
                    if digests[name].get(leaf) != digest:
                        raise ValueError(f"{name}{leaf} is not what was saved: its SHA-256 differs")
    except Exception as error:  # Orbax raises bare Exception, KeyError, ValueError, ... for damaged files
        if _vanishes(path):
            raise FileNotFoundError(f"checkpoint {path} has been deleted") from error
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"checkpoint {path} cannot be read ({first[:300]}); delete it to go on without it") from error
    return restored


def remove_unfinished(workdir: Path) -> None:
    """Removes what a process killed while saving left behind. Only for the one that may write here."""
    if directory(workdir).is_dir():
        for leftover in directory(workdir).glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover)


def _digests(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): hashlib.sha256(np.ascontiguousarray(x).view(np.uint8)).hexdigest()
        for path, x in leaves
    }


def _vanishes(path: Path) -> bool:
    """Whether a step is gone, or goes within a second: files of a step that is being deleted go one by one."""
    deadline = time.monotonic() + 1
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not path.exists()


def _alone() -> ocp.options.MultiprocessingOptions:
    """For reading: no process waits for another, which may have gone."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})


def _shared(tree: Any) -> Any:
    """The same arrays as all processes have, in the form that lets Orbax divide the writing among them."""
    if jax.process_count() == 1:
        return tree
    everywhere = jax.sharding.NamedSharding(jax.sharding.Mesh(jax.devices(), "all"), jax.sharding.PartitionSpec())
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, everywhere, lambda i: x[i]), tree)


def _on_one_device(x: Any) -> jax.ShapeDtypeStruct:
    # Without a sharding Orbax looks for the devices that saved, which another machine does not have.
    device = jax.local_devices()[0]
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.sharding.SingleDeviceSharding(device))
