"""Downloads what a run needs and does not have: the data set and the pretrained weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import ml_collections

from symm_jax import models
from symm_jax.app import fields
from symm_jax.data import datasets, download, published, sources
from symm_jax.errors import InputError
from symm_jax.run import checkpoints


class Missing(NamedTuple):
    """A file to download, and the folder for it. `argument` is the argument that can give other URLs."""

    remote: sources.Remote
    folder: Path
    argument: str


def fetch_missing(runs: Mapping[Path, ml_collections.ConfigDict]) -> None:
    """Downloads the data sets and weights of runs, {workdir: config}, where they are missing.

    Prints first what is downloaded, how large it is and to which folder. A run with checkpoints needs no weights.

    Raises:
      InputError: something cannot be downloaded. One message names everything that is missing and what to do.
    """
    missing: dict[Missing, None] = {}
    faults: dict[str, None] = {}  # in order, each once
    for workdir, config in runs.items():
        source = datasets.Source.from_section(config.data)
        folder = datasets.to_path(source.dir)
        found = [Missing(remote, folder, "mirrors") for remote in published.remotes_to_fetch(source)]
        if not found and (absence := published.absence(source)):
            faults[fields.describe(absence)] = None
        if not checkpoints.steps(workdir):
            try:
                found += _missing_weights(config.model.name, config.model.pretrained, tuple(config.model.mirrors))
            except InputError as error:
                faults[fields.describe(error)] = None
        missing |= dict.fromkeys(found)
    for file in missing:
        _announce(file)
    for file in missing:
        try:
            published.fetch_remote(file.remote, file.folder, argument=file.argument)
        except InputError as error:
            faults[fields.describe(error)] = None
    if faults:
        raise InputError("\n\n".join(faults))


def fetch_weights(config: ml_collections.ConfigDict) -> None:
    """Downloads the pretrained weights of a config where they are missing, as `fetch_missing` does.

    Raises:
      InputError: they cannot be downloaded.
    """
    for file in _missing_weights(config.model.name, config.model.pretrained, tuple(config.model.mirrors)):
        _announce(file)
        published.fetch_remote(file.remote, file.folder, argument=file.argument)


def _announce(file: Missing) -> None:
    size = "size not published" if file.remote.size is None else download.human_size(file.remote.size)
    print(f"missing   {file.remote.name} ({size}), to be downloaded to {file.folder}", flush=True)


def _missing_weights(model: str, pretrained: str, mirrors: tuple[str, ...]) -> list[Missing]:
    """The file of pretrained weights to download, if any.

    Raises:
      InputError: there is no such file, and none of its name can be downloaded; or a package is not installed.
    """
    if pretrained == models.PACKAGE:
        models.find_weights(model, pretrained)
    path = Path(pretrained).expanduser().resolve()
    if not pretrained or pretrained == models.PACKAGE or path.exists() or models.BACKBONES[model].read_weights is None:
        return []  # a backbone that has no weights is refused when they are read
    remotes = sources.remotes(model, mirrors, argument="model_mirrors")
    if len(remotes) != 1 or not (mirrors or path.name == remotes[0].name):
        raise InputError(f"there is no file {path}, and no file of that name can be downloaded", argument="pretrained")
    (known,) = sources.remotes(model) or remotes
    return [Missing(known._replace(name=path.name, urls=remotes[0].urls), path.parent, "model_mirrors")]
