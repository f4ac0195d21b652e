"""URLs, sizes and digests of the published files, and mirrors that replace the URLs."""

import re

import pytest

from symm_jax.data import sources
from symm_jax.errors import InputError


def test_sources_are_described_completely():
    (cub,) = sources.remotes("cub200_2011")
    assert (cub.size, cub.sha256[:6]) == (1150585339, "0c685d") and sources.published(cub.name) == cub
    assert sources.remotes("inshop") == sources.remotes("folder") == ()
    for name in ("cars196", "sop", "googlenet"):
        assert len(sources.remotes(name)) == 1 and sources.remotes(name)[0].urls
    for file in ("cars_train.tgz", "cars_test.tgz", "car_devkit.tgz", "cars_test_annos_withlabels.mat"):
        assert sources.published(file).size and len(sources.published(file).sha256) == 64
    assert sources.published("other.zip") is None


def test_mirrors_replace_the_urls():
    (cub,) = sources.remotes("cub200_2011", ["https://a/get?id=1", "http://b:80/x/get"])
    assert cub == sources.remotes("cub200_2011")[0]._replace(urls=("https://a/get?id=1", "http://b:80/x/get"))
    train, other, devkit = sources.remotes(
        "cars196",
        ["http://a/cars_train.tgz", "http://a/my%20file.zip", "ftp://b/car_devkit.tgz", "ftp://b/cars_train.tgz"],
    )
    assert train == sources.published("cars_train.tgz")._replace(
        urls=("http://a/cars_train.tgz", "ftp://b/cars_train.tgz")
    )
    assert other == sources.Remote("my file.zip", ("http://a/my%20file.zip",))
    assert devkit.sha256 == sources.published("car_devkit.tgz").sha256
    assert sources.remotes("cars196", ["http://a/car_devkit.tgz"])[0].name == "car_devkit.tgz"
    assert sources.remotes("inshop", ["http://a/img.zip"]) == (sources.Remote("img.zip", ("http://a/img.zip",)),)


@pytest.mark.parametrize(
    "url",
    [
        *("a.zip", "file:///etc/passwd", "http:///a.zip", "http://a", "http://a/", "http://a:x/b", "http://[a/b"),
        *("http://a/b/..", "http://a/b%2fc", "http://a/.download.lock", "http://a/b%0a", 3),
    ],
)
def test_a_mirror_that_is_not_the_url_of_a_file(url):
    with pytest.raises(InputError, match=r"model_mirrors: .*" + re.escape(repr(url))):
        sources.remotes("googlenet", [url], argument="model_mirrors")
