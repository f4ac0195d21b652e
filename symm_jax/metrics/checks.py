"""The check of embeddings and labels that all metrics share."""

from typing import Any

import numpy as np


def require_labelled(
    embeddings: Any,
    labels: Any,
    name: str = "embeddings",
    labels_name: str = "labels",
    one_class_suffices: bool = False,
) -> None:
    """Raises ValueError unless embeddings (n, dim) are finite and labels (n,) hold two classes."""
    embeddings, labels = np.asarray(embeddings), np.asarray(labels)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(f"{name} must be (n, dim) and {labels_name} (n,), got {embeddings.shape} and {labels.shape}")
    bad = np.flatnonzero(~np.isfinite(embeddings.astype(np.float32)).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad):,} of {len(labels):,} {name} hold NaN or infinity, first number {bad[0]}: the network that "
            "made them has diverged"
        )
    if not one_class_suffices and len(np.unique(labels)) < 2:
        raise ValueError(f"{labels_name} hold fewer than two classes: there is nothing to tell apart")
