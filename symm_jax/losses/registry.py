"""Losses by name, for configs. This page is the contract of a loss.

A loss is a pure function

    def my_loss(anchor, positive, labels, *, margin=0.1, axis_name=None): ...

- `anchor` and `positive` are (n, dim) floating, `labels` is (n,) integer. Row i of anchor and positive are two images
  of the class labels[i]. Rows of equal labels are of one class.
- A batch loss takes (embeddings, labels) instead: `embeddings` (n, dim), with any number of images per class. Training
  gives it the images of the pairs, anchor and positive in turn, or with `config.data.images_per_class` 1 any images.
- All other arguments are options: keyword-only, each with a default. A config sets options by their names.
- The result is a floating scalar, finite, with finite gradients: the mean over the rows.
- `axis_name` (default None) is the name of the mapped axis that splits the batch over devices. Rows are then those of
  this device. The loss compares them with the columns of all devices, which
  `symm_jax.similarity.gather((positive, labels), axis_name)` returns, or for a batch loss that of (embeddings, labels).
  The mean of the value over the devices, and the mean of its gradients, must be those of the whole batch on one device.
- `key` is an option of a loss that is random. Training sets it to another PRNG key in every step and for every loss.
- `queue` is an option of a batch loss that is compared with past steps: a `symm_jax.queues.Queue` of (embeddings (size,
  dim), labels (size,)), or None. Training sets it, if the config of the loss has "queue".

A loss may take a synthesis. Training then gives a batch loss the pairs: `embeddings` (n, 2, dim) and `labels` (n,).
The loss has three more options:

- `synthesis` (default None): (anchor, positive) -> coefficients (n, points, 2). See symm_jax/synthesis/plane.py.
- `candidates`: the kind of pairs of points to mine: "unordered", "ordered" or "product".
- `with_winners` (default False): return (value, winners). winners (points, points) is the fraction of each pair of
  points among the hardest negatives, and sums to 1. `from_config` logs it.

`register` checks all of this on a few rows and adds the loss to LOSSES.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax

from symm_jax import errors, signatures
from symm_jax.losses import adapters, contract, proxy_terms, queue_terms
from symm_jax.losses.angular import angular_loss
from symm_jax.losses.candidates import lookup_pairs, synthetic_share
from symm_jax.losses.circle import circle_loss
from symm_jax.losses.contrastive import contrastive_loss
from symm_jax.losses.init_proxies import PER_CLASS
from symm_jax.losses.lifted_structure import lifted_structure_loss
from symm_jax.losses.margin import margin_loss
from symm_jax.losses.multi_similarity import multi_similarity_loss
from symm_jax.losses.npair import npair_loss
from symm_jax.losses.ntxent import ntxent_loss
from symm_jax.losses.recall_at_k import recall_at_k_loss
from symm_jax.losses.smooth_ap import smooth_ap_loss
from symm_jax.losses.supcon import supcon_loss
from symm_jax.losses.triplet import triplet_loss
from symm_jax.queues import Queue
from symm_jax.synthesis import SYNTHESES, Synthesis
from symm_jax.synthesis.registry import makes_points

LOSSES: dict[str, Callable] = {
    "npair": npair_loss,
    "angular": angular_loss,
    "triplet": triplet_loss,
    "lifted_structure": lifted_structure_loss,
    "contrastive": contrastive_loss,
    "multi_similarity": multi_similarity_loss,
    "supcon": supcon_loss,
    "ntxent": ntxent_loss,
    "circle": circle_loss,
    "margin": margin_loss,
    "smooth_ap": smooth_ap_loss,
    "recall_at_k": recall_at_k_loss,
}

# Options that `from_config` sets itself.
_RESERVED = ("synthesis", "axis_name", "with_winners", "key", "queue")
# Options of a config that a loss does not take: they describe its proxies and its queue.
_OF_TRAINING = ("per_class", "queue", "warm_up")


def register(name: str, function: Callable) -> None:
    """Adds a loss to LOSSES, so that a config can name it: {"name": NAME, "weight": 0.5, "margin": 0.2}.

    Call this function in the config file or in a module that the config file imports. The check takes a few seconds.

    Args:
      name: the name in configs.
      function: the loss. The contract is at the top of this module.

    Raises:
      ValueError: the name is taken, or the loss breaks the contract. The message names the loss and what to do.

    Example:
      >>> import jax.numpy as jnp
      >>> def cosine_loss(anchor, positive, labels, *, axis_name=None):  # it has no negatives: nothing to gather
      ...     norms = jnp.linalg.norm(anchor, axis=1) * jnp.linalg.norm(positive, axis=1)
      ...     return jnp.mean(1 - jnp.sum(anchor * positive, axis=1) / norms)
      >>> register("cosine", cosine_loss)
      >>> del LOSSES["cosine"]
    """
    signatures.register("loss", name, function, LOSSES, contract.check)


def from_config(specs: Sequence[Mapping[str, Any]]) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """Creates the weighted sum of the losses that a config names.

    Args:
      specs: mappings with "name" (a key of LOSSES or PROXY_LOSSES) and the loss's own options. Optional are "weight"
        (default 1) and "synthesis": a key of SYNTHESES, or a mapping with "name" and the synthesis's own options. ""
        or None: no synthesis. Some proxy losses take "per_class", see `init_proxies`. Batch losses with the option
        `queue` take "queue", the number of images that they keep of earlier steps, and "warm_up", the number of first
        steps that are not kept (default 0).

    Returns:
      loss(anchor, positive, labels, axis_name=None, key=None, proxies={}, queues={}) -> (scalar, metrics). A random
      loss or synthesis needs the PRNG key.
      labels are (n,), one per pair. Proxy losses, and batch losses without a synthesis of points, also take (n, 2), one
      per image: the rows need not be pairs then.
      For each loss with a synthesis of points, metrics holds "NAME/synthetic_share" (see `synthetic_share`), and for
      each candidate pair of points (k, l) "NAME/winner_k_l", its fraction among the hardest negatives. Points are
      numbered as the synthesis returns them: the anchor is 0 and the positive 1. A second loss of one name is logged
      with its position in `specs`, as in "npair_2".
      Proxy losses need `proxies`, from `create_proxies`. They get the images of the rows in turn, (2 n, dim), and
      labels from 0 to classes - 1.
      Losses that keep something of earlier steps need `queues`, from `create_queues`. `push_queues` adds a step to
      them.

    Raises:
      InputError: no losses, an unknown name or option, or a wrong value. The message suggests the closest known name.
    """
    if not specs:
        raise errors.InputError("it is empty; name at least one loss, such as dict(name='npair')", argument="losses")
    if not isinstance(specs, (tuple, list)) or not all(isinstance(spec, Mapping) for spec in specs):
        raise errors.InputError(
            f"it must be a tuple of mappings, such as ({{'name': 'npair'}},); got {specs!r}", argument="losses"
        )
    terms = [_create_term(title, spec) for title, spec in proxy_terms.with_titles(specs)]
    logged = [term.name if term.candidates else "" for term in terms]
    titles = [name if name not in logged[:i] else f"{name}_{i + 1}" for i, name in enumerate(logged)]

    def loss(anchor, positive, labels, axis_name=None, key=None, proxies=None, queues=None):
        given = _Given(axis_name, key, proxies or {}, queues or {})
        total: Any = 0.0
        metrics = {}
        earlier = 0  # random terms. The first has the key of the step itself, and folds in the numbers of rows
        for title, term in zip(titles, terms, strict=True):
            own = given
            if term.is_random and earlier and key is not None:
                own = given._replace(key=jax.random.fold_in(key, 2**32 - earlier))
            earlier += term.is_random
            value = term.function(anchor, positive, labels, own)
            if term.candidates:
                value, winners = value
                metrics |= _describe_winners(title, winners, term.candidates)
            total += term.weight * value
        return total, metrics

    return loss


def find_synthesis(specs: Sequence[Mapping[str, Any]]) -> Synthesis | None:
    """Returns the synthesis of the first loss in a config that has one of points, for figures."""
    found = [_create_synthesis(spec["synthesis"]) for spec in specs if spec.get("synthesis")]
    return next((synthesis for synthesis in found if synthesis and makes_points(synthesis.func)), None)


class _Given(NamedTuple):
    """What a step gives to its losses, besides the batch."""

    axis_name: str | None
    key: jax.Array | None
    proxies: Mapping[str, Any]
    queues: Mapping[str, Any]


class _Term(NamedTuple):
    """One loss of a config, with its options."""

    name: str
    weight: float
    function: Callable[..., Any]  # (anchor, positive, labels, given) -> value; with `candidates`, (value, winners)
    candidates: str  # with a synthesis of points, the kind of pairs of points; else ""
    is_random: bool  # whether it needs a key: no two such terms of a step have the same


def _describe_winners(name: str, winners: jax.Array, candidates: str) -> dict[str, jax.Array]:
    pairs = lookup_pairs(candidates, len(winners))
    share = synthetic_share(winners)
    return {f"{name}/synthetic_share": share} | {f"{name}/winner_{k}_{l}": winners[k, l] for k, l in pairs}


def _create_term(title: str, spec: Mapping[str, Any]) -> _Term:
    """Returns the loss of a spec. Its `title` is the key of its proxies and its queue."""
    options = dict(spec)
    name = options.pop("name", "")
    if not name:
        raise errors.InputError(f"{dict(spec)} has no name; give one of {', '.join(LOSSES)}", argument="losses")
    function = errors.lookup("loss", name, LOSSES | proxy_terms.PROXY_LOSSES, argument="losses")
    parameters = inspect.signature(function).parameters
    _check_options(repr(name), function, options, _list_config_options(name, function))
    weight = _pop_weight(name, options)
    synthesis = _create_synthesis(options.pop("synthesis", None))
    candidates = ""
    if synthesis and makes_points(synthesis.func) and "candidates" in parameters:
        candidates = options.get("candidates", parameters["candidates"].default)
        options |= {"candidates": candidates, "with_winners": True}
    queue = queue_terms.find(spec)
    has_proxies, takes_batch = proxy_terms.has_proxies(spec), adapters.takes_batch(function)
    function = functools.partial(
        adapters.on_pairs(function) if takes_batch else function,
        **{key: value for key, value in options.items() if key not in _OF_TRAINING},
    )

    loss_draws, synthesis_draws = "key" in parameters, bool(synthesis and _needs_key(synthesis.func))

    def term(anchor, positive, labels, given):
        loss_key = synthesis_key = given.key
        if loss_draws and synthesis_draws and given.key is not None:
            loss_key, synthesis_key = jax.random.split(given.key)
        own = {"axis_name": given.axis_name} | ({"key": loss_key} if loss_draws else {})
        kept = _find(given.queues, title, "queues") if queue else None
        if synthesis:
            own["synthesis"] = _complete(synthesis, synthesis_key, kept)
        if queue and not queue.of_steps:
            own["queue"] = kept
        if has_proxies:
            proxies = _find(given.proxies, title, "proxies")
            return function(*adapters.take_images(anchor, positive, labels), proxies, **own)
        return function(anchor, positive, labels, **own)

    _check_values(title, spec, term)
    return _Term(name, weight, term, candidates, loss_draws or synthesis_draws)


def _find(given: Mapping[str, Any], title: str, argument: str) -> Any:
    """What a term needs of the argument `proxies` or `queues`."""
    if title not in given:
        raise errors.InputError(
            f"the loss needs {argument}[{title!r}]; create {argument} with create_{argument}, of the same losses",
            argument="losses",
        )
    return given[title]


def _check_values(title: str, spec: Mapping[str, Any], term: Callable) -> None:
    """Raises InputError for wrong values of options. Shapes are enough to find them, before any work."""
    name = spec["name"]

    def run(embeddings, labels):
        key = jax.random.key(0)
        proxies = proxy_terms.create_proxies([spec], key, classes=2, dim=2).get(name)
        queue = queue_terms.create_queues([spec], classes=2, dim=2, images=4).get(name)
        return term(embeddings, embeddings, labels, _Given(None, key, {title: proxies}, {title: queue}))

    try:
        jax.eval_shape(run, jax.ShapeDtypeStruct((2, 2), "float32"), jax.ShapeDtypeStruct((2,), "int32"))
    except errors.InputError:
        raise
    except (TypeError, ValueError) as error:
        options = {key: value for key, value in spec.items() if key not in ("name", "weight")}
        raise errors.InputError(f"{name!r} with {options}: {error}", argument="losses") from error


def _pop_weight(name: str, options: dict[str, Any]) -> float:
    weight = options.pop("weight", 1.0)
    if isinstance(weight, bool) or not (isinstance(weight, (int, float)) and 0 <= weight < float("inf")):
        raise errors.InputError(f"weight of {name!r} must be a finite number >= 0, got {weight!r}", argument="losses")
    return weight


def _create_synthesis(spec: str | Mapping[str, Any] | None) -> functools.partial | None:
    """A synthesis with its options. One that is not of points still lacks its key or its queue: see `_complete`."""
    if not spec:
        return None
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("name", "")
    function = errors.lookup("synthesis", name, SYNTHESES, argument="losses")
    of_queue = ["warm_up"] if "queue" in getattr(function, "_fields", ()) else []
    _check_options(f"synthesis {name!r}", function, options, _list_options(function) + of_queue)
    return functools.partial(function, **{key: value for key, value in options.items() if key not in of_queue})


def _complete(synthesis: functools.partial, key: jax.Array | None, queue: Queue | None) -> Any:
    """The synthesis of a step."""
    if makes_points(synthesis.func):
        return synthesis
    return synthesis(key if _needs_key(synthesis.func) else queue)


def _needs_key(synthesis: Callable) -> bool:
    """Whether a synthesis, as SYNTHESES has it, is completed by a key."""
    return not makes_points(synthesis) and cast(Any, synthesis)._fields[0] == "key"


def _list_config_options(name: str, function: Callable) -> list[str]:
    """The options of a loss that a config may set."""
    parameters = inspect.signature(function).parameters
    known = ["weight"] + (["synthesis"] if "synthesis" in parameters else [])
    known += ["queue", "warm_up"] if "queue" in parameters else []
    known += ["per_class"] if name in PER_CLASS else []
    # In a batch loss, `positives` is a mask.
    reserved = (*_RESERVED, "positives") if adapters.takes_batch(function) else _RESERVED
    return known + [key for key in _list_options(function) if key not in reserved]


def _list_options(function: Callable) -> list[str]:
    """The options of a loss or a synthesis: those by keyword, or for a NamedTuple the fields with a default."""
    parameters = inspect.signature(function).parameters.items()
    is_tuple = isinstance(function, type)
    return [name for name, p in parameters if p.kind is p.KEYWORD_ONLY or (is_tuple and p.default is not p.empty)]


def _check_options(what: str, function: Callable, options: Mapping[str, Any], known: Sequence[str]) -> None:
    parameters = inspect.signature(function).parameters
    for key, value in options.items():
        if key not in known:
            raise errors.InputError(
                f"{what} has no option {key!r}{errors.suggest(key, known)}; options: {', '.join(known)}",
                argument="losses",
            )
        own = key in parameters and key not in _RESERVED
        if own and (fault := signatures.option_fault(value, parameters[key])):
            raise errors.InputError(f"{key} of {what} {fault}", argument="losses")
