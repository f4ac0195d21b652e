"""What a person looks at: the figures, and the page of a run. `write` is the entry point."""

from symm_jax.report.figures import draw_batch, draw_comparison, draw_points
from symm_jax.report.write import write

__all__ = ["draw_batch", "draw_comparison", "draw_points", "write"]
