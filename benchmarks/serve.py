"""Prints how the search page's server answers many clients at once, and what the kill of a decoding process costs.

    python benchmarks/serve.py [--images=FOLDER] [--clients=32] [--seconds=60] [--kill]

EfficientNet-Lite0 at 224 px with its pretrained weights. Without --images, photographs of 500 x 375 pixels are made of
noise. The server is a launch.py of its own; the clients are in this process, on the loopback address. Each sends the
next picture when it has its answer. With --kill, one of the processes that decode is killed in the middle.
"""

import argparse
import asyncio
import collections
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import checkout  # noqa: F401
import cv2
import httpx
import numpy as np
import PIL.Image
from losses import print_row

from symm_jax.search import Index

ROOT = Path(__file__).parents[1]
LAUNCH = (sys.executable, str(ROOT / "launch.py"))
CONFIG = f"--config={ROOT / 'configs/pretrained/efficientnet_lite0.py'}"
SENT = 64  # different pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of pictures")
    parser.add_argument("--index", type=Path, help="an index of theirs; by default one is made")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kill", action="store_true", help="kill -9 a decoding process in the middle")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, index = flags.images or made(Path(scratch, "photographs"), 512), flags.index
        if index is None:
            index = Path(scratch, "index")
            subprocess.run([*LAUNCH, "--mode=embed", CONFIG, f"--images={folder}", f"--out={index}"], check=True)
        pictures = [Path(path) for path in Index(index).paths if Path(path).is_file()]
        sent = [path.read_bytes() for path in pictures[:: max(1, len(pictures) // SENT)][:SENT]]
        command = [*LAUNCH, "--mode=serve", f"--index={index}", "--port=0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = next(line.split()[1] for line in server.stdout if line.startswith("search "))
            try:
                asyncio.run(measure(url, server.pid, sent, flags))
            finally:
                server.terminate()
        print(f"\nexit code of the server after SIGTERM: {server.returncode}; load average {os.getloadavg()}")


async def measure(url: str, pid: int, sent: list[bytes], flags: argparse.Namespace) -> None:
    limits = httpx.Limits(max_connections=flags.clients + 1, max_keepalive_connections=flags.clients + 1)
    seconds: list[float] = []
    statuses: collections.Counter[int | str] = collections.Counter()
    memory = []
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60, trust_env=False) as client:
        numbers = itertools.count()
        end = time.monotonic() + flags.seconds

        async def ask_on() -> None:
            while time.monotonic() < end:
                start = time.perf_counter()
                picture = {"image": ("a.jpg", sent[next(numbers) % len(sent)])}
                try:
                    status = (await client.post("/api/search?k=10", files=picture)).status_code
                except httpx.HTTPError as error:
                    status = type(error).__name__
                statuses[status] += 1
                seconds.append(time.perf_counter() - start)

        async def watch() -> None:
            for part in range(4):
                memory.append((resident(pid), sum(map(resident, children(pid)))))
                if flags.kill and part == 2:
                    await kill(children(pid)[0])
                await asyncio.sleep(max(0, end - time.monotonic()) / (3 - part) if part < 3 else 0)

        await asyncio.gather(watch(), *(ask_on() for _ in range(flags.clients)))
        counted = (await client.get("/metrics")).text
    count, total = (float(re.search(rf"symm_jax_batch_size_{x} (\S+)", counted)[1]) for x in ("count", "sum"))  # type: ignore[index]
    restarts = re.search(r"^symm_jax_worker_restarts (\S+)", counted, re.M)[1]  # type: ignore[index]
    median, late = (1000 * float(np.percentile(seconds, q)) for q in (50, 99))
    print_row(
        "clients", "seconds", "requests/s", "median, ms", "99th percentile, ms", "statuses", "mean batch", "restarts"
    )
    print_row(*["---"] * 8)
    answered = ", ".join(f"{n:,} x {status}" for status, n in statuses.items())
    rate = len(seconds) / flags.seconds
    print_row(
        *(str(flags.clients), f"{flags.seconds:g}", f"{rate:.1f}", f"{median:.0f}", f"{late:.0f}", answered),
        *(f"{total / count:.1f}", restarts),
    )
    print()
    print_row("resident memory, MiB", "start", "1/3", "2/3", "end")
    print_row(*["---"] * 5)
    for name, values in zip(("server", "processes that decode"), zip(*memory, strict=True), strict=True):
        print_row(name, *(f"{value:.0f}" for value in values))


async def kill(pid: int) -> None:
    """Kills a process that decodes while it has a picture: stopped, it keeps the next one that it gets."""
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(1)
    os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """The processes that decode."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def resident(pid: int) -> float:
    """The resident memory of a process in MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def made(folder: Path, count: int) -> Path:
    """Photographs of smooth noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        small = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        image = cv2.resize(small, (500, 375), interpolation=cv2.INTER_CUBIC)
        PIL.Image.fromarray(image).save(folder / f"{number:05}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    main()
