"""The small backbone: shapes, dtypes, invariances, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax.errors import InputError
from symm_jax.models.convnet import ConvNet

MODEL = ConvNet(widths=(8, 16))
APPLY = jax.jit(MODEL.apply)


def _images(side=16, n=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def _params(model=MODEL):
    return jax.jit(model.init)(jax.random.key(0), _images())


@pytest.mark.parametrize("side", [16, 17, 31, 32])
def test_any_side_pools_to_features(side):
    features = APPLY(_params(), _images(side))
    assert features.shape == (3, 16) and features.dtype == jnp.float32
    assert np.isfinite(features).all() and features.std() > 0


def test_uint8_and_float_images_agree():
    images = _images()
    np.testing.assert_array_equal(APPLY(_params(), images), APPLY(_params(), images.astype(np.float32)))


def test_each_image_is_embedded_alone_from_parameters_alone():
    variables, images = _params(), _images()
    assert set(variables) == {"params"}
    together = APPLY(variables, images)
    alone = jnp.concatenate([APPLY(variables, images[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_brightness_and_contrast_matter_little_but_position_of_ink_does():
    images = _images().astype(np.float32)
    features = APPLY(_params(), images)
    np.testing.assert_allclose(APPLY(_params(), 0.5 * images + 60), features, atol=1e-2)
    assert np.abs(APPLY(_params(), images[:, ::-1]) - features).max() > 1e-2


@pytest.mark.parametrize("images", [_images(), np.zeros((2, 16, 16, 3), np.uint8)], ids=["noise", "blank"])
def test_gradients_are_finite(images):
    gradients = jax.jit(jax.grad(lambda w: jnp.sum(APPLY(w, images) ** 2)))(_params())
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_every_parameter_gets_a_gradient():
    gradients = jax.grad(lambda w: jnp.sum(APPLY(w, _images()) ** 2))(_params())
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize(("dtype", "param_dtype"), [(jnp.bfloat16, jnp.float32), (jnp.bfloat16, jnp.bfloat16)])
def test_dtypes_are_followed(dtype, param_dtype):
    model = ConvNet(widths=(8, 16), dtype=dtype, param_dtype=param_dtype)
    variables = _params(model)
    assert {w.dtype for w in jax.tree.leaves(variables)} == {jnp.dtype(param_dtype)}
    assert model.apply(variables, _images()).dtype == dtype


def test_too_small_images_are_named():
    with pytest.raises(InputError, match="at least 8 px"):
        jax.eval_shape(MODEL.init, jax.random.key(0), np.zeros((1, 7, 7, 3), np.uint8))
