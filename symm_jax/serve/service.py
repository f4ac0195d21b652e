"""What the application works with: the index, the network, the processes that decode, and pictures in memory."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from symm_jax import errors
from symm_jax.data.decode import MAX_PIXELS
from symm_jax.data.tree import Tree, as_text
from symm_jax.search import Index, thresholds
from symm_jax.serve import engine, worker
from symm_jax.serve.batches import Batcher
from symm_jax.serve.cache import Cache
from symm_jax.serve.limits import Limits, Refused
from symm_jax.serve.metrics import Metrics
from symm_jax.serve.pool import Lost, Pool

THUMBNAIL, PICTURE = 256, 1600  # longer side in pixels of a picture to look at
_STATUS = {worker.ABSENT: 404, worker.TYPE: 415, worker.DAMAGED: 422, worker.PIXELS: 413, worker.BOX: 422}
_UPLOAD: dict[str, Any] = {"file": None, "member": None, "sha256": None}


class Decoded(NamedTuple):
    """A picture for the network, (side, side, 3) uint8, and the size of the whole picture, rotated as EXIF says."""

    square: np.ndarray
    width: int
    height: int


class Shown(NamedTuple):
    """A picture to look at, as WebP, and the size of the picture that it was made from."""

    webp: bytes
    width: int
    height: int


class Service:
    """An opened index and everything that answers need. `running` starts and ends the processes."""

    def __init__(self, index: Index, embedder: Any, *, limits: Limits, workers: int):
        """See `app.create_app`."""
        self.index, self.limits = index, limits
        self.engine = engine.Engine(index, embedder)
        self.pool = Pool(workers, limits.decode_seconds)
        self.metrics = Metrics(lambda: self.batcher.waiting, lambda: self.pool.restarts, lambda: self.pool.pids)
        self.batcher = Batcher(self.engine.answer, most=engine.SIZES[-1], observe=self.metrics.batch)
        self.thresholds = thresholds.read(index)
        self.row_of = {as_text(row.path): i for i, row in enumerate(index.rows)}
        self.busy = 0  # requests that are being answered
        self._side, self._orient = embedder.image_size, bool(index.about["preprocessing"]["orient"])
        self._shown: Cache[Shown] = Cache(limits.cache_bytes)
        self._uploads: Cache[bytes] = Cache(limits.cache_bytes)
        # Only what is listed below the folder can be read, whatever the index says.
        self._entries = Tree(index.images, skip=index.folder).entries
        if missing := sum(row.path not in self._entries for row in index.rows):
            errors.warn(
                f"{missing:,} of {len(index):,} pictures of the index are not in {index.images}. They are found, and "
                "not shown"
            )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Compiles, starts the processes and the batches, and ends them."""
        await asyncio.to_thread(self.engine.compile)
        batches = asyncio.create_task(self.batcher.run())
        try:
            await self.pool.start()
            yield
        finally:
            batches.cancel()
            await asyncio.gather(batches, return_exceptions=True)
            await self.pool.close()

    async def decode_upload(self, content: bytes, box: list[int] | None) -> Decoded:
        """An uploaded picture for the network."""
        return self._decoded(await self._run({**_UPLOAD, **self._to_network(box)}, content))

    async def decode_row(self, row: int, box: list[int] | None) -> Decoded:
        """A picture of the index for the network."""
        return self._decoded(await self._run({**self._file(row), **self._to_network(box), "pixels": MAX_PIXELS}))

    async def show_row(self, row: int, fit: int) -> Shown:
        """A picture of the index, of at most `fit` pixels per side."""
        return await self._show((row, fit), {**self._file(row), **_to_look_at(MAX_PIXELS, fit)})

    async def show_upload(self, sha256: str) -> Shown:
        """A picture that was uploaded."""
        content = self.upload(sha256)
        return await self._show(sha256, {**_UPLOAD, **_to_look_at(self.limits.pixels, PICTURE)}, content)

    def keep(self, content: bytes) -> str:
        """Keeps an upload in memory for a while. Returns its SHA-256."""
        sha256 = hashlib.sha256(content).hexdigest()
        self._uploads.put(sha256, content, len(content))
        return sha256

    def upload(self, sha256: str) -> bytes:
        """An upload that was kept."""
        content = self._uploads.get(sha256)
        if content is None:
            raise Refused(404, "This uploaded picture is not kept any more. Choose it again.")
        return content

    async def _show(self, key: Any, job: Mapping[str, Any], content: bytes = b"") -> Shown:
        shown = self._shown.get(key)
        if shown is None:
            head, webp = await self._run(job, content)
            shown = Shown(webp, head["width"], head["height"])
            self._shown.put(key, shown, len(webp))
        return shown

    async def _run(self, job: Mapping[str, Any], content: bytes = b"") -> tuple[dict[str, Any], bytes]:
        try:
            head, body = await self.pool.run(job, content)
        except Lost as error:
            raise Refused(503, "The process that decoded the picture has ended. Try again.", Retry_After="1") from error
        except TimeoutError as error:
            if (task := asyncio.current_task()) and task.cancelling():  # the request's own time is over
                raise
            raise Refused(
                504, f"Decoding the picture took longer than {self.limits.decode_seconds:g} seconds."
            ) from error
        if "fault" in head:
            raise Refused(_STATUS[head["kind"]], head["fault"])
        return head, body

    def _decoded(self, answer: tuple[dict[str, Any], bytes]) -> Decoded:
        head, body = answer
        square = np.frombuffer(body, np.uint8).reshape(self._side, self._side, 3)
        return Decoded(square, head["width"], head["height"])

    def _to_network(self, box: list[int] | None) -> dict[str, Any]:
        return {"orient": self._orient, "box": box, "pixels": self.limits.pixels, "side": self._side, "fit": None}

    def _file(self, row: int) -> dict[str, Any]:
        if not 0 <= row < len(self.index):
            raise Refused(404, f"The index has the rows 0 to {len(self.index) - 1:,}.")
        found = self.index.rows[row]
        entry = self._entries.get(found.path)
        if entry is None:
            raise Refused(404, "The picture is not in the folder of pictures any more.")
        return {"file": str(entry.file), "member": entry.member and list(entry.member), "sha256": found.sha256}


def _to_look_at(pixels: int, fit: int) -> dict[str, Any]:
    return {"orient": True, "box": None, "pixels": pixels, "side": None, "fit": fit}
