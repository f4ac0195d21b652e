"""A trained network, or a pretrained backbone alone, as a function from pictures to embeddings of unit length."""

import collections
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from symm_jax import errors, models
from symm_jax.data import arrays, datasets, decode
from symm_jax.data.tree import as_text
from symm_jax.errors import InputError
from symm_jax.models.embed import create_embed, embed_batches, total_batch_size
from symm_jax.run import best, checkpoints, config_json, digests, paths
from symm_jax.search import decoding, images
from symm_jax.search.index import Index, from_text

BATCH_SIZE = 128


class Embedder:
    """Embeds pictures with all local devices, preprocessed as evaluation does. See `load` and `load_backbone`.

    Attributes:
      dim: numbers in an embedding.
      image_size: side in pixels of what the network sees.
      weights: which weights these are: where they come from, and "sha256", their digest.
      network: name, dimension, dtype and options of the network.
      preprocessing: how a picture becomes an input, in numbers and in words.
      model: the Linen module, uint8 images -> embeddings (n, dim), not of unit length.
      variables: its variables.
    """

    def __init__(
        self,
        model: nn.Module,
        variables: Mapping[str, Any],
        *,
        options: arrays.Options,
        batch_size: int,
        weights: Mapping[str, Any],
        network: Mapping[str, Any],
    ):
        """Prepares to embed.

        Args:
          model: the Linen module.
          variables: its variables.
          options: how images are decoded.
          batch_size: images that a device embeds at a time.
          weights: where the variables come from.
          network: what the module was created with; plain JSON types.
        """
        self.image_size = options.side
        image = jnp.zeros((1, self.image_size, self.image_size, 3), jnp.uint8)
        self.dim: int = jax.eval_shape(model.apply, variables, image).shape[-1]
        self.weights = {**weights, "sha256": digests.of_json({k: digests.of_leaves(x) for k, x in variables.items()})}
        self.network = dict(network)
        self.preprocessing = _describe(options)
        self._options, self._batch_size = options, batch_size
        self.model, self.variables = model, variables
        self._embed = create_embed(model)

    def embed(self, x: Any) -> np.ndarray:
        """Embeds images.

        Args:
          x: uint8 RGB arrays (n, height, width, 3) of any size, or a list of arrays (height, width, 3); or a list of
            paths of pictures; or the path of a folder, whose pictures are taken in the order of their paths.

        Returns:
          (n, dim) float32, each row of unit length.

        Raises:
          InputError: a picture is damaged or missing, there are none, or arrays have another shape or dtype.
        """
        if isinstance(x, (str, os.PathLike)):
            listing = images.list_pictures(to_path(x))
            if listing.faults:
                raise InputError(listing.faults[0])
            names = [picture.path for picture in listing.pictures]
            with listing.tree.opened() as read:
                sources = (images.source(listing, name, read) for name in names)
                found = self._embed_all(self._decoded(sources, len(names)), len(names))
            return found[sorted(range(len(names)), key=names.__getitem__)]
        if not hasattr(x, "ndim") and x and all(isinstance(item, (str, os.PathLike)) for item in x):
            sources = (decoding.Source(str(path), to_path(path)) for path in x)
            return self._embed_all(self._decoded(sources, len(x)), len(x))
        return self._embed_all(self._resized(x), len(x))

    def embed_squares(self, squares: Iterable[np.ndarray], count: int, total: int) -> Iterator[np.ndarray]:
        """The embeddings of decoded images, as they are finished. The next images are taken while the device works.

        Args:
          squares: (image_size, image_size, 3) uint8 each.
          count: an upper bound of their number, for the progress bar.
          total: the number of all images of this set, `count` or more. Batches have one size, which follows from it.

        Yields:
          (k, dim) float32, each row of unit length.
        """
        if not count:
            return
        size = total_batch_size(total, self._batch_size)
        batches = (np.stack(batch) for batch in decoding.batched(squares, size))
        hidden = count <= size  # there is one batch only
        with tqdm.tqdm(
            total=count, desc="embed", unit="image", leave=False, dynamic_ncols=True, disable=hidden
        ) as progress:
            for embeddings in embed_batches(self._embed, self.variables, batches, size):
                yield normalize(embeddings)
                progress.update(len(embeddings))

    def decode(self, sources: Iterable[decoding.Source], count: int) -> Iterator[decoding.Decoded]:
        """Decodes pictures ahead of the device: see `decoding.decode_ahead`."""
        ahead = 2 * total_batch_size(max(count, 1), self._batch_size)
        return decoding.decode_ahead(sources, count, self._options, ahead)

    def _embed_all(self, squares: Iterable[np.ndarray], count: int) -> np.ndarray:
        found = [*self.embed_squares(squares, count, count)]
        return np.concatenate(found) if found else np.zeros((0, self.dim), np.float32)

    def _decoded(self, sources: Iterable[decoding.Source], count: int) -> Iterator[np.ndarray]:
        for decoded in self.decode(sources, count):
            if decoded.pixels is None:
                raise InputError(decoded.fault)
            yield decoded.pixels

    def _resized(self, x: Sequence[Any]) -> Iterator[np.ndarray]:
        for image in x:
            image = np.asarray(image)
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
                raise InputError(
                    f"images must be uint8 RGB, (n, height, width, 3), got an image of {image.dtype} {image.shape}"
                )
            yield decode.resize_to_square(np.ascontiguousarray(image), self.image_size)


def load(workdir: str | os.PathLike, step: int | None = None) -> Embedder:
    """Loads the network of a run.

    Args:
      workdir: the run's folder.
      step: the step of a checkpoint. By default the best one, or the newest of a run that was not evaluated.

    Raises:
      InputError: there is no such checkpoint, or it cannot be used.
    """
    folder = to_path(workdir)
    holder, step = _choose(folder, step)
    config = config_json.read(folder)
    m = config.model
    model = models.create(m.name, dim=m.dim, dtype=m.dtype, param_dtype=m.param_dtype, **m.options)
    image_size = config.data.image_size
    shapes = jax.eval_shape(lambda key: models.init_variables(model, image_size, key), jax.random.key(0))
    return Embedder(
        model,
        checkpoints.restore(holder, step, **shapes),
        options=arrays.Options(image_size, orient=orients(config.data.name)),
        batch_size=config.eval_batch_size,
        weights={"workdir": as_text(str(folder)), "step": step},
        network={
            key: x for key, x in config_json.to_dict(config)["model"].items() if key not in ("pretrained", "mirrors")
        },
    )


def load_backbone(
    name: str,
    path: str | os.PathLike | None = None,
    *,
    image_size: int = 224,
    orient: bool = True,
    batch_size: int = BATCH_SIZE,
    **options: Any,
) -> Embedder:
    """Loads a backbone with pretrained weights, before any training. Its embedding is its pooled features.

    Args:
      name: a key of models.BACKBONES that has weights.
      path: the file of weights; None takes those of the installed package.
      image_size: side in pixels of what the network sees.
      orient: whether pictures are rotated by their EXIF orientation.
      batch_size: images that a device embeds at a time.
      **options: dtype, and fields of the backbone, as for models.create.

    Raises:
      InputError: there are no such weights.
    """
    file = models.PACKAGE if path is None else str(path)
    model = models.create(name, **options).backbone
    fields = {key: x if isinstance(x, (bool, int, float, str)) else str(x) for key, x in options.items()}
    try:
        train_batch_norm = bool(options.get("train_batch_norm", False))
        variables = models.load_pretrained(name, file, train_batch_norm=train_batch_norm)
    except InputError as error:
        raise InputError(error.fact, argument="backbone") from error
    return Embedder(
        model,
        variables,
        options=arrays.Options(image_size, orient=orient),
        batch_size=batch_size,
        weights={"pretrained": name, "file": as_text(str(models.find_weights(name, file).resolve()))},
        network={"name": name, "backbone_alone": True, **fields},
    )


def load_for(index: Index, workdir: str | os.PathLike | None = None) -> Embedder:
    """Loads the network whose embeddings are in an index.

    Args:
      index: the index.
      workdir: the folder of the run, where it has moved. By default the one that the index names.

    Raises:
      InputError: the weights are not there, or are not those of the index.
    """
    weights, network = index.about["weights"], index.about["network"]
    if "pretrained" in weights and workdir is not None:
        raise InputError(
            f"{index.folder} has embeddings of the pretrained {weights['pretrained']} alone. Leave --workdir out.",
            argument="workdir",
        )
    if "pretrained" in weights:
        preprocessing = index.about["preprocessing"]
        found = load_backbone(
            weights["pretrained"],
            from_text(weights["file"]),
            image_size=preprocessing["image_size"],
            orient=preprocessing["orient"],
            **{key: x for key, x in network.items() if key not in ("name", "backbone_alone")},
        )
    else:
        named = to_path(from_text(weights.get("workdir", "")))
        if workdir is None and not named.is_dir():
            raise InputError(
                f"{index.folder} names the run {named}, which is not there. If it has moved: --workdir=FOLDER.",
                argument="index",
            )
        found = load(named if workdir is None else workdir, weights.get("step"))
    if found.weights["sha256"] != weights["sha256"]:
        raise InputError(
            f"{index.folder} has embeddings of other weights:\n  index  {describe_weights(weights)}\n"
            f"  here   {describe_weights(found.weights)}\n"
            "Pass the run that it was made with: --workdir=FOLDER. Or embed the pictures again into another folder: "
            "--mode=embed.",
            argument="index",
        )
    return found


def describe_weights(weights: Mapping[str, Any]) -> str:
    """Where weights come from, and their digest, for a message."""
    what = ", ".join(f"{key} {value}" for key, value in weights.items() if key != "sha256")
    return f"{what}, SHA-256 {weights.get('sha256')}"


def orients(dataset: str) -> bool:
    """Whether evaluation rotates the pictures of a data set by their EXIF orientation."""
    return getattr(datasets.BUILDERS.get(dataset), "ORIENT", True)


def normalize(embeddings: np.ndarray) -> np.ndarray:
    """Divides the rows (n, dim) by their norms. A row of zeros stays."""
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(norms, np.finfo(np.float32).tiny)


def to_path(path: str | os.PathLike) -> Path:
    """The absolute path of a file or folder that a user names."""
    return Path(path).expanduser().resolve()


def _choose(workdir: Path, step: int | None) -> tuple[Path, int]:
    """The folder that holds a checkpoint, `workdir` or its best/, and its step."""
    held = collections.ChainMap(
        dict.fromkeys(checkpoints.steps(workdir), workdir),
        dict.fromkeys(checkpoints.steps(paths.best(workdir)), paths.best(workdir)),
    )
    if not held:
        raise InputError(
            f"{workdir} holds no checkpoints. Train first, or pass the folder of a run.", argument="workdir"
        )
    chosen = max(held) if step is None else step
    if step is None and (choice := best.read(workdir)):
        chosen = int(choice["step"])
    elif step is None and len(held) > 1:
        errors.warn(
            f"{workdir} was not evaluated, so its best checkpoint is not known. Step {chosen}, the newest, is used. "
            "To evaluate: --mode=eval"
        )
    if chosen not in held:
        steps = ", ".join(map(str, sorted(held)))
        raise InputError(f"{workdir} holds no checkpoint of step {chosen}. Its steps: {steps}.", argument="step")
    return held[chosen], chosen


def _describe(options: arrays.Options) -> dict[str, Any]:
    rotated = "rotated by the EXIF orientation" if options.orient else "not rotated by the EXIF orientation"
    return {
        "image_size": options.side,
        "orient": options.orient,
        "in_words": f"The whole picture as 8-bit RGB, {rotated}, resized to {options.side} x {options.side} pixels "
        "(mean of the area that a pixel covers; the aspect ratio is not kept), 0 to 255 as uint8. The network "
        "normalises its input. The embedding is divided by its Euclidean norm.",
    }
