"""Deep metric learning with synthetic hard samples: `from symm_jax import losses, metrics, models, synthesis`."""

__version__ = "0.2.0"
