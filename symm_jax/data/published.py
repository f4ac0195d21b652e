"""The files of a data set that the web has: which are missing in a data folder, and their download."""

from pathlib import Path

from symm_jax.data import archives, datasets, download, sources
from symm_jax.data.builder import PhotographBuilder, absence_error
from symm_jax.data.tree import Tree, files_below
from symm_jax.errors import InputError


def remotes_to_fetch(source: datasets.Source) -> tuple[sources.Remote, ...]:
    """The files to download. Empty if the folder holds any other file, or if no URL is known."""
    remotes = sources.remotes(source.name, source.mirrors, argument="mirrors")
    names = {remote.name for remote in remotes}
    if not remotes or not {path.name for path in files_below(datasets.to_path(source.dir))} <= names:
        return ()
    return remotes


def absence(source: datasets.Source) -> InputError | None:
    """The error for a data folder without files; None if there are files, or if the data set needs none."""
    kind = datasets.BUILDERS.get(source.name)
    if kind is None or not issubclass(kind, PhotographBuilder):
        return None
    if not source.dir or files_below(datasets.to_path(source.dir)):
        return None
    return absence_error(Tree(datasets.to_path(source.dir)), kind)


def fetch_remote(remote: sources.Remote, folder: Path, *, argument: str = "mirrors") -> None:
    """Downloads a published file into a folder, if the folder does not have it.

    Args:
      remote: the file.
      folder: the folder.
      argument: the argument that can give other URLs, for messages.

    Raises:
      InputError: the file cannot be downloaded, or the downloaded file cannot be read.
    """
    path = download.fetch(remote, folder, argument=argument)
    if not (remote.sha256 or remote.git_blob) and archives.is_archive(path.name):
        _require_readable(path)


def _require_readable(path: Path) -> None:
    """Renames a downloaded archive that cannot be read to NAME.wrong, so that the next run downloads it again."""
    try:
        archives.members(path)
    except InputError as error:
        wrong = path.replace(path.with_name(f"{path.name}.wrong"))
        raise InputError(
            f"{error} The downloaded file is now {wrong}, and the next run downloads {path.name} again."
        ) from error
