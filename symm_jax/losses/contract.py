"""Checks that a loss keeps the contract in registry.py, on a batch of eight pairs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from symm_jax import signatures
from symm_jax.losses.adapters import on_pairs, takes_batch
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
