"""The recipe of a run: what a config says, as pure functions and numbers."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections
import optax

from symm_jax import losses, models, optim
from symm_jax.data import augment, datasets
from symm_jax.losses.proxy_terms import has_proxies
from symm_jax.queues import Queue
from symm_jax.run import config_fields, config_json


class Pretrained(NamedTuple):
    """Pretrained weights. path: a file, "package", or "" for none; the others are arguments of `load_pretrained`."""

    model: str
    path: str
    train_batch_norm: bool


class Recipe(NamedTuple):
    """The pure parts of a training step.

    model: the network.
    image_size: side in pixels of what the network sees.
    loss: (anchor, positive, labels, axis_name, key) -> (scalar, metrics); `proxies` and `queues` are keywords, for
      losses that have them. labels are (n,), or (n, 2) of shuffled epochs.
    optimizer: the Optax chain.
    learning_rate: the schedule in it, step -> learning rate.
    augment: (keys, images, short_side_ratio) -> augmented images.
    weight_penalty: factor of the L2 regularisation.
    key: PRNG key of everything random.
    create_proxies: (key, classes) -> the first params["proxies"]; {} without proxy losses.
    micro_batch: images per device that the network sees at a time; 0: all.
    create_queues: classes -> the first State.queues; {} for losses without queues.
    push_queues: (queues, anchor, positive, labels, proxies, axis_name) -> queues with this step.
    """

    model: nn.Module
    image_size: int
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    augment: Callable[..., jax.Array]
    weight_penalty: float
    key: jax.Array
    create_proxies: Callable[[jax.Array, int], dict[str, jax.Array]] = lambda key, classes: {}
    micro_batch: int = 0
    create_queues: Callable[[int], dict[str, Queue]] = lambda classes: {}
    push_queues: Callable[..., dict[str, Queue]] = losses.push_queues(())


class Plan(NamedTuple):
    """A run: its recipe, its data, and its length.

    recipe: the pure parts of its step.
    config: the whole config as plain JSON types, to be stored with the run.
    source: the data set.
    recall_ks: what evaluation will measure, checked before training.
    pretrained: the weights to start from.
    stored_side: side in pixels at which training images are stored.
    on_device: where the training images are, one of `batches.ON_DEVICE`.
    batch_size: images in a batch, two per pair.
    images_per_class: images of each class in a batch; 1: batches of shuffled epochs.
    num_steps: updates in all.
    checkpoint_every: updates between checkpoints.
    log_every: updates between lines of metrics.
    keep_checkpoints: number of newest checkpoints to keep; 0 keeps all.
    seed: the seed of the recipe's key.
    """

    recipe: Recipe
    config: dict[str, Any]
    source: datasets.Source
    recall_ks: tuple[int, ...]
    pretrained: Pretrained
    stored_side: int
    on_device: str
    batch_size: int
    images_per_class: int
    num_steps: int
    checkpoint_every: int
    log_every: int
    keep_checkpoints: int
    seed: int

    @property
    def num_pairs(self) -> int:
        """Pairs in a batch."""
        return self.batch_size // 2


def create_recipe(config: ml_collections.ConfigDict) -> Recipe:
    """The recipe of a config. Raises InputError for fields, names and options that are unknown or of another type."""
    config_fields.check(config)
    o, m = config.optimizer, config.model
    schedule = optim.staircase_schedule(
        o.learning_rate, o.decay_rate, o.decay_every, o.stop_step, o.final_learning_rate
    )
    return Recipe(
        model=models.create(m.name, dim=m.dim, dtype=m.dtype, param_dtype=m.param_dtype, **m.options),
        image_size=config.data.image_size,
        loss=losses.from_config(config.losses),
        optimizer=optim.create(
            schedule,
            b1=o.b1,
            b2=o.b2,
            eps=o.eps,
            embedding_gradient_scale=o.embedding_gradient_scale,
            clip_norm=o.clip_norm,
            backbone_rate=o.backbone_rate,
            proxy_rate=o.proxy_rate if any(map(has_proxies, config.losses)) else 1.0,
        ),
        learning_rate=schedule,
        augment=functools.partial(augment.augment, image_size=config.data.image_size, **config.augment),
        weight_penalty=o.weight_penalty,
        key=jax.random.key(config.seed),
        create_proxies=lambda key, classes: losses.create_proxies(config.losses, key, classes, m.dim),
        micro_batch=config.micro_batch,
        create_queues=lambda classes: losses.create_queues(
            config.losses, classes=classes, dim=m.dim, images=config.batch_size
        ),
        push_queues=losses.push_queues(config.losses),
    )


def create_plan(config: ml_collections.ConfigDict) -> Plan:
    """Unpacks a config. Raises InputError as `create_recipe`."""
    m, a = config.model, config.augment
    return Plan(
        recipe=create_recipe(config),
        config=config_json.to_dict(config),
        source=datasets.Source.from_section(config.data),
        recall_ks=tuple(config.recall_ks),
        pretrained=Pretrained(m.name, m.pretrained, bool(m.options.get("train_batch_norm", False))),
        stored_side=augment.stored_side(config.data.image_size, enlarge=a.enlarge, max_margin=a.max_margin),
        on_device=config.data.on_device,
        batch_size=config.batch_size,
        images_per_class=config.data.images_per_class,
        num_steps=config.num_steps,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
        keep_checkpoints=config.keep_checkpoints,
        seed=config.seed,
    )
