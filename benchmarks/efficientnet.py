"""Training steps and forward passes of EfficientNet-Lite0, images per second, beside the same network in PyTorch.

    pip install torch  # the peer
    python benchmarks/efficientnet.py             # 32 pairs of 128 px, about two minutes on two cores
    python benchmarks/efficientnet.py --blocks    # value and gradients of the blocks, and PyTorch's

"ours" is the step that training runs, its augmentation included: see benchmarks/training.py. PyTorch gets images
without augmentation and makes the same network in channels_last, N-pair loss, penalty (as Adam's weight_decay) and
Adam, from the same random weights; the losses of the first batch must agree. Rounds alternate; a rate is the median of
its rounds.
"""

import argparse
import collections
from collections.abc import Callable

import checkout  # noqa: F401
import jax
import numpy as np
import torch
import torch.nn.functional as F
from losses import print_row
from training import PEER, random_batch, rates

from configs import default
from symm_jax.models import efficientnet_lite
from symm_jax.training import batches
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import augment_batch, create_state, pmap_train_step


def ours(pairs: int, size: int) -> tuple[Callable, Callable, tuple]:
    """The step and the forward pass, without arguments; and the images, weights and loss of the first batch."""
    config = default.get_config()
    config.model.name, config.model.options = "efficientnet_lite0", {}
    config.data.image_size = size
    recipe = create_recipe(config)
    state = create_state(recipe)
    params = jax.device_get(state.params)
    batch = random_batch(pairs, size)
    images = jax.jit(lambda b: augment_batch(recipe, b, 0, 0))(batch).reshape(-1, size, size, 3)
    step, batch = pmap_train_step(recipe), jax.device_put(jax.tree.map(lambda x: x[None], batch))
    forward = jax.jit(lambda params, images: recipe.model.apply({"params": params}, images))
    state, metrics = step(batches.replicate(state), batch)
    on_device = jax.device_put(params)

    def run():
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return run, lambda: forward(on_device, images).block_until_ready(), (images, params, metrics["loss"].item())


class Conv(torch.nn.Conv2d):
    """A convolution with bias, padded as TensorFlow's "SAME"."""

    def __init__(self, values, stride=1):
        height, width, inputs, outputs = values["kernel"].shape
        groups = outputs if inputs == 1 else 1
        super().__init__(inputs * groups, outputs, (height, width), stride, height // 2 * (stride == 1), groups=groups)
        with torch.no_grad():
            self.weight.copy_(torch.tensor(values["kernel"]).permute(3, 2, 0, 1))
            self.bias.copy_(torch.tensor(values["bias"]))

    def forward(self, x):
        if self.stride[0] == 2:
            whole = self.kernel_size[0] - 2
            x = F.pad(x, (whole // 2, whole - whole // 2) * 2)
        return super().forward(x)


class Block(torch.nn.Module):
    def __init__(self, values, stride):
        super().__init__()
        self.expand = Conv(values["expand"]) if "expand" in values else None
        self.depthwise, self.project = Conv(values["depthwise"], stride), Conv(values["project"])

    def forward(self, x):
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if x.shape == y.shape else y


class Network(torch.nn.Module):
    def __init__(self, params):
        super().__init__()
        values = params["backbone"]
        strides = [1 if i else stride for _, _, _, stride, blocks in efficientnet_lite.STAGES for i in range(blocks)]
        self.stem, self.head = Conv(values["stem"], 2), Conv(values["head"])
        self.blocks = torch.nn.Sequential(*(Block(values[f"block_{i}"], stride) for i, stride in enumerate(strides)))
        self.embedding = torch.nn.Linear(*params["embedding"]["kernel"].shape)
        with torch.no_grad():
            self.embedding.weight.copy_(torch.tensor(params["embedding"]["kernel"]).T)
            self.embedding.bias.copy_(torch.tensor(params["embedding"]["bias"]))

    def forward(self, x):
        x = self.blocks(F.relu6(self.stem((x - 127) / 128), inplace=True))
        return self.embedding(F.relu6(self.head(x), inplace=True).mean((2, 3)))


def torch_peer(images: jax.Array, params: dict) -> tuple[Callable, Callable, float]:
    """PyTorch's step and forward pass with these images (anchor and positive by turns), and the first loss."""
    network = Network(params).to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=5e-3)
    x = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)  # channels last in memory

    def loss():
        embeddings = network(x)
        anchor, positive = embeddings[0::2], embeddings[1::2]
        penalty = 0.25 * 0.002 * (anchor.square().sum(1).mean() + positive.square().sum(1).mean())
        return F.cross_entropy(anchor @ positive.T, torch.arange(len(anchor))) + penalty

    def step():
        adam.zero_grad()
        loss().backward()
        adam.step()

    @torch.no_grad()
    def forward():
        network(x)

    return step, forward, loss().item()


def block_table(images: int, side: int) -> None:
    """The blocks, value and all gradients, in ms."""
    rng = np.random.default_rng(0)
    print_row("block", "ours, ms", f"{PEER}, ms", f"{PEER} / ours")
    print_row(*["---"] * 4)
    shapes, side, channels = collections.Counter(), -(-side // 2), 32
    for expansion, features, size, stride, count in efficientnet_lite.STAGES:
        for first in [True] + [False] * (count - 1):
            shapes[side, channels, expansion, features, size, stride if first else 1] += 1
            side, channels = -(-side // stride) if first else side, features
    totals = np.zeros(2)
    for (side, channels, *options), count in shapes.items():
        expansion, features, size, stride = options
        x = rng.normal(size=(images, side, side, channels)).astype(np.float32)
        block = efficientnet_lite.Block(*options)
        params = block.init(jax.random.key(0), x)
        y = jax.eval_shape(block.apply, params, x)
        dy = rng.normal(size=y.shape).astype(np.float32)

        @jax.jit
        def run(params, x, dy, block=block):
            y, vjp = jax.vjp(block.apply, params, x)
            return y, vjp(dy)

        on_device = jax.device_put((params, x, dy))
        network = Block(jax.device_get(params["params"]), stride).to(memory_format=torch.channels_last)
        leaf, cotangent = (torch.tensor(a).permute(0, 3, 1, 2) for a in (x, dy))
        leaf.requires_grad_()

        def peer(network=network, leaf=leaf, cotangent=cotangent):
            return torch.autograd.grad(network(leaf), (leaf, *network.parameters()), cotangent)

        programs = {"ours": lambda: jax.block_until_ready(run(*on_device)), PEER: peer}  # noqa: B023
        seconds = np.array([1 / rate for rate in rates(programs, 1, rounds=3).values()])
        totals += count * seconds
        name = f"{count} x {side} px, {channels} to {features} channels, expansion {expansion}, {size} x {size}"
        name += ", stride 2" * (stride == 2)
        print_row(name, *[f"{1e3 * s:.1f}" for s in seconds], f"{seconds[1] / seconds[0]:.2f}")
    print_row("all", *[f"{1e3 * s:.1f}" for s in totals], f"{totals[1] / totals[0]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--blocks", action="store_true", help="the table of blocks instead")
    arguments = parser.parse_args()
    count = 2 * arguments.pairs
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, torch {torch.__version__}, {count} images\n")
    if arguments.blocks:
        block_table(count, arguments.size)
        return
    step, forward, (images, params, loss) = ours(arguments.pairs, arguments.size)
    peer_step, peer_forward, peer_loss = torch_peer(images, params)
    print(f"loss of the first batch: {loss:.5f}, in PyTorch {peer_loss:.5f}\n")
    np.testing.assert_allclose(peer_loss, loss, rtol=1e-3)
    print_row("images/s", "ours", PEER, f"ours / {PEER}")
    print_row(*["---"] * 4)
    for row, *programs in (("training step, N-pair", step, peer_step), ("forward pass", forward, peer_forward)):
        mine, peer = rates(dict(zip(("ours", PEER), programs, strict=True)), count, arguments.rounds).values()
        print_row(row, f"{mine:,.1f}", f"{peer:,.1f}", f"{mine / peer:.2f}")


if __name__ == "__main__":
    main()
