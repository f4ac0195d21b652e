"""Orbax checkpoints: WORKDIR/checkpoints/STEP/{params,proxies,batch_stats,opt_state,queues,config,digests}.

Parameters of the network, proxies of the loss, running statistics, optimiser state and queues of the loss are separate
items. Evaluation does not read proxies, optimiser state and queues.
Arrays are stored as one device holds them, so a run may be resumed on another number of devices.
A checkpoint is read back and compared with its digests before it gets its name, and again whenever it is restored.
A checkpoint that is damaged, or whose values are not finite, is never used. It is kept aside and never deleted.
"""

import contextlib
import errno
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from symm_jax import distributed, errors, files
from symm_jax.errors import InputError
from symm_jax.run import best, digests, orbax_folder, paths

_UNFINISHED = ".orbax-checkpoint-tmp"  # part of the names that Orbax gives to folders that are not complete
_DELETION_SECONDS = 1.0
_NO_SPACE = ("No space left", "File too large", "Disk quota exceeded", "RESOURCE_EXHAUSTED")
# The file may be whole: this process was not allowed to read it, or had no memory or file descriptor left.
_NOT_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
_NOT_DAMAGE_WORDS = ("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "Too many open files")


class DamagedError(InputError):
    """A checkpoint that cannot be used: its files are damaged, or its values are not finite."""


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
        self._folder = paths.checkpoints(workdir).resolve()  # Orbax needs an absolute path
        if distributed.is_main():
            self._folder.mkdir(parents=True, exist_ok=True)
        self._stack = contextlib.ExitStack()
        self._orbax_folder = self._stack.enter_context(orbax_folder.plain_path(self._folder))
        self._saving: tuple[int, dict[str, Any], dict[str, Any]] | None = None  # step, trees, their digests
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            async_options=ocp.AsyncOptions(post_finalization_callback=self._verify),
        )

    def save(self, step: int, params: Any, opt_state: Any, batch_stats: Any = None, queues: Any = None) -> None:
        """Starts to save, and returns when the arrays have left the device.

        With several processes, each calls this with the same numpy arrays and writes a part of them.

        Raises:
          InputError: the folder holds this step or a later one.
          FloatingPointError: an array contains NaN or infinity. Nothing was saved.
          OSError: this save or the one before has failed, e.g. because the disk is full.
        """
        network, proxies = split_proxies(params)
        optional = {"batch_stats": batch_stats, "proxies": proxies, "queues": queues}
        trees = {"params": network, "opt_state": opt_state} | {name: tree for name, tree in optional.items() if tree}
        if bad := digests.not_finite(trees):
            raise FloatingPointError(
                f"training diverged by step {step}: {bad} contain NaN or infinity after the update; this step was not "
                "saved"
            )
        if later := [there for there in steps(self._workdir) if there >= step]:
            raise InputError(
                f"step {step} was not saved: {self._folder} holds the steps {later}. Pass another --workdir."
            )
        described = digests.describe(step, trees, self._config)
        items = ocp.args.Composite(
            **{name: ocp.args.StandardSave(orbax_folder.replicated(tree)) for name, tree in trees.items()},
            config=ocp.args.JsonSave(self._config),
            digests=ocp.args.JsonSave(described),
        )
        with self._explained_errors():
            self._checkpointer.wait_until_finished()
            if distributed.is_main():
                _require_space(self._folder, trees)
            self._saving = step, trees, described
            self._checkpointer.save(self._orbax_folder / str(step), args=items)
        self._delete_old()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_) -> None:
        with self._stack, self._explained_errors():
            self._checkpointer.close()
        self._delete_old()

    def _verify(self) -> None:
        """Reads back what was written. The main process does so when all have written, before the last renaming."""
        assert self._saving is not None
        step, trees, described = self._saving
        (folder,) = (p for p in self._orbax_folder.iterdir() if p.name.startswith(f"{step}{_UNFINISHED}"))
        try:
            orbax_folder.wait_for_list_of_items(folder)
            orbax_folder.read(folder, step, trees)
            if json.loads(orbax_folder.read_item(folder, "digests")) != described:
                raise ValueError("its digests differ from those that were saved")
        except Exception as error:
            raise ValueError(f"it does not read back as it was written: {orbax_folder.first_line(error)}") from error
        self._saving = None  # so that the arrays are not held

    @contextlib.contextmanager
    def _explained_errors(self) -> Iterator[None]:
        """Turns what Orbax raises for a save that failed, this one or the one before, into an OSError."""
        try:
            yield
        except Exception as error:
            for lost in (error, error.__cause__):  # Orbax hides the loss of a process behind a TimeoutError
                if lost is not None and distributed.is_peer_failure(lost):
                    raise lost from None
            path = self._folder / (str(self._saving[0]) if self._saving else "")
            no_space = any(words in str(error) for words in _NO_SPACE)
            reason = "no space left on the disk" if no_space else orbax_folder.first_line(error)
            if distributed.is_main():
                with contextlib.suppress(OSError):
                    remove_unfinished(self._workdir)
            raise OSError(
                errno.ENOSPC if no_space else errno.EIO,
                f"the checkpoint was not saved ({reason}). Earlier checkpoints are as they were, and the same command "
                "goes on from the newest",
                str(path),
            ) from error

    def _delete_old(self) -> None:
        if not self._keep or not distributed.is_main():
            return
        try:
            choice = best.read(self._workdir)
        except InputError:  # the best step is not known: nothing is deleted, and evaluation reports the damage
            return
        delete_old(self._workdir, self._keep, choice["step"] if choice else None)


def split_proxies(params: Any) -> tuple[Any, Any]:
    """The parameters of the network, and params["proxies"], or {} without proxy losses."""
    return {name: tree for name, tree in params.items() if name != "proxies"}, params.get("proxies", {})


def steps(workdir: Path) -> list[int]:
    """The steps of the checkpoints in rising order. Orbax renames a checkpoint to its step when it is complete."""
    folder = paths.checkpoints(workdir)
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if re.fullmatch("0|[1-9][0-9]*", p.name))


def restore(workdir: Path, step: int, **abstract: Any) -> dict[str, Any]:
    """Reads items of a step, e.g. `restore(workdir, 100, params=shapes)["params"]`.

    Args:
      workdir: the run's folder.
      step: one of `steps(workdir)`.
      **abstract: item name -> the tree of arrays or jax.ShapeDtypeStruct that the item must hold.

    Raises:
      DamagedError: the checkpoint is damaged, or its values are not finite.
      InputError: its arrays have other shapes or types, or it cannot be read now.
      FileNotFoundError: the checkpoint has been deleted, perhaps while it was read.
    """
    path = paths.checkpoint(workdir, step).resolve()
    try:
        with orbax_folder.plain_path(path) as folder:
            restored = orbax_folder.read(folder, step, abstract)
    except InputError as error:
        raise InputError(
            f"checkpoint {path} is of another network: {error}. It is not of this run: move it out of the folder, or "
            "pass the workdir of its own run."
        ) from error
    except Exception as error:  # Orbax raises bare Exception, KeyError, ValueError, ... for damaged files
        if _is_being_deleted(path):
            raise FileNotFoundError(f"checkpoint {path} has been deleted") from error
        fault = f"checkpoint {path} cannot be read ({orbax_folder.first_line(error)})."
        if _is_of_this_process(error):
            raise InputError(f"{fault} It may be intact: remove the cause, and start again.") from error
        raise DamagedError(f"{fault} To go on without it, move it out of the folder.") from error
    if bad := digests.not_finite(restored):
        raise DamagedError(
            f"checkpoint {path} cannot be used: {bad} contain NaN or infinity, because training had diverged when it "
            "was saved. To go on without it, move it out of the folder."
        )
    return jax.tree.map(jnp.asarray, restored)


def restore_newest(workdir: Path, **abstract: Any) -> tuple[int, dict[str, Any]]:
    """The newest checkpoint that is not damaged: its step, and its items as `restore` reads them.

    Warns of those that are damaged. Nothing is moved: see `set_aside`.

    Raises:
      InputError: there is none, or as `restore`. The message names all that are damaged.
    """
    faults = []
    for step in reversed(steps(workdir)):
        try:
            items = restore(workdir, step, **abstract)
        except (DamagedError, FileNotFoundError) as error:
            faults.append(str(error))
            continue
        for fault in faults:
            errors.warn(f"{fault}\nStep {step} is used in its place.")
        return step, items
    listed = "\n  ".join(faults) or "there is none"
    raise InputError(
        f"no checkpoint in {paths.checkpoints(workdir)} can be used:\n  {listed}\n"
        "Restore one from a copy, or pass another --workdir to train from the start.",
        argument="workdir",
    )


def set_aside(workdir: Path, last_step: int) -> list[Path]:
    """Renames the checkpoints after `last_step`, which are damaged, to damaged-STEP. Only training calls this.

    Returns:
      The new paths.
    """
    moved = []
    for step in steps(workdir):
        if step > last_step:
            name, again = f"damaged-{step}", 1
            while (target := paths.checkpoints(workdir) / name).exists():
                again += 1
                name = f"damaged-{step}-{again}"
            moved.append(paths.checkpoint(workdir, step).rename(target))
    return moved


def remove_unfinished(workdir: Path) -> None:
    """Deletes what a process left that was killed while it saved or deleted. Only the training process calls this."""
    folder = paths.checkpoints(workdir)
    for leftover in folder.iterdir() if folder.is_dir() else ():
        if _UNFINISHED in leftover.name:
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


def _require_space(folder: Path, trees: Mapping[str, Any]) -> None:
    """Raises OSError when the disk is too full for the arrays: what Orbax raises then comes with tracebacks."""
    needed, free = sum(x.nbytes for x in jax.tree.leaves(trees)), shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"No space left: {needed / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB free")


def _is_of_this_process(error: Exception) -> bool:
    """Whether reading failed for a reason that says nothing about the files."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _NOT_DAMAGE):
        return True
    return any(words in str(error) for words in _NOT_DAMAGE_WORDS)


def _is_being_deleted(path: Path) -> bool:
    """Whether a step is gone, or goes within a second: the files of a step are deleted one by one."""
    deadline = time.monotonic() + _DELETION_SECONDS
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not path.exists()
