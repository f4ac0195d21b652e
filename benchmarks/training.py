"""Training steps and forward passes of GoogLeNet, images per second, beside the same network in PyTorch.

    python benchmarks/training.py                # 16 pairs of 227 px, about two minutes on two cores
    python benchmarks/training.py --pairs=64 --dtype=bfloat16
    python benchmarks/training.py --layers       # value and gradients of single layers, beside XLA's own

"ours" is the step that training runs: augmentation of a batch that lies ready, GoogLeNet, the loss, its gradients, the
weight penalty and Adam. PyTorch, an optional requirement (pip install torch), gets images without augmentation and
makes the same network, N-pair loss, penalty (as Adam's weight_decay) and Adam, from the same weights; the losses of the
first batch must agree. On a GPU it runs with torch.compile, and float32 means TF32 in
both. Rounds alternate; a rate is the median of its rounds.
Operations a second are three times those of the forward pass, as XLA counts them.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import checkout  # noqa: F401
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from losses import print_row

from configs import car_npair, car_symm_npair
from symm_jax import devices
from symm_jax.data import augment
from symm_jax.models import googlenet, layers
from symm_jax.training import batches
from symm_jax.training.batches import Batch
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import augment_batch, create_state, pmap_train_step

CONFIGS = {"N-pair": car_npair, "Symm + N-pair": car_symm_npair}
SIZE = 227
PEER = "PyTorch"
PEAK = {"float32": 495e12, "bfloat16": 989e12}  # operations a second of an H100 or H200, dense, TF32 for float32


def random_batch(n: int, size: int = SIZE) -> Batch:
    rng = np.random.default_rng(0)
    side = augment.stored_side(size, enlarge=1.125, max_margin=0.05)
    images = rng.integers(0, 256, (n, 2, side, side, 3), np.uint8)
    return Batch(images, np.ones((n, 2, 2), np.float32), np.arange(n, dtype=np.int32))


def ours(module, batch: Batch, dtype: str) -> tuple[Callable, Callable, tuple]:
    """The step and the forward pass, without arguments; and images, weights, their loss, operations an image."""
    config = module.get_config()
    config.model.dtype = dtype
    recipe = create_recipe(config)
    state = create_state(recipe)
    params = jax.device_get(state.params)
    images = jax.jit(lambda b: augment_batch(recipe, b, 0, 0))(batch)
    images = images.reshape(-1, SIZE, SIZE, 3)
    step, batch = pmap_train_step(recipe), jax.device_put(jax.tree.map(lambda x: x[None], batch))
    forward = jax.jit(lambda params, images: recipe.model.apply({"params": params}, images))
    state, metrics = step(batches.replicate(state), batch)
    on_device = jax.device_put(params)

    def run():
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    # Before compiling: of a compiled program XLA cannot tell what cuDNN and cuBLAS do in it.
    work = forward.lower(on_device, images).cost_analysis()["flops"]
    first = images, params, metrics["loss"].item(), 3 * work / len(images)
    return run, lambda: forward(on_device, images).block_until_ready(), first


def torch_peer(images: jax.Array, params: dict, dtype: str) -> tuple[Callable, Callable, float] | None:
    """PyTorch's step and forward pass with these images (anchor and positive by turns), and the first loss."""
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
    adam = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=5e-3)
    x = torch.tensor(np.asarray(images) - np.float32(googlenet.MEAN_RGB), device=device).permute(0, 3, 1, 2)
    if device == "cuda":
        network = torch.compile(network)

    def loss():
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            embeddings = network(x).float()
        anchor, positive = embeddings[0::2], embeddings[1::2]
        penalty = 0.25 * 0.002 * (anchor.square().sum(1).mean() + positive.square().sum(1).mean())
        return F.cross_entropy(anchor @ positive.T, torch.arange(len(anchor), device=device)) + penalty

    def finish():
        if device == "cuda":
            torch.cuda.synchronize()

    def step():
        adam.zero_grad()
        loss().backward()
        adam.step()
        finish()

    @torch.no_grad()
    def forward():
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            network(x)
        finish()

    return step, forward, loss().item()


def rates(programs: dict[str, Callable], images: int, rounds: int) -> dict[str, float]:
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


def layer_table(images: int) -> None:
    """Layers of a batch, value and all gradients, beside what XLA makes of the plain formulation."""

    def conv_relu(x, kernel, bias, stride):
        pad = [(kernel.shape[0] // 2,) * 2] * 2
        y = jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return nn.relu(y + bias)

    def plain_norm(x, kind):
        with devices.traced_for("any"):  # without the CPU's own form
            return layers.local_response_norm(x, kind)

    def max_pool(x, stride, padding):
        return nn.max_pool(jnp.pad(x, ((0, 0), padding, padding, (0, 0))), (3, 3), (stride, stride))

    def program(function, inputs, *options):
        def run(cotangent, *inputs):
            y, vjp = jax.vjp(lambda *inputs: function(*inputs, *options), *inputs)
            return y, vjp(cotangent)

        cotangent, run = function(*inputs, *options), jax.jit(run)
        return lambda: jax.block_until_ready(run(cotangent, *inputs))

    cases = {
        "conv2, 3x3": (layers.conv_relu, conv_relu, [(57, 57, 64), (3, 3, 64, 192), (192,)], [1]),
        "3x3 of 3b": (layers.conv_relu, conv_relu, [(28, 28, 128), (3, 3, 128, 192), (192,)], [1]),
        "5x5 of 3b": (layers.conv_relu, conv_relu, [(28, 28, 32), (5, 5, 32, 96), (96,)], [1]),
        "3x3 of 4e": (layers.conv_relu, conv_relu, [(14, 14, 160), (3, 3, 160, 320), (320,)], [1]),
        "normalisation after conv2": (layers.local_response_norm, plain_norm, [(57, 57, 192)], ["reference"]),
        "pool1, stride 2": (layers.max_pool, max_pool, [(114, 114, 64)], [2, (0, 1)]),
        "pool2, stride 2": (layers.max_pool, max_pool, [(57, 57, 192)], [2, (0, 0)]),
        "pool of 3b, stride 1": (layers.max_pool, max_pool, [(28, 28, 256)], [1, (1, 1)]),
        "pool of 4d, stride 1": (layers.max_pool, max_pool, [(14, 14, 512)], [1, (1, 1)]),
        "pool3, stride 2": (layers.max_pool, max_pool, [(28, 28, 480)], [2, (0, 1)]),
    }
    rng = np.random.default_rng(0)
    print_row("value and gradients", "ours, ms", "XLA's, ms")
    print_row(*["---"] * 3)
    for name, (mine, plain, (shape, *others), options) in cases.items():
        arrays = [rng.normal(size=s).astype(np.float32) for s in [(images, *shape), *others]]
        inputs = [jax.device_put(np.maximum(arrays[0], 0)), *map(jax.device_put, arrays[1:])]
        programs = {key: program(f, inputs, *options) for key, f in (("ours", mine), ("XLA", plain))}
        print_row(name, *[f"{1e3 / rate:.0f}" for rate in rates(programs, 1, rounds=5).values()])


def main() -> None:
    on_gpu = jax.default_backend() == "gpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64 if on_gpu else 16)
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--rounds", type=int, default=50 if on_gpu else 5)
    parser.add_argument("--layers", action="store_true", help="the table of single layers instead")
    arguments = parser.parse_args()
    if arguments.layers:
        layer_table(2 * arguments.pairs)
        return
    batch = random_batch(arguments.pairs)
    steps, forwards = {}, {}
    for name, module in CONFIGS.items():
        steps[name], forward, (images, params, loss, work) = ours(module, batch, arguments.dtype)
        if name == "N-pair":
            forwards["ours"] = forward
            if peer := torch_peer(images, params, arguments.dtype):
                steps[PEER], forwards[PEER], peer_loss = peer
                print(f"loss of the first batch: {loss:.5f}, in PyTorch {peer_loss:.5f}\n")
                np.testing.assert_allclose(peer_loss, loss, rtol=1e-3 if arguments.dtype == "float32" else 0.1)
    count = 2 * arguments.pairs
    step, forward = rates(steps, count, arguments.rounds), rates(forwards, count, arguments.rounds)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {count} images of {SIZE} px, {arguments.dtype}\n")
    print_row("images/s", "ours", *[PEER, f"ours / {PEER}"][: 2 * (PEER in step)])
    print_row(*["---"] * (4 if PEER in step else 2))
    rows = {f"training step, {name}": (step[name], step.get(PEER)) for name in CONFIGS}
    for row, (mine, peer) in (rows | {"forward pass": (forward["ours"], forward.get(PEER))}).items():
        print_row(row, f"{mine:,.1f}", *([f"{peer:,.1f}", f"{mine / peer:.2f}"] if peer else []))
    rate = step["N-pair"]
    share = f", {100 * rate * work / PEAK[arguments.dtype]:.1f} % of an H100's or H200's peak" if on_gpu else ""
    print(
        f"\nN-pair: {rate * work / 1e12:.3f} TFLOP/s in the network{share}; 20,000 steps take "
        f"{20_000 * count / rate / 60:,.1f} minutes"
    )


if __name__ == "__main__":
    main()
