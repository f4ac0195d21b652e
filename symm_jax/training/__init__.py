"""Training: the recipe of a run, its step, its batches and the loop around it."""
