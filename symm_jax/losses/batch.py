"""The checked arguments of a batch loss: what is compared, and who is who."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from symm_jax import dtypes, queues, similarity
from symm_jax.losses import mining, pair_loss
from symm_jax.losses.candidates import Rule
from symm_jax.losses.mining import PairPoints
from symm_jax.queues import Queue
from symm_jax.synthesis import Metrix, SiMix, Synthesis, mixtures
from symm_jax.synthesis.mixtures import MixedRows, Mixture

Embeddings = Float[ArrayLike, "n dim"] | Float[ArrayLike, "n 2 dim"]
Labels = Integer[ArrayLike, " n"] | None
Positives = Bool[ArrayLike, "n columns"] | None
Loss = Float[Array, ""]
Winners = Float[Array, "points points"]


class Images(NamedTuple):
    """Embeddings (n, dim), and |x|^2 / 2 (n,)."""

    embeddings: jax.Array
    half_square: jax.Array


class Ids(NamedTuple):
    """Integers (n,): labels, and positions in the whole batch. Rows also have what is theirs alone."""

    label: jax.Array
    position: jax.Array
    positives: jax.Array | None = None  # (n, N) bool
    keys: jax.Array | None = None  # (n, ...) key data
    winners: jax.Array | None = None  # (n, N) uint8, if the values are stored
    shares: jax.Array | None = None  # (n, 2), see MixedRows


class Past(NamedTuple):
    """The images of a queue. No gradient passes through them."""

    images: Images
    label: jax.Array  # (size,)
    exists: jax.Array  # (size,) bool; places that were never written do not count


class Batch(NamedTuple):
    """The checked arguments of a batch loss."""

    items: Images | PairPoints
    ids: Ids
    past: Past | None
    mixed: MixedRows | None
    own: jax.Array | None  # (n,), the value of each pair with itself; None for images
    rule: Rule
    with_winners: bool
    block_size: int | None
    axis_name: str | None


def prepare(
    embeddings: ArrayLike,
    labels: ArrayLike | None,
    *,
    positives: ArrayLike | None,
    synthesis: Synthesis | Mixture | None,
    queue: Queue | None,
    l2_normalize: bool,
    candidates: str,
    with_winners: bool,
    block_size: int | None,
    axis_name: str | None,
    distance: bool = False,
    weighted: bool = False,
) -> Batch:
    """Checks the arguments of a batch loss, and applies its synthesis.

    `distance` makes values closenesses -|x - y|^2 / 2. `weighted` says that the loss takes Metrix: its formulas work
    with weights instead of masks.

    Raises:
      ValueError: shapes, dtypes or options do not fit.
    """
    mixture = synthesis if isinstance(synthesis, Mixture) else None
    plane = None if isinstance(synthesis, Mixture) else synthesis
    pair_loss.check_options(plane, l2_normalize, with_winners, block_size)
    _check_mixture(mixture, positives, weighted)
    x = dtypes.to_device(embeddings, "embeddings")
    _check_embeddings(x, plane)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if l2_normalize:
        x = similarity.normalize(x)
    ids = _number_items(len(x), labels, positives, axis_name)
    past = None if queue is None else _read_queue(queue, x, positives, plane, l2_normalize)
    if plane is not None:
        points = mining.create_points(x[:, 0], x[:, 1], plane)
        pairs = pair_loss.lookup_pairs(candidates, points.products.shape[1])
        own = -0.5 * pair_loss.squared_distance(points) if distance else points.products[:, 0, 1]
        return Batch(points, ids, None, None, own, Rule(pairs, distance=distance), with_winners, block_size, axis_name)
    if x.ndim == 3:
        x, ids = _split_pairs(x, ids)
    mixed = None
    if isinstance(mixture, SiMix):  # each image and its virtual image are next to each other, on any number of devices
        virtual, alone = mixtures.create_virtual(mixture, x, ids.label, ids.position, axis_name)
        x, ids = _split_pairs(jnp.stack([x, virtual], axis=1), ids)
        copied = jnp.repeat(alone, 2)  # at one position, so that an image and its copy are not compared
        ids = ids._replace(position=jnp.where(copied, ids.position // 2 * 2, ids.position))
    elif mixture is not None:
        mixed = mixtures.draw_mixed_rows(mixture, x, ids.label, ids.position, axis_name, distance=distance)
    half_square = 0.5 * jnp.sum(x * x, axis=1)
    constant = l2_normalize and not isinstance(mixture, SiMix)
    items = Images(x, jax.lax.stop_gradient(half_square) if constant else half_square)
    pair_loss.lookup_pairs(candidates, 2)
    return Batch(items, ids, past, mixed, None, Rule((), distance=distance), with_winners, block_size, axis_name)


def _read_queue(queue: Any, x: jax.Array, positives: Any, plane: Any, l2_normalize: bool) -> Past:
    if plane is not None:
        raise ValueError(
            "a queue holds images, not pairs, so it does not go with points in the plane of a pair: leave out queue, "
            "or the synthesis"
        )
    if positives is not None:
        raise ValueError("positives say nothing about the images of a queue; give labels (n,) with a queue")
    if not isinstance(queue, Queue) or not isinstance(queue.entries, (tuple, list)) or len(queue.entries) != 2:
        raise ValueError(
            "queue must be a symm_jax.queues.Queue with the entries (embeddings (size, dim), labels (size,)); got "
            f"{jax.tree.map(jnp.shape, queue.entries) if isinstance(queue, Queue) else type(queue).__name__}"
        )
    embeddings, labels = (jax.lax.stop_gradient(dtypes.to_device(entry, "entries of queue")) for entry in queue.entries)
    size, dim = len(labels) if labels.ndim else 0, x.shape[-1]
    if embeddings.shape != (size, dim) or labels.shape != (size,) or not size:
        raise ValueError(
            f"the entries of queue must be embeddings (size, {dim}) and labels (size,), not empty, for embeddings "
            f"{x.shape}; got {embeddings.shape} and {labels.shape}"
        )
    if not jnp.issubdtype(embeddings.dtype, jnp.floating) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            "the entries of queue must be floating embeddings and integer labels; got "
            f"{embeddings.dtype} and {labels.dtype}"
        )
    embeddings = embeddings.astype(x.dtype)
    if l2_normalize:
        embeddings = similarity.normalize(embeddings)
    images = Images(embeddings, 0.5 * jnp.sum(embeddings * embeddings, axis=1))
    return Past(images, labels, queues.ages(queue) >= 0)


def _number_items(n: int, labels: Any, positives: Any, axis_name: str | None) -> Ids:
    first = 0 if axis_name is None else n * jax.lax.axis_index(axis_name)
    position = first + jnp.arange(n)
    if (labels is None) == (positives is None):
        raise ValueError("give either labels (n,), or labels=None and positives (n, n), the mask of the positives")
    if positives is None:
        labels = dtypes.to_device(labels, "labels")
        _check_labels(labels, n)
        return Ids(dtypes.widen(labels), position)
    _check_positives(positives, n, axis_name)
    return Ids(position, position, jnp.asarray(positives))


def _split_pairs(pairs: jax.Array, ids: Ids) -> tuple[jax.Array, Ids]:
    """The images of pairs (n, 2, dim), as (2 n, dim), and their ids."""
    x = pairs.reshape(2 * len(pairs), -1)
    position = jnp.stack([2 * ids.position, 2 * ids.position + 1], axis=1).reshape(-1)
    if ids.positives is None:
        return x, Ids(jnp.repeat(ids.label, 2), position)
    itself = ids.position[:, None] == jnp.arange(ids.positives.shape[1])[None, :]
    return x, Ids(position, position, jnp.repeat(jnp.repeat(ids.positives | itself, 2, axis=0), 2, axis=1))


def _check_mixture(mixture: Mixture | None, positives: Any, weighted: bool) -> None:
    if mixture is None:
        return
    name = type(mixture).__name__
    dtypes.require_key(mixture.key, name)
    if positives is not None:
        raise ValueError(f"{name} mixes images of one class, so it needs labels instead of positives")
    if isinstance(mixture, Metrix):
        if not weighted:
            pair_loss.refuse(mixture)
        pair_loss.check_number("alpha", mixture.alpha, above=0)
        pair_loss.check_number("positive_weight", mixture.positive_weight)
        pair_loss.check_number("anchor_weight", mixture.anchor_weight)


def _check_embeddings(x: jax.Array, plane: Synthesis | None) -> None:
    if not x.size or not (x.ndim == 2 or (x.ndim == 3 and x.shape[1] == 2)):
        raise ValueError(f"embeddings must be (n, dim), or (n, 2, dim) for pairs, and not empty; got {x.shape}")
    if plane is not None and x.ndim == 2:
        raise ValueError(
            "a synthesis of points needs pairs: embeddings (n, 2, dim), the anchor and the positive of each pair, with "
            f"labels (n,); got {x.shape}"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"embeddings must have a floating dtype, got {x.dtype}")


def _check_labels(labels: jax.Array, n: int) -> None:
    if labels.shape != (n,):
        raise ValueError(f"labels must be (n,) = ({n},), one per image, or per pair; got {labels.shape}")
    pair_loss.check_integers(labels)


def _check_positives(positives: Any, n: int, axis_name: str | None) -> None:
    columns = n if axis_name is None else n * jax.lax.axis_size(axis_name)
    shape, dtype = getattr(positives, "shape", None), getattr(positives, "dtype", None)
    if shape != (n, columns) or dtype not in (bool, jnp.bool_):
        raise ValueError(
            f"positives must be ({n}, {columns}) bool, rows of this device against the whole batch; got "
            f"{shape or type(positives).__name__} {dtype or ''}".rstrip()
        )
    if axis_name is None and not isinstance(positives, Tracer):
        positives = np.asarray(positives)
        rows, others = np.nonzero(positives != positives.T)
        if len(rows):
            raise ValueError(
                f"positives must be symmetric; {len(rows)} entries are not, such as ({rows[0]}, {others[0]}): "
                f"{bool(positives[rows[0], others[0]])} and {bool(positives[others[0], rows[0]])}"
            )
