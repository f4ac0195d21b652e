"""How the checkpoints of a config are measured: its protocol, and the scorer that carries it out."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from symm_jax import metrics, models
from symm_jax.data import datasets, splits
from symm_jax.data.arrays import Arrays
from symm_jax.models.embed import create_embed, embed_all
from symm_jax.run import best, config_fields, config_json


class Protocol(NamedTuple):
    """What is measured, and how.

    config: the whole config as plain JSON types, to be compared with that of a run.
    source: the data set.
    image_size: side in pixels of what the network sees.
    model: the network.
    batch_size: images that a device embeds at a time.
    recall_ks: the k of Recall@k.
    clustering: whether NMI and F1 are measured.
    """

    config: dict[str, Any]
    source: datasets.Source
    image_size: int
    model: nn.Module
    batch_size: int
    recall_ks: tuple[int, ...]
    clustering: bool

    @property
    def main_metric(self) -> str:
        """The metric that selects checkpoints: recall at the smallest k."""
        return f"recall@{min(self.recall_ks)}"

    @property
    def columns(self) -> list[str]:
        """Names of what is measured of a checkpoint, the main metric first."""
        names = [*(f"recall@{k}" for k in sorted(self.recall_ks)), "map@r", "r_precision"]
        names += ["nmi", "f1"] if self.clustering else []
        return names + ([f"{best.VALIDATION}/{self.main_metric}"] if self.source.validation_classes else [])


def create_protocol(config: ml_collections.ConfigDict) -> Protocol:
    """Unpacks a config. Raises InputError for fields, names and options that are unknown or of another type."""
    config_fields.check(config)
    m = config.model
    return Protocol(
        config=config_json.to_dict(config),
        source=datasets.Source.from_section(config.data),
        image_size=config.data.image_size,
        model=models.create(m.name, dim=m.dim, dtype=m.dtype, param_dtype=m.param_dtype, **m.options),
        batch_size=config.eval_batch_size,
        recall_ks=tuple(config.recall_ks),
        clustering=config.clustering,
    )


class Scorer(NamedTuple):
    """The test images, the held-out training images and the network.

    embed: (variables, images, label of the progress bar) -> embeddings (n, dim) float32.
    shapes: the shapes of the network's variables.
    """

    embed: Callable[[Any, np.ndarray, str], np.ndarray]
    shapes: Any
    test: Arrays
    validation: Arrays | None


def create_scorer(protocol: Protocol) -> Scorer:
    """Loads the images and prepares the network. Raises InputError when the images cannot be evaluated."""
    test, validation = splits.load_evaluation(protocol.source, protocol.image_size, protocol.recall_ks)
    print(f"test      {splits.describe(test)}")
    embed = functools.partial(embed_all, create_embed(protocol.model), batch_size=protocol.batch_size)
    init = functools.partial(models.init_variables, protocol.model, protocol.image_size)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return Scorer(lambda variables, images, label: embed(variables, images, label=label), shapes, test, validation)


def measure(protocol: Protocol, scorer: Scorer, variables: Any, label: str) -> tuple[dict[str, float], np.ndarray]:
    """Embeds and measures with the variables of a checkpoint.

    Returns:
      {name: value} for `protocol.columns`, and the embeddings (n, dim) of the test images, not normalised.

    Raises:
      ValueError: an embedding is not finite.
    """
    embeddings = scorer.embed(variables, scorer.test.images, label)
    values = retrieval(embeddings, scorer.test, protocol.recall_ks)
    if protocol.clustering:
        values |= metrics.clustering(embeddings, scorer.test.labels)
    if scorer.validation is not None:
        held_out = scorer.embed(variables, scorer.validation.images, f"{label}, held out")
        recall = retrieval(held_out, scorer.validation, (min(protocol.recall_ks),))[protocol.main_metric]
        values |= {f"{best.VALIDATION}/{protocol.main_metric}": recall}
    return values, embeddings


def retrieval(embeddings: np.ndarray, arrays: Arrays, ks: Sequence[int]) -> dict[str, float]:
    """`metrics.retrieval` of the embeddings (n, dim) of a split: of its queries in its gallery, where it has one."""
    if arrays.query is None:
        return metrics.retrieval(embeddings, arrays.labels, ks)
    queries, gallery = arrays.query, ~arrays.query
    return metrics.retrieval(
        embeddings[queries],
        arrays.labels[queries],
        ks,
        gallery=embeddings[gallery],
        gallery_labels=arrays.labels[gallery],
    )
