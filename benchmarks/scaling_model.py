"""What several GPUs may gain, on paper: a model of a training step over H100s, from stated assumptions.

    python benchmarks/scaling_model.py  # nothing runs

A step of GoogLeNet at 227 px with Symm + N-pair takes the time of its network, of its loss and of its collectives, one
after the other. "network" is the time of its images, or of its launches if that is longer. "memory" is that of the
network's intermediate arrays. "efficiency" is images/s per device, over those of one device with 64 pairs. Bytes are
exact; every rate below is an assumption, and nothing was measured on a GPU.
"""

import checkout  # noqa: F401
from losses import print_row

DIM = 512
PARAMETERS = 6_498_352  # of GoogLeNet with its embedding layer; float32, all gradients in one all-reduce
IMAGE = {"float32": 68e-6, "bfloat16": 38e-6}  # seconds an image: 8.7 and 4.9 ms a step of 128, its bytes / 3 TB/s
MEMORY = {"float32": 88e6, "bfloat16": 44e6}  # bytes an image (benchmarks/memory.py), half of it in bfloat16
LAUNCHES = 1.4e-3  # seconds a step: 550 kernels
PRODUCTS, FLOAT32 = 7, 50e12  # of (rows, DIM) x (DIM, columns), and their operations a second in full float32
PRODUCTS_IN_BLOCKS, WHOLE = 12, 4_096  # above so many pairs the loss is computed in blocks, which multiply again
NODE = 8  # devices of a machine
NVLINK, NETWORK = 450e9, 50e9  # bytes a second and device, in one direction: inside a machine, between machines
LATENCY = {True: 20e-6, False: 50e-6}  # seconds a collective: inside a machine, between machines


def gather_seconds(size: float, devices: int) -> float:
    """An all-gather to `size` bytes, or a reduce-scatter of them: between machines first, then inside each."""
    if devices == 1:
        return 0.0
    inside, machines = min(devices, NODE), max(1, devices // NODE)
    between = size * (machines - 1) / machines / inside / NETWORK
    return LATENCY[machines == 1] + between + size * (inside - 1) / inside / NVLINK


def collectives(pairs: int, devices: int) -> tuple[float, float]:
    """Bytes that a device receives in a step, and seconds."""
    rows = pairs * (2 * DIM * 4 + 2 * 2 * 4 + 4)  # embeddings, coefficients of synthesis, labels; gradients: no labels
    gradients = 4 * PARAMETERS
    received = (devices - 1) / devices * 2 * (rows + gradients)
    return received, 2 * gather_seconds(rows, devices) + 2 * gather_seconds(gradients, devices)


def step_seconds(pairs: int, devices: int, dtype: str) -> tuple[float, float, float]:
    """Of network, loss and collectives."""
    network = max(2 * pairs / devices * IMAGE[dtype], LAUNCHES)
    products = PRODUCTS if pairs <= WHOLE else PRODUCTS_IN_BLOCKS
    return network, products * 2 * DIM * pairs**2 / devices / FLOAT32, collectives(pairs, devices)[1]


def main() -> None:
    columns = "network, ms", "loss, ms", "received, MB", "collectives, ms", "images/s", "efficiency", "memory, GB"
    print_row("dtype", "pairs", "devices", *columns)
    print_row(*["---"] * 10)
    for dtype in IMAGE:
        alone = 128 / sum(step_seconds(64, 1, dtype))
        for pairs, many in ((64, (1, 8, 64)), (4_096, (8, 64)), (500_000, (64,))):
            for devices in many:
                network, loss, waiting = step_seconds(pairs, devices, dtype)
                rate = 2 * pairs / (network + loss + waiting)
                print_row(
                    dtype,
                    f"{pairs:,}",
                    str(devices),
                    f"{1e3 * network:,.1f}",
                    f"{1e3 * loss:,.2f}",
                    f"{collectives(pairs, devices)[0] / 1e6:,.1f}",
                    f"{1e3 * waiting:,.2f}",
                    f"{rate:,.0f}",
                    f"{100 * rate / devices / alone:.0f} %",
                    f"{2 * pairs / devices * MEMORY[dtype] / 1e9:,.1f}",
                )


if __name__ == "__main__":
    main()
