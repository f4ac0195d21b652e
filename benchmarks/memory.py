"""The limits of a batch of a million images: memory and operations of a training step, as XLA reports them.

    python benchmarks/memory.py  # compiles and runs nothing; about two minutes

Symm + N-pair, embeddings of 512 dimensions, rows of the loss in blocks of 256. Values are per device.

- embeddings: anchors and positives of the whole batch, gathered on every device, float32. Their gradient is as large.
- gathered: bytes that a device receives in a step: gathered embeddings and their gradients.
- loss: other memory of the loss, measured at 2,048 and 4,096 pairs and extrapolated linearly.
- network: memory of the backbone between its passes, measured at 8 and 16 images and extrapolated linearly.
- operations: those of the loss, twelve products of (rows, 512) x (512, columns), and those of the network.
"""

import checkout  # noqa: F401
import jax
import jax.numpy as jnp
from losses import print_row

from symm_jax import losses, models, synthesis

DIM = 512
SIZE = 227
BLOCK = 256
PRODUCTS = 12


def measure_loss(rows: int) -> int:
    """Returns the bytes of the intermediate arrays of the loss and its gradient, for `rows` pairs."""
    points = jax.ShapeDtypeStruct((rows, DIM), jnp.float32)
    labels = jax.ShapeDtypeStruct((rows,), jnp.int32)

    def loss(anchor, positive, labels):
        return losses.npair_loss(anchor, positive, labels, synthesis=synthesis.symmetric, block_size=BLOCK)

    return _compile(jax.grad(loss, (0, 1)), points, points, labels).memory_analysis().temp_size_in_bytes


def measure_network(images: int) -> tuple[int, float]:
    """Returns the bytes of the intermediate arrays of GoogLeNet's passes, and the number of operations."""
    model = models.create("googlenet", dim=DIM)
    batch = jax.ShapeDtypeStruct((images, SIZE, SIZE, 3), jnp.uint8)
    params = jax.eval_shape(model.init, jax.random.key(0), batch)

    def total(params, batch):
        return jnp.sum(model.apply(params, batch))

    program = _compile(jax.grad(total), params, batch)
    return program.memory_analysis().temp_size_in_bytes, program.cost_analysis()["flops"]


def _compile(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


def main() -> None:
    loss = {rows: measure_loss(rows) for rows in (2048, 4096)}
    loss_slope = (loss[4096] - loss[2048]) / 2048
    network = {images: measure_network(images) for images in (8, 16)}
    bytes_an_image, work_an_image = ((b - a) / 8 for a, b in zip(network[8], network[16], strict=True))
    print(f"GoogLeNet at {SIZE} px: {bytes_an_image / 1e6:,.0f} MB and {work_an_image / 1e9:,.1f} GFLOP an image")
    print(f"loss in blocks of {BLOCK}: {loss_slope / 1e3:,.1f} kB a pair\n")
    columns = "images", "devices", "embeddings, GB", "gathered, GB", "loss, GB", "network, GB"
    print_row(*columns, "loss, TFLOP", "network, TFLOP")
    print_row(*["---"] * 8)
    for images in (128, 32_768, 1_000_000):
        for devices in (1, 8, 64):
            embeddings = images * DIM * 4
            pairs = images / 2
            print_row(
                f"{images:,}",
                str(devices),
                f"{embeddings / 1e9:,.3f}",
                f"{2 * embeddings * (devices - 1) / devices / 1e9:,.3f}",
                f"{loss_slope * pairs / 1e9:,.3f}",
                f"{bytes_an_image * images / devices / 1e9:,.1f}",
                f"{PRODUCTS * 2 * DIM * pairs**2 / devices / 1e12:,.3f}",
                f"{work_an_image * images / devices / 1e12:,.2f}",
            )


if __name__ == "__main__":
    main()
