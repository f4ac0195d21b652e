"""Deep metric learning with synthetic hard samples: `from symm_jax import losses, metrics, models, synthesis`."""

from __future__ import annotations

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    import os

    from symm_jax.search.embedder import Embedder

__version__ = "0.2.0"


def load(workdir: str | os.PathLike, step: int | None = None) -> Embedder:
    """Loads the network of a run, to embed pictures: `symm_jax.load("runs/cars").embed("photos/")`.

    It needs the packages of the extra "train".

    Args:
      workdir: the run's folder.
      step: the step of a checkpoint. By default the best one, or the newest of a run that was not evaluated.

    Raises:
      InputError: there is no such checkpoint, or it cannot be used.
    """
    from symm_jax.search import embedder  # imported here: `import symm_jax` imports nothing slow

    return embedder.load(workdir, step)
