"""Requests that arrive together are answered as one batch."""

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Collects items and answers them in one call, in a thread of its own. While it works, the next ones collect.

    Attributes:
      waiting: number of items that are not answered.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Item]], Sequence[Answer]],
        *,
        most: int,
        wait: float = 0.003,
        observe: Callable[[int], object] = lambda size: None,
    ):
        """Prepares; `run` answers.

        Args:
          answer: called with 1 to `most` items, gives an answer for each.
          most: items of a batch.
          wait: seconds for which the first item of a batch waits for others.
          observe: called with the size of each batch.
        """
        self._answer, self._most, self._wait, self._observe = answer, most, wait, observe
        self._queue: asyncio.Queue[tuple[Item, asyncio.Future[Answer]]] = asyncio.Queue()
        self.waiting = 0

    async def ask(self, item: Item) -> Answer:
        """The answer to an item. Raises what `answer` raised for its batch."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.waiting += 1
        try:
            self._queue.put_nowait((item, future))
            return await future
        finally:
            self.waiting -= 1

    async def run(self) -> None:
        """Answers until it is cancelled."""
        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(1, "batches") as thread:
            while True:
                batch = await self._collect()
                self._observe(len(batch))
                try:
                    answers = await loop.run_in_executor(thread, self._answer, [item for item, _ in batch])
                except Exception as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)

    async def _collect(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        """The next batch, without the items whose requests have ended meanwhile."""
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        while not batch:
            batch = [await self._queue.get()]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._wait):
                    while len(batch) < self._most:
                        batch.append(await self._queue.get())
            batch = [(item, future) for item, future in batch if not future.done()]
        return batch
