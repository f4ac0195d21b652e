"""Random crop, resize and mirror of training images: one pure function, jitted with the training step."""

import functools
import math

import jax
import jax.numpy as jnp


def stored_side(image_size: int, *, enlarge: float, max_margin: float) -> int:
    """Side in pixels at which training images are stored, so that the narrowest crop is not blurred by enlarging."""
    return math.ceil(image_size * enlarge / (1 - 2 * max_margin))


def augment(
    keys: jax.Array,
    images: jax.Array,
    short_side_ratio: jax.Array,
    *,
    image_size: int,
    enlarge: float = 1.125,
    min_margin: float = 0.01,
    max_margin: float = 0.05,
    mirror: bool = True,
) -> jax.Array:
    """The original's augmentation, in one resampling.

    A margin of min_margin to max_margin of the shorter side, drawn once an image, is cropped from every edge;
    the rest is squashed to `enlarge` x image_size; a random window of image_size is cut from that and mirrored
    left to right with probability 1/2. Squash and window are one affine map, so each image is sampled once.

    Args:
      keys: (n,) typed PRNG keys, one an image: the result does not depend on how a batch is split.
      images: (n, side, side, 3) uint8, whole images squashed to a square.
      short_side_ratio: (n, 2) float32, the image's shorter side over its height and over its width before the resize,
        which turn a margin into a share of each side.
      image_size: side of the result in pixels.
      enlarge: size of the squash over image_size, >= 1.
      min_margin: smallest margin, a fraction of the shorter side.
      max_margin: largest margin, below 0.5.
      mirror: whether to mirror at all.

    Returns:
      (n, image_size, image_size, 3) float32, 0 .. 255.
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
    margin = jax.random.uniform(margin_key, (), minval=min_margin, maxval=max_margin) * short_side_ratio * side
    squashed = round(enlarge * image_size)
    window = jax.random.randint(window_key, (2,), 0, squashed - image_size + 1)
    step = (side - 2 * margin) / squashed  # pixels of the source for one of the result
    backwards = jnp.array([False, mirror and jax.random.bernoulli(mirror_key)])
    taps = functools.partial(_taps, count=image_size, side=side, most=math.ceil(2 * max(1.0, side / squashed)))
    # A loop, because XLA would otherwise fuse this into the resampling and repeat it for every pixel of the image.
    places, weights = jax.lax.map(lambda axis: taps(*axis), (margin + window * step, step, backwards))
    return _resample(_resample(image, places[0], weights[0], axis=0), places[1], weights[1], axis=1)


def _taps(start, step, backwards, *, count: int, side: int, most: int) -> tuple[jax.Array, jax.Array]:
    """Which pixels of a line of `side` make each of `count`, at most `most`, and their weights: (most, count) both.

    The result begins at `start` and takes a pixel every `step`; `backwards`, it is turned round.
    A triangle about each centre: linear interpolation, but wider where the image shrinks so that nothing is left out.
    """
    pixels = jnp.arange(count)
    centres = start + (jnp.where(backwards, count - 1 - pixels, pixels) + 0.5) * step - 0.5
    reach = jnp.maximum(1.0, step)
    places = jnp.ceil(centres - reach).astype(jnp.int32)[None] + jnp.arange(most)[:, None]
    weights = jnp.maximum(0.0, 1 - jnp.abs(places - centres[None]) / reach)
    weights = jnp.where((places >= 0) & (places < side), weights, 0.0)
    return jnp.clip(places, 0, side - 1), weights / weights.sum(axis=0, keepdims=True)


def _resample(image: jax.Array, places: jax.Array, weights: jax.Array, *, axis: int) -> jax.Array:
    """Weighted sums of the lines `places` of (height, width, 3): a few gathered ones, not a product with mostly 0."""
    total = 0.0
    for place, weight in zip(places, weights, strict=True):
        # In bounds by construction. Said so, it spares a check for every pixel.
        lines = image.at[(slice(None),) * axis + (place,)].get(mode="promise_in_bounds")
        total += jnp.expand_dims(weight, [a for a in range(3) if a != axis]) * lines.astype(jnp.float32)
    return total
