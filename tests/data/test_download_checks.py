"""Downloads reject wrong content, wrong sizes and web pages, and report a full disk."""

import hashlib
import re
import shutil

import pytest
from fetching import SHA256, begin, fetch, names, remote, unchecked
from http_server import CONTENT, HALF, SIZE, ranged, whole

from symm_jax.data import download
from symm_jax.errors import InputError


def test_wrong_content_is_kept_as_another_file(server, tmp_path):
    bad = CONTENT[:-1] + b"x"
    urls = server.on("/1/a.zip", whole(bad)), server.on("/2/a.zip", whole())
    assert fetch(remote(*urls), tmp_path).read_bytes() == CONTENT
    assert (tmp_path / "a.zip.wrong").read_bytes() == bad
    (tmp_path / "a.zip").unlink()
    with pytest.raises(InputError) as error:
        fetch(remote(urls[0]), tmp_path)
    for part in (urls[0], SHA256, hashlib.sha256(bad).hexdigest(), str(tmp_path / "a.zip.wrong")):
        assert part in str(error.value)
    assert names(tmp_path) == ["a.zip.wrong"]


def test_wrong_size(server, tmp_path):
    urls = server.on("/1/a.zip", whole(CONTENT[:-1])), server.on("/2/a.zip", whole())
    with pytest.raises(InputError, match=f"{SIZE - 1} bytes instead of {SIZE}"):
        fetch(remote(urls[0]), tmp_path)
    assert names(tmp_path) == []  # no byte was transferred
    assert fetch(remote(*urls), tmp_path).read_bytes() == CONTENT
    (tmp_path / "a.zip").unlink()
    # The server gives no length, and sends too few bytes.
    url = server.on("/3/a.zip", whole(CONTENT[:HALF], Content_Length=None), ranged(CONTENT[:HALF]))
    with pytest.raises(InputError, match=f"{HALF} bytes instead of"):
        fetch(remote(url), tmp_path)


def test_git_blob(server, tmp_path):
    url = server.on("/a.zip", whole())
    blob = hashlib.sha1(b"blob %d\0" % SIZE + CONTENT).hexdigest()
    fetch(remote(url, size=None, sha256=None, git_blob=blob), tmp_path)
    (tmp_path / "a.zip").unlink()
    with pytest.raises(InputError, match=f"git blob id of a.zip is {blob} instead of the published {'0' * 40}"):
        fetch(remote(url, size=None, sha256=None, git_blob="0" * 40), tmp_path)


def test_verify(tmp_path):
    path = tmp_path / "by_hand.zip"
    path.write_bytes(CONTENT)
    empty = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git's name for an empty file
    assert download.verify(path, remote()) == "" == download.verify(path, unchecked())
    assert "512000 bytes instead of the published 7" in download.verify(path, remote(size=7))
    assert "sha256 of a.zip is" in download.verify(path, remote(sha256="0" * 64))
    path.write_bytes(b"")
    assert download.verify(path, remote(size=None, sha256=None, git_blob=empty)) == ""


def test_more_bytes_than_declared(server, tmp_path):
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (CONTENT, b"more")) + b"0\r\n\r\n"
    endless = server.on("/1/a.zip", whole(chunked, Content_Length=None, Transfer_Encoding="chunked"))
    with pytest.raises(InputError, match=f"more than the {SIZE} bytes"):
        fetch(remote(endless), tmp_path)
    assert names(tmp_path) == ["a.zip.partial.json"]
    assert fetch(unchecked(endless), tmp_path).read_bytes() == CONTENT + b"more"


def test_web_page(server, tmp_path):
    page = whole(b"<html>Please log in", Content_Type="text/html; charset=utf-8")
    url = server.on("/a.zip", page)
    begin(tmp_path, url)
    with pytest.raises(InputError, match="web page"):
        fetch(unchecked(url), tmp_path)
    assert (tmp_path / "a.zip.partial").read_bytes() == CONTENT[:HALF]
    fetch(unchecked(url)._replace(name="a.html"), tmp_path)


@pytest.mark.parametrize("what", [remote, unchecked])
def test_too_little_disk(server, tmp_path, monkeypatch, what):
    url = server.on("/a.zip", ranged())
    begin(tmp_path, url)
    free = HALF - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
    with pytest.raises(InputError, match=f"{re.escape(str(tmp_path))} needs 256 kB for a.zip and has 256 kB free"):
        fetch(what(url), tmp_path)
    free += 1
    assert fetch(what(url), tmp_path).read_bytes() == CONTENT


def test_disk_that_is_full_or_closed(server, tmp_path):
    url = server.on("/a.zip", whole())
    (tmp_path / "a.zip.partial").symlink_to("/dev/full")
    with pytest.raises(InputError, match=rf"{re.escape(str(tmp_path))} \(No space left on device\)"):
        fetch(unchecked(url), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        fetch(unchecked(url), tmp_path / "file")
