"""Checks that a loss keeps the contract in registry.py, on a batch of eight pairs."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from symm_jax import dtypes, signatures
from symm_jax.losses.candidates import KINDS
from symm_jax.synthesis import symmetric

_AXIS = "devices"
_TOLERANCE = 1e-3  # relative difference of one device and two devices; rounding gives about 1e-6


def check(name: str, function: Callable) -> None:
    """Raises ValueError where a loss breaks the contract in registry.py. The message names the loss and what to do."""
    what = f"loss {name!r}"
    if takes_batch(function):
        options = signatures.check_signature(what, function, ("embeddings", "labels"))
        function = on_pairs(function)
    else:
        options = signatures.check_signature(what, function, ("anchor", "positive", "labels"))
    if "axis_name" not in options or options["axis_name"].default is not None:
        raise ValueError(
            f"{what} must take the option axis_name=None, the mapped axis that splits the batch. Gather the columns of "
            "all devices with symm_jax.similarity.gather((positive, labels), axis_name), and average over this "
            "device's rows."
        )
    if "synthesis" in options:
        _check_synthesis_options(what, options)
    if "key" in options:
        function = functools.partial(function, key=jax.random.key(0))
    _check_values(what, function)
    if "synthesis" in options:
        what = f"{what} with synthesis"
        mined = functools.partial(function, synthesis=symmetric, candidates="unordered")  # it compiles fastest
        _check_scalar(what, _call(what, functools.partial(jax.eval_shape, mined), *_create_batch()))
        with_winners = functools.partial(mined, with_winners=True)
        _check_winners(what, with_winners)
        _check_values(what, lambda *batch, **axis: with_winners(*batch, **axis)[0])


def takes_batch(function: Callable) -> bool:
    """Whether a loss takes (embeddings, labels), as batch losses do, and not (anchor, positive, labels)."""
    parameters = inspect.signature(function).parameters.values()
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) == 2


def on_pairs(function: Callable) -> Callable:
    """Turns a batch loss into one of (anchor, positive, labels), with the same options.

    With a synthesis of points, the batch loss gets the pairs, (n, 2, dim) and labels (n,). Otherwise it gets their
    images, see `take_images`.
    """

    def loss(anchor, positive, labels, *, synthesis=None, **options):
        if synthesis is not None:
            options["synthesis"] = synthesis
        if callable(synthesis):
            return function(jnp.stack([anchor, positive], axis=1), labels, **options)
        return function(*take_images(anchor, positive, labels), **options)

    return loss


def take_images(anchor: ArrayLike, positive: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The images of n rows in turn: the first anchor, the first positive, the second anchor, and so on.

    Args:
      anchor: (n, dim).
      positive: (n, dim).
      labels: (n,) for pairs of one class, or (n, 2) for images of any classes.

    Returns:
      Embeddings (2 n, dim) and labels (2 n,).
    """
    labels = dtypes.to_device(labels, "labels")
    labels = labels.reshape(-1) if labels.ndim == 2 else jnp.repeat(labels, 2)
    return jnp.stack([anchor, positive], axis=1).reshape(len(labels), -1), labels


def _check_synthesis_options(what: str, options: dict[str, Any]) -> None:
    if options["synthesis"].default is not None:
        raise ValueError(f"{what} must have the default synthesis=None")
    if "candidates" not in options or options["candidates"].default not in KINDS:
        raise ValueError(
            f"{what} takes a synthesis, so it must take the option candidates, the kind of pairs of points, with one "
            f"of the defaults {', '.join(map(repr, KINDS))}"
        )
    if "with_winners" not in options or options["with_winners"].default is not False:
        raise ValueError(
            f"{what} takes a synthesis, so it must take the option with_winners=False. If with_winners is true, return "
            "(value, winners)."
        )


def _create_batch() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eight pairs. Class 0 is on both devices, and the devices have different numbers of negatives."""
    rng = np.random.default_rng(0)
    anchor = rng.normal(size=(8, 5))
    positive = anchor + 0.7 * rng.normal(size=(8, 5))
    labels = np.array([0, 0, 1, 2, 0, 3, 3, 3], np.int32)
    return jnp.asarray(anchor, jnp.float32), jnp.asarray(positive, jnp.float32), jnp.asarray(labels)


def _check_values(what: str, function: Callable) -> None:
    """Checks value and gradients on one device, and that two devices give the same."""
    batch = _create_batch()
    _check_scalar(what, _call(what, functools.partial(jax.eval_shape, function), *batch))
    with_gradients = jax.value_and_grad(function, argnums=(0, 1))
    value, gradients = _call(what, jax.jit(with_gradients), *batch)
    if not all(bool(jnp.isfinite(x).all()) for x in (value, *gradients)):
        raise ValueError(f"{what} must have a finite value and finite gradients; the value is {value}")

    def run_device(*rows):
        return jax.value_and_grad(functools.partial(function, axis_name=_AXIS), argnums=(0, 1))(*rows)

    split = [x.reshape(2, 4, *x.shape[1:]) for x in batch]
    run_devices = jax.jit(jax.vmap(run_device, axis_name=_AXIS))
    values, split_gradients = _call(f"{what}, with axis_name={_AXIS!r} and two devices,", run_devices, *split)
    if not _close(jnp.mean(values), value):
        raise ValueError(
            f"{what} gives {value:.6g} on one device, but {jnp.mean(values):.6g} on average over two devices that "
            "share the batch. With axis_name, compare the rows of this device with the columns of all devices "
            "(symm_jax.similarity.gather), and return a value whose mean over the devices is that of the whole batch."
        )
    # The value of a device is a mean over half of the rows.
    joined = [x.reshape(8, -1) / 2 for x in split_gradients]
    if not all(_close(x, y) for x, y in zip(joined, gradients, strict=True)):
        raise ValueError(
            f"{what} gives the same value on one device and on two devices that share the batch, but not the same "
            "gradients. With axis_name, let gradients pass through the gathered columns (symm_jax.similarity.gather)."
        )


def _check_scalar(what: str, value: Any) -> None:
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"{what} must return a floating scalar, got {value}. Return the mean over the rows.")


def _check_winners(what: str, function: Callable) -> None:
    result = _call(f"{what} and with_winners", jax.jit(function), *_create_batch())
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(f"{what} must return (value, winners) if with_winners is true, got {type(result).__name__}")
    winners = np.asarray(result[1])
    if winners.shape != (4, 4) or not np.isclose(winners.sum(), 1, atol=1e-4) or winners.min() < 0:
        raise ValueError(
            f"{what} must return winners of shape (points, points) that sum to 1, the fraction of each pair of points "
            f"among the hardest negatives; for 4 points got {winners.tolist()}"
        )


def _call(what: str, function: Callable, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        raise ValueError(f"{what} fails on 8 pairs of dimension 5: {type(error).__name__}: {error}") from error


def _close(x: jax.Array, y: jax.Array) -> bool:
    return bool(jnp.max(jnp.abs(x - y)) <= _TOLERANCE * jnp.max(jnp.abs(y)) + 1e-6)
