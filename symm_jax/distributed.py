"""Several processes as one run: joining them, agreeing, and ending together.

Every process runs the same program on its own devices. Only process 0 writes the workdir.
Checkpoints are the exception: each process writes a part.
"""

import contextlib
import functools
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from symm_jax.devices import AXIS
from symm_jax.errors import InputError

AUTO = "auto"
_JOIN_SECONDS = 300
_SHARED_EXIT_CODES = (0, 129, 130, 143)  # all processes end with these: done, or one of them got a signal
_HEARTBEAT_SECONDS = 60  # a process that is silent for so long counts as dead, and the others end


def join(coordinator: str, num_processes: int | None, process_id: int | None, timeout: int = _JOIN_SECONDS) -> None:
    """Makes this process one of several.

    Args:
      coordinator: "HOST:PORT" of process 0, or "auto": ask SLURM, Open MPI or Kubernetes.
      num_processes: how many processes there are; None with "auto".
      process_id: which one this is, from 0; None with "auto".
      timeout: seconds to wait for the others. For process 0 JAX waits, and ends the process afterwards.

    Raises:
      InputError: the processes are not known, or process 0 does not answer.
    """
    options: dict[str, Any] = {"initialization_timeout": timeout, "heartbeat_timeout_seconds": _HEARTBEAT_SECONDS}
    if coordinator != AUTO:
        # Printed first: when no other process comes, JAX ends this one without these numbers.
        print(f"process   {process_id} of {num_processes}, meeting at {coordinator} within {timeout} s", flush=True)
        if process_id:
            _require_answer(coordinator, process_id, num_processes, timeout)
        options |= {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
        options |= {"cluster_detection_method": "deactivate"}
    try:
        jax.distributed.initialize(**options)
    except (ValueError, RuntimeError) as error:
        reason = f"{str(error).splitlines()[0]} (process {process_id} of {num_processes})"
        if coordinator == AUTO and isinstance(error, ValueError):
            reason = "no job of SLURM, Open MPI or Kubernetes found; give HOST:PORT, --num_processes and --process_id"
        raise InputError(f"{coordinator}: {reason}", argument="coordinator") from error
    if coordinator == AUTO:
        print(f"process   {jax.process_index()} of {jax.process_count()}", flush=True)


def disconnect() -> None:
    """Waits for the other processes to call this too. From then on each has only its own devices."""
    jax.distributed.shutdown()


def exit_process(code: int) -> NoReturn:
    """Ends this process with exit code `code`.

    One of several processes that fails does not wait for the others, as JAX would. So they notice it at once.
    """
    if jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        if code not in _SHARED_EXIT_CODES:
            os._exit(code)
        disconnect()
    sys.exit(code)


@contextlib.contextmanager
def exit_on_peer_failure() -> Iterator[None]:
    """Ends this process, with a message, when JAX finds in the block that another process has ended.

    It ends at once. It does not leave the enclosing blocks, because a checkpoint that is being written would wait for
    the parts of the other process.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not is_peer_failure(error):
            raise
        reason = str(error).splitlines()[0][:200]
        print(
            f"error: process {jax.process_index()} of {jax.process_count()} has lost another ({reason}). The last line "
            "of the other process says why. Start all again: the run goes on from its newest checkpoint.",
            file=sys.stderr,
        )
        exit_process(1)


def is_peer_failure(error: BaseException) -> bool:
    """Whether an exception tells that another process has ended."""
    if jax.process_count() == 1:
        return False
    if isinstance(error, ValueError):
        return "Gloo" in str(error)  # which connects CPUs: its errors come so when an array is copied to NumPy
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error)


def is_main() -> bool:
    """Whether this is the process that writes: the only one, or number 0."""
    return jax.process_index() == 0


def require_agreement(facts: Mapping[str, object]) -> None:
    """Compares {name: value} of all processes. Raises InputError in every process, with the differences."""
    if jax.process_count() == 1:
        return
    ours, *others = [json.loads(text) for text in _gather(json.dumps({k: repr(v) for k, v in facts.items()}))]
    different = [
        f"{name}: {ours.get(name)} in process 0, {theirs.get(name)} in process {process}"
        for process, theirs in enumerate(others, 1)
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if different:
        listed = "\n  ".join(different)
        raise InputError(f"the processes of this run do not agree; start all with the same flags and data:\n  {listed}")


def require_shared(path: Path) -> None:
    """Waits for all processes. Raises InputError in every process when one does not see the main process's `path`."""
    if jax.process_count() == 1:
        return
    multihost_utils.sync_global_devices("the main process has made the workdir")
    blind = [process for process, sees in enumerate(_gather(str(path.exists()))) if sees != "True"]
    if blind:
        raise InputError(
            f"process {', '.join(map(str, blind))} of {jax.process_count()} does not see the {path.parent} of "
            "process 0; use a folder that all machines share",
            argument="workdir",
        )


def any_process(flag: bool) -> bool | jax.Array:
    """Whether `flag` is set in any process. With several processes it is an array that bool() waits for."""
    if jax.process_count() == 1:
        return flag
    return _any()(np.full(jax.local_device_count(), flag)).addressable_shards[0].data.squeeze(0)


@functools.cache
def _any():
    return jax.pmap(lambda x: jax.lax.pmax(x, AXIS), axis_name=AXIS)


def _gather(text: str) -> list[str]:
    """The texts of all processes, in their order."""
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(data)], np.int32)).reshape(-1)
    filled = np.zeros(lengths.max(), np.uint8)
    filled[: len(data)] = data
    rows = multihost_utils.process_allgather(filled).reshape(len(lengths), -1)
    return [bytes(row[:n]).decode() for row, n in zip(rows, lengths, strict=True)]


def _require_answer(coordinator: str, process_id: int, num_processes: int | None, timeout: int) -> None:
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"{coordinator}: no answer within {timeout} s ({error}); process {process_id} of {num_processes} "
                    "needs process 0 to run there, and its port to be open",
                    argument="coordinator",
                ) from error
            time.sleep(0.2)
