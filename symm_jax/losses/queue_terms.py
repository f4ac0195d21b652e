"""The queues of a config: what its losses keep of past steps. In training they are part of the state.

- "queue" of a batch loss, its cross-batch memory: an entry is an image, (embedding (dim,), label ()).
- MemVir, a synthesis of a proxy loss: an entry is a step, (embeddings (images, dim), labels (images,), proxies
  (classes, dim)).

Images are those of the whole batch, anchor and positive in turn. Embeddings and proxies are kept unnormalised, in
float32: a loss normalises them as it does those of its own step. A step is pushed after its loss, so the newest entries
are those of the step before.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from symm_jax import errors, queues, similarity
from symm_jax.losses import adapters, proxy_terms
from symm_jax.queues import Queue
from symm_jax.synthesis import MemVir


class Term(NamedTuple):
    """The queue of one loss of a config."""

    size: int  # entries
    warm_up: int  # the first steps that are not kept
    of_steps: bool  # whether an entry is a step, or an image


def find(spec: Mapping[str, Any]) -> Term | None:
    """The queue of a loss of a config; None for a loss without one. Raises InputError for sizes that are wrong."""
    synthesis = spec.get("synthesis")
    synthesis = {"name": synthesis} if isinstance(synthesis, str) else synthesis or {}
    if synthesis.get("name") == "memvir":
        steps, gap = (_integer(synthesis, name, MemVir._field_defaults[name]) for name in ("steps", "gap"))
        return Term(steps * (gap + 1), _integer(synthesis, "warm_up", 0), of_steps=True)
    if spec.get("queue"):
        return Term(_integer(spec, "queue", 0), _integer(spec, "warm_up", 0), of_steps=False)
    if "warm_up" in spec:
        raise errors.InputError(f"{spec['name']!r} has a warm_up but no queue; give queue, a number", argument="losses")
    return None


def create_queues(specs: Sequence[Mapping[str, Any]], *, classes: int, dim: int, images: int) -> dict[str, Queue]:
    """The empty queues of the losses that a config names.

    Args:
      specs: as in `from_config`.
      classes: number of training classes.
      dim: embedding dimension.
      images: images in a batch of all devices.

    Returns:
      The argument `queues` of the loss that `from_config` returns: one queue per loss that keeps something, see the top
      of this module. {} without such losses.

    Example:
      >>> specs = ({"name": "npair"}, {"name": "contrastive", "queue": 512})
      >>> embeddings, labels = create_queues(specs, classes=98, dim=64, images=128)["contrastive"].entries
      >>> print(embeddings.shape, labels.shape)
      (512, 64) (512,)
    """
    created = {}
    for title, term in _terms(specs):
        leading = (images,) if term.of_steps else ()
        entry = (jax.ShapeDtypeStruct((*leading, dim), "float32"), jax.ShapeDtypeStruct(leading, "int32"))
        if term.of_steps:
            entry += (jax.ShapeDtypeStruct((classes, dim), "float32"),)
        created[title] = queues.create(entry, term.size)
    return created


def push_queues(specs: Sequence[Mapping[str, Any]]) -> Callable[..., dict[str, Queue]]:
    """Creates the function that pushes a step on the queues of a config.

    Args:
      specs: as in `from_config`.

    Returns:
      push(queues, anchor, positive, labels, proxies, axis_name=None) -> queues. Call it once per step, with the
      embeddings of the step, and with the proxies before its update. Gradients do not pass.
    """
    terms = _terms(specs)

    def push(kept, anchor, positive, labels, proxies, axis_name=None):
        if not terms:
            return kept
        images = similarity.gather(adapters.take_images(anchor, positive, labels), axis_name)
        pushed = {}
        for title, term in terms:
            new = jax.tree.map(lambda x: x[None], (*images, proxies[title])) if term.of_steps else images
            pushed[title] = queues.push(kept[title], new, warm_up=term.warm_up)
        return pushed

    return push


def _terms(specs: Sequence[Mapping[str, Any]]) -> list[tuple[str, Term]]:
    """(title, queue) of the losses that have a queue."""
    found = [(title, find(spec)) for title, spec in proxy_terms.with_titles(specs)]
    return [(title, term) for title, term in found if term is not None]


def _integer(options: Mapping[str, Any], name: str, default: int) -> int:
    """An option that counts; warm_up and gap may be 0."""
    value, least = options.get(name, default), 0 if name in ("warm_up", "gap") else 1
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        fact = f"{name} of {options['name']!r} must be an integer, {least} or more; got {value!r}"
        raise errors.InputError(fact, argument="losses")
    return value
