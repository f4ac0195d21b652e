"""Conversions to the dtypes that JAX and the metrics compute with. They keep the values, or raise.

By default JAX has no numbers of 64 bits: `jnp.asarray` wraps int64 to int32 and rounds float64 to float32. Values are
checked while they are NumPy arrays or Python sequences. `jax.jit` converts its arguments before a function sees them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def require_key(key: Any, name: str) -> None:
    """Raises ValueError for what is not one PRNG key. `name` is what needs it."""
    if isinstance(key, jax.Array):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if (typed and key.shape == ()) or (key.dtype == jnp.uint32 and key.shape == (2,)):
            return
        key = f"an array {key.shape} of {key.dtype}"
    raise ValueError(f"{name} needs one PRNG key, such as jax.random.key(step); got {key}")


def to_device(x: Any, name: str) -> jax.Array:
    """Converts to a JAX array, as `jnp.asarray` does. Integers keep their values; float64 may be rounded to float32.

    Args:
      x: an array, or a sequence of numbers.
      name: the argument's name, for messages.

    Raises:
      ValueError: it is not an array of numbers, or the dtype of JAX cannot hold the values.
    """
    if isinstance(x, jax.Array):
        return x
    try:
        host = np.asarray(x)
        with np.errstate(over="ignore"):
            device = jnp.asarray(host)
    except jax.errors.TracerArrayConversionError:  # a sequence of traced numbers
        return jnp.asarray(x)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"arguments must be arrays of numbers, {name} are not: {error}") from error
    if device.dtype == host.dtype:
        return device
    if jnp.issubdtype(host.dtype, jnp.integer) and not np.array_equal(host.astype(device.dtype), host):
        raise ValueError(
            f"{name} contain integers that {device.dtype} cannot hold, from {host.min()} to {host.max()}. "
            + _advise(name)
        )
    if device.dtype == jnp.float32:
        require_float32_range(host, name)
    return device


def widen(labels: jax.Array) -> jax.Array:
    """Integers of 32 bits, or 64 where they are such: numbers of classes may be larger than a narrow dtype holds."""
    return labels.astype(jnp.int64 if labels.dtype.itemsize == 8 else jnp.int32)


def require_float32_range(x: np.ndarray, name: str) -> None:
    """Raises ValueError where rounding to float32 makes a row of x (n, ...) infinite or zero.

    Rows that are not finite, or zero, pass.
    """
    if not (jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize > 4 and x.size and x.ndim):
        return
    largest = np.abs(x).reshape(len(x), -1).max(axis=1)
    limits = np.finfo(np.float32)
    outside = (largest > limits.max) | ((largest < limits.tiny) & (largest > 0))
    bad = np.flatnonzero(outside & np.isfinite(largest))
    if len(bad):
        raise ValueError(
            f"{name} contain {len(bad):,} rows that float32 cannot hold; the largest entry of row {bad[0]} is "
            f"{largest[bad[0]]:.3g}. Scale the rows, for example to norm 1."
        )


def to_float32(x: np.ndarray) -> np.ndarray:
    """Rounds to float32. What float32 cannot hold becomes infinite, without a warning: check that it is finite."""
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32)


def to_labels(labels: Any, name: str = "labels") -> np.ndarray:
    """Converts labels to an array of int64. Different labels stay different.

    Raises:
      ValueError: they are not integers, or int64 cannot hold them.
    """
    host = np.asarray(labels)
    if not jnp.issubdtype(host.dtype, jnp.integer) and host.size:
        raise ValueError(f"{name} must be integers, got {host.dtype}. {_advise(name)}")
    if host.size and host.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} contain integers that int64 cannot hold, such as {host.max()}. {_advise(name)}")
    return host.astype(np.int64)


def _advise(name: str) -> str:
    return f"If they are classes, number them from 0: np.unique({name}, return_inverse=True)[1]."
