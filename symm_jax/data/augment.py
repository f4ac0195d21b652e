"""Random crop, resize and horizontal flip of training images: one pure function, jitted with the training step."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32, Int32, Key, UInt8


def stored_side(image_size: int, *, enlarge: float, max_margin: float) -> int:
    """The side in pixels at which training images are stored: even the smallest crop is then never enlarged."""
    return math.ceil(image_size * enlarge / (1 - 2 * max_margin))


def augment(
    keys: Key[Array, " n"],
    images: UInt8[ArrayLike, "n side side 3"],
    short_side_ratio: Float[ArrayLike, "n 2"],
    *,
    image_size: int,
    enlarge: float = 1.125,
    min_margin: float = 0.01,
    max_margin: float = 0.05,
    mirror: bool = True,
) -> Float32[Array, "n {image_size} {image_size} 3"]:
    """The original's augmentation, with each image resampled once.

    1. Crop a margin from every edge. One margin per image is drawn, min_margin to max_margin of the shorter side.
    2. Resize the rest to a square of `enlarge` x image_size.
    3. Cut a random window of image_size.
    4. Flip it horizontally with probability 1/2.

    Resize and window are one affine map.

    Args:
      keys: typed PRNG keys, one per image: the result does not depend on how a batch is split.
      images: complete images, resized to a square.
      short_side_ratio: the image's shorter side divided by its height and by its width, before the resize. It turns a
        margin into a fraction of each side.
      image_size: side of the result in pixels.
      enlarge: side of the resized image divided by image_size, >= 1.
      min_margin: smallest margin, a fraction of the shorter side.
      max_margin: largest margin, below 0.5.
      mirror: whether to flip images.

    Returns:
      Images with values 0 .. 255.
    """
    one = functools.partial(
        _augment_one,
        image_size=image_size,
        enlarge=enlarge,
        min_margin=min_margin,
        max_margin=max_margin,
        mirror=mirror,
    )
    return jax.vmap(one)(keys, images, short_side_ratio)


def _augment_one(key, image, short_side_ratio, *, image_size, enlarge, min_margin, max_margin, mirror):
    margin_key, window_key, mirror_key = jax.random.split(key, 3)
    side = image.shape[0]
    # Types are named, so that JAX_ENABLE_X64 draws the same.
    margin = jax.random.uniform(margin_key, (), jnp.float32, min_margin, max_margin) * short_side_ratio * side
    resized = round(enlarge * image_size)
    window = jax.random.randint(window_key, (2,), 0, resized - image_size + 1, jnp.int32)
    step = (side - 2 * margin) / resized  # source pixels per pixel of the result
    backwards = jnp.array([False, mirror and jax.random.bernoulli(mirror_key, jnp.float32(0.5))])
    taps = functools.partial(_taps, count=image_size, side=side, most=math.ceil(2 * max(1.0, side / resized)))
    # A barrier, because XLA would otherwise fuse this into the resampling and repeat it for every pixel of the image.
    positions, weights = jax.lax.optimization_barrier(jax.vmap(taps)(margin + window * step, step, backwards))
    return _resample(_resample(image, positions[0], weights[0], axis=0), positions[1], weights[1], axis=1)


def _taps(
    start: Array, step: Array, backwards: Array, *, count: int, side: int, most: int
) -> tuple[Int32[Array, "{most} {count}"], Float32[Array, "{most} {count}"]]:
    """The source pixels and weights of each of `count` pixels on a line.

    The weights are a triangle around each centre. This is linear interpolation, but the triangle is wider where the
    image shrinks, so that no source pixel is left out.

    Args:
      start: where the result begins on the source line.
      step: source pixels per pixel of the result.
      backwards: whether the result is reversed.
      count: length of the result.
      side: length of the source line.
      most: number of source pixels per pixel of the result.

    Returns:
      Positions on the source line, and their weights.
    """
    pixels = jnp.arange(count, dtype=jnp.int32)
    centres = start + (jnp.where(backwards, count - 1 - pixels, pixels) + 0.5) * step - 0.5
    reach = jnp.maximum(1.0, step)
    positions = jnp.ceil(centres - reach).astype(jnp.int32)[None] + jnp.arange(most, dtype=jnp.int32)[:, None]
    weights = jnp.maximum(0.0, 1 - jnp.abs(positions - centres[None]) / reach)
    weights = jnp.where((positions >= 0) & (positions < side), weights, 0.0)
    return jnp.clip(positions, 0, side - 1), weights / weights.sum(axis=0, keepdims=True)


def _resample(image: Array, positions: Array, weights: Array, *, axis: int) -> Array:
    """Weighted sums of lines of (height, width, 3): a few gathers, not a matrix multiplication with mostly zeros."""
    total = jnp.zeros((), jnp.float32)
    for position, weight in zip(positions, weights, strict=True):
        # Positions are in bounds by construction. Saying so saves a check per pixel.
        lines = image.at[(slice(None),) * axis + (position,)].get(mode="promise_in_bounds")
        total += jnp.expand_dims(weight, [a for a in range(3) if a != axis]) * lines.astype(jnp.float32)
    return total
