"""Orbax checkpoints: WORKDIR/checkpoints/STEP/{params,opt_state,config}.

Parameters and optimiser state are separate items, so that evaluation reads the first alone. Both are stored as
one device holds them: a run may be resumed on another number of devices.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

import jax
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

    def save(self, step: int, params: Any, opt_state: Any) -> None:
        """Starts saving; returns once the arrays are off the device. Raises what an earlier save failed with."""
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(params),
            opt_state=ocp.args.StandardSave(opt_state),
            config=ocp.args.JsonSave(self._config),
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
    """
    path = directory(workdir) / str(step)
    restored = {}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            for name, tree in abstract.items():
                target = jax.tree.map(_on_one_device, tree)
                restored[name] = checkpointer.restore(path / name, target)
    except Exception as error:  # Orbax raises bare Exception, KeyError, ValueError, ... for damaged files
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"checkpoint {path} cannot be read ({first[:300]}); delete it to go on without it") from error
    return restored


def remove_unfinished(workdir: Path) -> None:
    """Removes what a process killed while saving left behind. Only for the one that may write here."""
    if directory(workdir).is_dir():
        for leftover in directory(workdir).glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover)


def _on_one_device(x: Any) -> jax.ShapeDtypeStruct:
    # Without a sharding Orbax looks for the devices that saved, which another machine does not have.
    device = jax.local_devices()[0]
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.sharding.SingleDeviceSharding(device))
