"""The inverted bottleneck of EfficientNet-Lite: 1x1 expansion, depthwise convolution, 1x1 projection.

Values and gradients differ between the platforms only by rounding.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from symm_jax import devices
from symm_jax.models.convolution import bias_gradient, conv, pixel_product, sum_dtype

Images = Float[Array, "n height width channels"]
ImagesOut = Float[Array, "n height_out width_out features"]
Weights = tuple[Float[Array, "_ _ _ _"], Float[Array, " _"]]  # kernel (size, size, inputs, features), bias

# For the CPU: entries of the expanded images that are handled at a time, so that they stay in the caches; and images
# and their pixels whose terms of the depthwise kernel's gradient are one sum. More pixels lengthen compilation.
_ENTRIES, _IMAGES, _PIXELS = 2**20, 4, 64


def inverted_bottleneck(x: Images, weights: dict[str, Weights], stride: int) -> ImagesOut:
    """relu6 of an expansion, relu6 of a depthwise convolution, a projection; plus the input if the shapes agree.

    The CPU's form has no forward-mode derivative.

    Args:
      x: the images.
      weights: of each convolution by its name: "expand" (optional), "depthwise", whose kernel is
        (size, size, 1, channels), and "project".
      stride: of the depthwise convolution in both directions, which is padded as TensorFlow's "SAME".
    """
    return (few_at_a_time if devices.platform() == "cpu" else plain)(x, weights, stride)


def plain(x, weights, stride):
    """`inverted_bottleneck` as XLA's own operations, which are fast on a GPU."""
    y = nn.relu6(_pointwise(x, *weights["expand"])) if "expand" in weights else x
    kernel, bias = weights["depthwise"]
    y = lax.conv_general_dilated(
        y,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=y.shape[-1],
    )
    return _projected(x, nn.relu6(y + bias.reshape(1, 1, 1, -1)), weights)


def _pointwise(x, kernel, bias):
    return conv(x, kernel, 1) + bias.reshape(1, 1, 1, -1)


def _projected(x, wide, weights):
    y = _pointwise(wide, *weights["project"])
    return x + y if x.shape == y.shape else y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def few_at_a_time(x, weights, stride):
    """`inverted_bottleneck` of a few images at a time. The gradient computes their wide images again.

    So the wide images, which are most of the bytes, stay in the caches. XLA's grouped convolution is also about twenty
    times slower on a CPU than the sum of shifted images.
    """
    group = _group(x, weights)
    if group == x.shape[0]:
        return _forward_of_few(x, weights, stride)
    return _joined(lax.map(lambda few: _forward_of_few(few, weights, stride), _split(x, group)))


def _group(x, weights):
    n, height, width, _ = x.shape
    if not isinstance(n, int):  # a symbol of jax.export
        return n
    entries = height * width * len(weights["depthwise"][1])
    return math.gcd(n, 2 ** round(math.log2(max(1, _ENTRIES / entries))))


def _split(x, group):
    return x.reshape(-1, group, *x.shape[1:])


def _joined(groups):
    return groups.reshape(-1, *groups.shape[2:])


def _forward(x, weights, stride):
    return few_at_a_time(x, weights, stride), (x, weights)


def _backward(stride, residuals, dy):
    x, weights = residuals
    group = _group(x, weights)

    def add(totals, few):
        x, dy = few
        dx, gradients = _backward_of_few(x, dy, weights, stride)
        return jax.tree.map(jnp.add, totals, gradients), dx

    zeros = jax.tree.map(lambda w: jnp.zeros(w.shape, sum_dtype(w)), weights)
    gradients, dx = lax.scan(add, zeros, (_split(x, group), _split(dy, group)))
    return _joined(dx), jax.tree.map(lambda g, w: g.astype(w.dtype), gradients, weights)


few_at_a_time.defvjp(_forward, _backward)


def _forward_of_few(x, weights, stride):
    return _projected(x, _wide_images(x, weights, stride)[2], weights)


def _wide_images(x, weights, stride):
    """The expanded images, the same padded, and the result of the depthwise convolution."""
    kernel, bias = weights["depthwise"]
    expanded = nn.relu6(_pointwise(x, *weights["expand"])) if "expand" in weights else x
    padded = _padded(expanded, lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), "SAME"))
    size, total = len(kernel), jnp.zeros((), x.dtype)
    for position in np.ndindex(size, size):
        total = total + _met(padded, position, size, stride) * kernel[position][None, None]
    return expanded, padded, nn.relu6(total + bias.reshape(1, 1, 1, -1))


def _met(padded, position, size, stride):
    """The pixels of padded images that meet one position of the kernel."""
    rows, columns = (slice(i, padded.shape[a] - size + 1 + i, stride) for a, i in enumerate(position, start=1))
    return padded[:, rows, columns]


def _padded(x, sides):
    # Stored, because XLA otherwise tests at every read whether it meets the padding.
    return lax.optimization_barrier(jnp.pad(x, ((0, 0), *sides, (0, 0))))


def _backward_of_few(x, dy, weights, stride):
    """The gradient of x, and those of the weights."""
    expanded, padded, wide = _wide_images(x, weights, stride)
    kernel = weights["depthwise"][0]
    dwide = _masked(wide, _product(dy, weights["project"][0]))
    gradients = {
        "project": (pixel_product(wide, dy)[None, None], bias_gradient(dy)),
        "depthwise": (_kernel_gradient(padded, dwide, len(kernel), stride), bias_gradient(dwide)),
    }
    dx = _input_gradient(dwide, kernel, stride, x.shape[1:3])
    if "expand" in weights:
        dexpanded = _masked(expanded, dx)
        gradients["expand"] = pixel_product(x, dexpanded)[None, None], bias_gradient(dexpanded)
        dx = _product(dexpanded, weights["expand"][0])
    return dx + dy if x.shape == dy.shape else dx, gradients


def _masked(y, dy):
    """The gradient before ReLU6, whose result is y. Stored, because several operations read it."""
    return lax.optimization_barrier(jnp.where((y > 0) & (y < 6), dy, 0))


def _product(dy, kernel):
    return jnp.einsum("nhwo,io->nhwi", dy, kernel[0, 0])


def _input_gradient(dy, kernel, stride, sides):
    """The gradient of a depthwise convolution's input: one sum of shifted dy for each phase of rows and columns.

    The pixels stride * u + r are those of phase r. Each meets only those positions of the kernel that its phase allows.
    """
    size, (_, height, width, channels) = len(kernel), dy.shape
    before = [low for low, _ in lax.padtype_to_pads(sides, (size, size), (stride, stride), "SAME")]
    padded = _padded(dy, [(size // 2, size // 2)] * 2)

    def lines(phase, low):
        """The positions in the kernel and the first lines of the padded dy that they meet."""
        return [(i, size // 2 + (phase + low - i) // stride) for i in range(size) if (phase + low - i) % stride == 0]

    def of_phase(row, column):
        total = jnp.zeros((), dy.dtype)
        for i, top in lines(row, before[0]):
            for j, left in lines(column, before[1]):
                total = total + padded[:, top : top + height, left : left + width] * kernel[i, j][None, None]
        return total

    phases = range(stride)
    dx = jnp.stack([jnp.stack([of_phase(r, c) for c in phases], 3) for r in phases], 2)
    return dx.reshape(-1, stride * height, stride * width, channels)[:, : sides[0], : sides[1]]


def _kernel_gradient(padded, dy, size, stride):
    """The sum over all output pixels of the inputs that they meet, times their gradient."""
    (n, height, width, channels), dtype = dy.shape, sum_dtype(dy)
    # Few rows of an output image at a time: their terms are one sum, which stays in registers.
    rows = max(r for r in range(1, height + 1) if height % r == 0 and (r == 1 or r * width <= _PIXELS))
    group = math.gcd(n, _IMAGES)  # the processor's cores share them
    blocks = height // rows

    def add(block, total):
        image, row = group * (block // blocks), rows * (block % blocks)
        shape = (group, stride * (rows - 1) + size, *padded.shape[2:])
        inputs = lax.dynamic_slice(padded, (image, stride * row, 0, 0), shape).astype(dtype)
        gradients = lax.dynamic_slice(dy, (image, row, 0, 0), (group, rows, width, channels))
        for i, j in np.ndindex(rows, width):
            met = inputs[:, stride * i : stride * i + size, stride * j : stride * j + size]
            total = total + met * gradients[:, i, j, None, None]
        return total

    total = lax.fori_loop(0, n // group * blocks, add, jnp.zeros((group, size, size, channels), dtype))
    return total.sum(0)[:, :, None]
