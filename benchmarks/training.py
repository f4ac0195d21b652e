"""Training steps and forward passes of GoogLeNet, images per second, beside the same network in PyTorch.

    python benchmarks/training.py                # 16 pairs of 227 px, about four minutes on two cores
    python benchmarks/training.py --pairs=64 --dtype=bfloat16
    python benchmarks/training.py --only=ours --out=ours.jsonl     # on a GPU each program has a process of its own
    python benchmarks/training.py --only=torch --out=torch.jsonl
    python benchmarks/training.py --combine ours.jsonl torch.jsonl

"ours" is the step that training runs: augmentation of a batch that lies ready, GoogLeNet, the loss, its gradients, the
weight penalty and Adam. PyTorch, an optional requirement (pip install torch), gets images without augmentation and
makes the same network, N-pair loss, penalty (as Adam's weight_decay) and Adam, from the same weights; the losses of the
first batch must agree. On a GPU PyTorch has torch.compile, channels_last, autocast for bfloat16, fused Adam and
cudnn.benchmark. float32 means TF32 in both, and both make 20 steps before they wait for the GPU. Rounds alternate
between ours and PyTorch, and a rate is the median of all runs. Our two steps run by turns. Their ratio is the median
over neighbours in time. --wait=FILE compiles, waits until FILE exists, and measures when no other process that waits
for it does. Operations are 3 x 2 x 1.599 G an image: the multiply-adds of the forward pass, counted from its layers,
and twice as many for the gradients.
"""

import argparse
import collections
import concurrent.futures
import fcntl
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import jax
import numpy as np
from losses import print_row

from configs import car_npair, car_symm_npair
from symm_jax.data import augment
from symm_jax.models import googlenet
from symm_jax.training import batches
from symm_jax.training.batches import Batch
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import augment_batch, create_state, pmap_train_step

CONFIGS = {"N-pair": car_npair, "Symm + N-pair": car_symm_npair}
SIZE = 227
OURS, PEER = "ours", "PyTorch"
STEP, SYMM_STEP, FORWARD = "training step, N-pair", "training step, Symm + N-pair", "forward pass"
FIRST_LOSS, RATIO = "loss of the first batch", "Symm + N-pair / N-pair, neighbours"
OPERATIONS = 3 * 2 * 1.599e9  # of a training step, per image
PEAK = {"float32": 495e12, "bfloat16": 989e12}  # operations a second of an H100 or H200, dense, TF32 for float32
TOLERANCE = {"float32": {"cpu": 1e-3, "gpu": 0.05}, "bfloat16": {"cpu": 0.1, "gpu": 0.1}}  # of the first loss


def random_batch(n: int, size: int = SIZE) -> Batch:
    rng = np.random.default_rng(0)
    side = augment.stored_side(size, enlarge=1.125, max_margin=0.05)
    images = rng.integers(0, 256, (n, 2, side, side, 3), np.uint8)
    return Batch(images, np.ones((n, 2, 2), np.float32), np.arange(n, dtype=np.int32))


def recipe_of(module, dtype: str):
    config = module.get_config()
    config.model.dtype = dtype
    return create_recipe(config)


def starting_point(batch: Batch, dtype: str) -> tuple[jax.Array, dict]:
    """Augmented images (anchor and positive by turns), and the first weights."""
    recipe = recipe_of(car_npair, dtype)
    images = jax.jit(lambda b: augment_batch(recipe, b, 0, 0))(batch)
    return images.reshape(-1, SIZE, SIZE, 3), jax.device_get(create_state(recipe).params)


def ours(batch: Batch, dtype: str, images: jax.Array, params: dict, repeats: int) -> tuple[dict[str, Callable], float]:
    """Programs without arguments, which make `repeats` steps or passes, and N-pair's first loss. All are compiled."""
    ready = jax.device_put(jax.tree.map(lambda x: x[None], batch))
    model, on_device = recipe_of(car_npair, dtype).model, jax.device_put(params)
    forward = jax.jit(lambda params, images: model.apply({"params": params}, images))

    def training(module):
        recipe = recipe_of(module, dtype)
        step = pmap_train_step(recipe)
        state, metrics = step(batches.replicate(create_state(recipe)), ready)

        def run():
            nonlocal state
            for _ in range(repeats):
                state, _ = step(state, ready)
            jax.block_until_ready(state)

        return run, metrics["loss"].item()

    def embed():
        jax.block_until_ready([forward(on_device, images) for _ in range(repeats)])

    with concurrent.futures.ThreadPoolExecutor() as pool:  # each program compiles for up to a minute
        passes, steps = pool.submit(embed), pool.map(training, CONFIGS.values())
        found = dict(zip(CONFIGS, steps, strict=True))
        passes.result()
    runs = {f"training step, {name}": run for name, (run, _) in found.items()}
    return runs | {FORWARD: embed}, found["N-pair"][1]


def torch_peer(images: jax.Array, params: dict, dtype: str, repeats: int) -> tuple[dict[str, Callable], float] | None:
    """The same in PyTorch; None where it is not installed."""
    try:
        import torch
        import torch.nn.functional as F
    except ImportError:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")  # TF32 for products too, as in cuDNN's convolutions and in XLA

    class Conv(torch.nn.Conv2d):
        def __init__(self, values, stride=1):
            height, width, inputs, outputs = values["kernel"].shape
            super().__init__(inputs, outputs, (height, width), stride, height // 2)
            with torch.no_grad():
                self.weight.copy_(torch.tensor(values["kernel"]).permute(3, 2, 0, 1))
                self.bias.copy_(torch.tensor(values["bias"]))

        def forward(self, x):
            return F.relu(super().forward(x), inplace=True)

    class Inception(torch.nn.ModuleDict):
        def forward(self, x):
            three = self["3x3"](self["3x3_reduce"](x))
            five = self["5x5"](self["5x5_reduce"](x))
            pooled = self["pool_proj"](F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1))
            return torch.cat([self["1x1"](x), three, five, pooled], 1)

    def pool(x):
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)

    def lrn(x):
        return F.local_response_norm(x, 11, alpha=11e-4, beta=0.75, k=1.0)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            values = params["backbone"]
            self.conv1 = Conv(values["conv1_7x7_s2"], 2)
            self.reduce2, self.conv2 = Conv(values["conv2_3x3_reduce"]), Conv(values["conv2_3x3"])
            names = {name: values[f"inception_{name}"] for name in googlenet.INCEPTION}
            self.inception = torch.nn.ModuleDict(
                {name: Inception({key: Conv(v) for key, v in layers.items()}) for name, layers in names.items()}
            )
            self.embedding = torch.nn.Linear(*params["embedding"]["kernel"].shape)
            with torch.no_grad():
                self.embedding.weight.copy_(torch.tensor(params["embedding"]["kernel"]).T)
                self.embedding.bias.copy_(torch.tensor(params["embedding"]["bias"]))

        def forward(self, x):
            x = self.reduce2(lrn(pool(self.conv1(x))))
            x = F.max_pool2d(lrn(self.conv2(x)), 3, 2)
            for name, module in self.inception.items():
                x = module(x)
                if name in ("3b", "4e"):
                    x = pool(x)
            return self.embedding(x.mean((2, 3)))

    network = Network().to(device, memory_format=torch.channels_last)
    adam = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=5e-3, fused=device == "cuda")
    x = torch.tensor(np.asarray(images) - np.float32(googlenet.MEAN_RGB), device=device).permute(0, 3, 1, 2)
    if device == "cuda":
        network = torch.compile(network)

    def autocast():
        return torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def loss():
        with autocast():
            embeddings = network(x).float()
        anchor, positive = embeddings[0::2], embeddings[1::2]
        penalty = 0.25 * 0.002 * (anchor.square().sum(1).mean() + positive.square().sum(1).mean())
        return F.cross_entropy(anchor @ positive.T, torch.arange(len(anchor), device=device)) + penalty

    def finish():
        if device == "cuda":
            torch.cuda.synchronize()

    def train():
        for _ in range(repeats):
            adam.zero_grad()
            loss().backward()
            adam.step()
        finish()

    @torch.no_grad()
    def embed():
        with autocast():
            for _ in range(repeats):
                network(x)
        finish()

    first = loss().item()
    if device == "cuda":  # compile now
        train()
        embed()
        torch.backends.cudnn.benchmark = True  # cuDNN chooses at the next call, when nothing else uses the GPU
    return {STEP: train, FORWARD: embed}, first


def rates(programs: dict[Any, Callable], images: int, rounds: int) -> dict[Any, float]:
    """Images per second of each program, the median over rounds by turns.

    Each timed run follows one of the same program, because on a CPU the first run after PyTorch's is slower.
    """
    seconds = {name: [] for name in programs}
    for name, run in itertools.chain(*[programs.items()] * rounds):
        run()
        start = time.perf_counter()
        run()
        seconds[name].append(time.perf_counter() - start)
    return {name: images / statistics.median(s) for name, s in seconds.items()}


def time_steps(programs: dict[str, dict[str, Callable]], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of the training steps of each program, two per round and step.

    In a round, each program runs all its steps once untimed, because on a CPU the first runs after another program's
    are slower, and then twice by turns.
    """
    seconds = collections.defaultdict(list)
    for name, found in [*programs.items()] * rounds:
        steps = {row: run for row, run in found.items() if row != FORWARD}
        for run in steps.values():
            run()
        for row, run in [*steps.items()] * 2:
            start = time.perf_counter()
            run()
            seconds[name, row].append(time.perf_counter() - start)
    return seconds


def neighbours_ratio(first: list[float], second: list[float]) -> float:
    """The median of first / second over neighbours in time. Each round gives two runs of both: first, second, twice."""
    pairs = [*zip(first, second, strict=True), *zip(first[1::2], second[::2], strict=True)]
    return statistics.median(a / b for a, b in pairs)


def wait_for_turn(path: Path):
    """Waits until `path` exists, and then for a lock, which the file that is returned holds while it is open."""
    while not path.exists():
        time.sleep(0.2)
    lock = path.with_name(f"{path.name}.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def print_table(records: list[dict]) -> None:
    """The table of all records of one dtype, and what follows from them."""
    one = records[0]
    values = {(r["program"], r["row"]): r["value"] for r in records}
    losses = {name: values[name, FIRST_LOSS] for name in (OURS, PEER) if (name, FIRST_LOSS) in values}
    apart = abs(losses[PEER] / losses[OURS] - 1) if len(losses) == 2 else 0.0
    print(f"\n{one['device']}, jax {one['jax']}, {one['images']} images of {SIZE} px, {one['dtype']}", flush=True)
    print("loss of the first batch:", ", ".join(f"{name} {loss:.5f}" for name, loss in losses.items()), end="")
    print(f", {100 * apart:.3f} % apart\n" if len(losses) == 2 else "\n")
    print_row("images/s", OURS, PEER, f"{OURS} / {PEER}")
    print_row(*["---"] * 4)
    for row in (STEP, SYMM_STEP, FORWARD):
        mine, peer = values.get((OURS, row)), values.get((PEER, FORWARD if row == FORWARD else STEP))
        cells = [f"{rate:,.1f}" if rate else "not measured" for rate in (mine, peer)]
        print_row(row, *cells, f"{mine / peer:.2f}" if mine and peer else "")
    if ratio := values.get((OURS, RATIO)):
        print(f"\nA step of Symm + N-pair has {ratio:.3f} times the rate of its neighbours of N-pair.")
    if rate := values.get((OURS, STEP)):
        work = rate * OPERATIONS
        share = f", {100 * work / PEAK[one['dtype']]:.1f} % of an H100's or H200's peak" if one["gpu"] else ""
        minutes = 20_000 * one["images"] / rate / 60
        print(f"\nN-pair: {work / 1e12:.3f} TFLOP/s in the network{share}; 20,000 steps take {minutes:,.1f} minutes")
    if apart > TOLERANCE[one["dtype"]]["gpu" if one["gpu"] else "cpu"]:
        raise SystemExit(f"the losses of the first batch are {100 * apart:.2f} % apart")


def measure(arguments: argparse.Namespace, on_gpu: bool) -> list[dict]:
    """Compiles, waits, measures; prints and writes each value when it is known."""
    records, count, repeats = [], 2 * arguments.pairs, 20 if on_gpu else 1
    same = {"device": jax.devices()[0].device_kind, "gpu": on_gpu, "jax": jax.__version__}
    same |= {"images": count, "dtype": arguments.dtype}

    def record(program, row, value):
        records.append(same | {"program": program, "row": row, "value": value})
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")
        print(f"{time.perf_counter() - begin:.0f} s: {program}, {arguments.dtype}, {row}: {value:,.5g}", flush=True)

    begin = time.perf_counter()
    batch = random_batch(arguments.pairs)
    images, params = starting_point(batch, arguments.dtype)
    programs = {}
    if arguments.only != "torch":
        programs[OURS], loss = ours(batch, arguments.dtype, images, params, repeats)
        record(OURS, FIRST_LOSS, loss)
    if arguments.only != "ours":
        if peer := torch_peer(images, params, arguments.dtype, repeats):
            programs[PEER], loss = peer
            record(PEER, FIRST_LOSS, loss)
        else:
            print(f"{PEER}: not installed", flush=True)
    lock = wait_for_turn(arguments.wait) if arguments.wait else None
    steps = time_steps(programs, arguments.rounds)
    for name, seconds in steps.items():
        record(*name, count * repeats / statistics.median(seconds))
    if OURS in programs:
        record(OURS, RATIO, neighbours_ratio(steps[OURS, STEP], steps[OURS, SYMM_STEP]))
    passes = {(name, FORWARD): found[FORWARD] for name, found in programs.items()}
    for name, rate in rates(passes, count * repeats, arguments.rounds).items():
        record(*name, rate)
    if lock:
        lock.close()
    return records


def main() -> None:
    on_gpu = jax.default_backend() == "gpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64 if on_gpu else 16)
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32", choices=PEAK)
    parser.add_argument("--rounds", type=int, default=7 if on_gpu else 4)
    parser.add_argument("--only", choices=("ours", "torch"), help="one program; by default both, in one process")
    parser.add_argument(
        "--wait", type=Path, metavar="FILE", help="measure when this file exists, one process at a time"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="add each value to this file as it is known")
    parser.add_argument("--combine", type=Path, nargs="+", metavar="FILE", help="only print the table of such files")
    arguments = parser.parse_args()
    if arguments.combine:
        found = [json.loads(line) for path in arguments.combine if path.exists() for line in path.open()]
    else:
        found = measure(arguments, on_gpu)
    if found:
        print_table(found)


if __name__ == "__main__":
    main()
