"""Deep metric learning with synthetic hard samples: `from symm_jax import losses, metrics, models, synthesis`."""
