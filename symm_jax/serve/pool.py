"""The processes that decode. Each has one picture at a time, and one that hangs or dies takes no other with it."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import symm_jax

_START_SECONDS = 60
_PAUSE = 1.0  # seconds before a process that could not be started is tried again


class Lost(Exception):
    """The process that had the picture has ended."""


class Pool:
    """Worker processes, each with pipes of its own: there is no lock that a killed one could leave taken.

    Attributes:
      restarts: number of processes that were replaced.
      pids: the numbers of the processes.
    """

    def __init__(self, count: int, seconds: float):
        """`count` processes; one that works longer than `seconds` on a picture is killed. They start in `start`."""
        self._count, self._seconds = count, seconds
        self._idle: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
        self._processes: set[asyncio.subprocess.Process] = set()
        self._tasks: set[asyncio.Task] = set()
        self.restarts = 0

    @property
    def pids(self) -> list[int]:
        return sorted(process.pid for process in self._processes)

    async def start(self) -> None:
        """Starts the processes and waits for them. Raises OSError or Lost when they cannot be started."""
        await asyncio.gather(*(self._add() for _ in range(self._count)))

    async def run(self, job: Mapping[str, Any], content: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """The answer to a job, see `worker.answer`.

        Raises:
          Lost: the process was killed.
          TimeoutError: it took too long, and was killed.
        """
        process = await self._idle.get()
        while process.returncode is not None:  # it was killed while it had nothing to do
            self._replace(process)
            process = await self._idle.get()
        try:
            async with asyncio.timeout(self._seconds):
                found = await _ask(process, job, content)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self._replace(process)
            raise Lost(f"process {process.pid} has ended") from error
        except BaseException:  # also when the request is cancelled: the answer would be read by the next one
            self._replace(process)
            raise
        self._idle.put_nowait(process)
        return found

    async def close(self) -> None:
        """Ends the processes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in self._processes:
            _kill(process)
        await asyncio.gather(*(_wait(process) for process in self._processes))
        self._processes.clear()

    def _replace(self, process: asyncio.subprocess.Process) -> None:
        _kill(process)
        self.restarts += 1
        task = asyncio.create_task(self._start_again(process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start_again(self, process: asyncio.subprocess.Process) -> None:
        await _wait(process)
        self._processes.discard(process)
        while True:
            try:
                return await self._add()
            except (OSError, Lost):  # too many processes, no memory
                await asyncio.sleep(_PAUSE)

    async def _add(self) -> None:
        package = str(Path(symm_jax.__file__).parents[1])
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "symm_jax.serve.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | threads | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])},
            start_new_session=True,  # Ctrl-C is for the server
        )
        self._processes.add(process)
        try:
            assert process.stdout is not None
            async with asyncio.timeout(_START_SECONDS):
                ready = await process.stdout.readline()
            if not ready:
                raise Lost(f"process {process.pid} has ended before it was ready")
        except BaseException:
            _kill(process)
            await _wait(process)
            self._processes.discard(process)
            raise
        self._idle.put_nowait(process)


async def _ask(
    process: asyncio.subprocess.Process, job: Mapping[str, Any], content: bytes
) -> tuple[dict[str, Any], bytes]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps({**job, "bytes": len(content)}).encode() + b"\n")
    process.stdin.write(content)
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise asyncio.IncompleteReadError(line, None)
    head = json.loads(line)
    return head, await process.stdout.readexactly(head["bytes"])


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


async def _wait(process: asyncio.subprocess.Process) -> None:
    """Waits for the end of a process, and closes its pipes."""
    if process.stdin is not None:
        process.stdin.close()
    await process.wait()
