"""Weights and images that float32 and uint8 cannot hold are refused."""

import jax
import numpy as np
import pytest

from symm_jax.errors import InputError
from symm_jax.models import ConvNet, embed, folded

SHAPES = {"kernel": (1, 1, 1, 1), "bias": (1,)}
LIKE = {"c": {part: jax.ShapeDtypeStruct(shape, "float32") for part, shape in SHAPES.items()}}


@pytest.mark.parametrize(
    ("kernel", "variance", "message"),
    [(1e39, 1.0, "c.weight .*not finite"), (1e38, 1e-4, "c: float32 cannot hold the product")],
)
def test_weights_that_float32_cannot_hold_are_refused(kernel, variance, message):
    tensors = {"c.weight": np.full((1, 1, 1, 1), kernel), "n.running_var": np.array([variance])}
    tensors |= {f"n.{part}": np.ones(1) for part in ("weight", "bias", "running_mean")}
    with pytest.raises(InputError, match=message):
        folded.fold(tensors, LIKE, lambda path: ("c", "n"), 0.0)


@pytest.mark.usefixtures("without_shape_checks")
def test_images_are_not_cut_to_their_dtype():
    with pytest.raises(ValueError, match="images must be uint8.* got float32"):
        embed.embed_all(None, {}, np.full((2, 8, 8, 3), 0.5, np.float32), 2, "")
    with pytest.raises(ValueError, match="images contain integers that int32 cannot hold"):
        jax.eval_shape(lambda: ConvNet().init(jax.random.key(0), np.full((1, 8, 8, 3), 2**32)))
