"""Downloads from servers on the loopback that cut, stall, change, lie and redirect."""

import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import threading
import time

import ftp_server
import pytest
from http_server import (
    CONTENT,
    ETAG,
    HALF,
    SIZE,
    Server,
    cut,
    other_range,
    partly,
    ranged,
    ranged_whatever_if_range,
    status,
    whole,
)

from symm_jax.data import download, sources
from symm_jax.errors import InputError

SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


def remote(*urls, size=SIZE, sha256=SHA256, **fields):
    return sources.Remote("a.zip", urls, size, sha256, **fields)


def unchecked(*urls):
    return remote(*urls, size=None, sha256=None)


def fetch(what, folder, **options):
    return download.fetch(what, folder, **{"attempts": 3, "stall_seconds": 5.0, "back_off_seconds": 0.0} | options)


def begin(folder, url, content=CONTENT[:HALF], validator='"1"', total=SIZE):
    """Leaves what an earlier process leaves."""
    (folder / "a.zip.partial").write_bytes(content)
    description = {"url": url, "validator": validator, "total": total}
    (folder / "a.zip.partial.json").write_text(json.dumps(description))


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".download.lock")


@pytest.mark.parametrize("what", [remote, unchecked])
def test_download(server, tmp_path, capsys, what):
    path = fetch(what(server.on("/a.zip", whole())), tmp_path / "new")
    assert path == tmp_path / "new" / "a.zip" and path.read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["a.zip"]
    assert capsys.readouterr().out == "download  a.zip from 127.0.0.1, 512 kB\n"
    assert server.requests[0][1]["User-Agent"] == "symm_jax"


def test_file_that_is_there_is_left_alone(server, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"mine")
    assert fetch(remote(server.on("/a.zip", whole())), tmp_path).read_bytes() == b"mine"
    assert not server.requests and [path.name for path in tmp_path.iterdir()] == ["a.zip"]  # it may be read-only


def test_cut_connection_is_resumed(server, tmp_path, capsys):
    # Each attempt brings something, so none of the three counts against the one that is allowed.
    behave = [cut(100, **ETAG), *[partly(1000 * k) for k in (1, 2, 3)], ranged()]
    path = fetch(unchecked(server.on("/a.zip", *behave)), tmp_path, attempts=1)
    assert path.read_bytes() == CONTENT
    ranges = [headers.get("Range") for _, headers in server.requests]
    assert ranges == [None, "bytes=100-", "bytes=1000-", "bytes=2000-", "bytes=3000-"]
    assert sum(server.sent) == SIZE
    assert "ended after 100 B of 512 kB; trying again" in capsys.readouterr().err


def test_attempts_that_bring_nothing_new_end(server, tmp_path):
    url = server.on("/a.zip", cut())
    with pytest.raises(InputError, match=r"ended after 256 kB of 512 kB \(2 times in a row\)"):
        fetch(remote(url), tmp_path, attempts=2)
    assert len(server.requests) == 3
    server.on("/a.zip", ranged())
    assert fetch(remote(url), tmp_path).read_bytes() == CONTENT  # the partial was kept
    assert server.sent[-1] == HALF


def test_earlier_process_is_resumed(server, tmp_path, capsys):
    url = server.on("/a.zip", ranged())
    begin(tmp_path, url)
    assert fetch(unchecked(url), tmp_path).read_bytes() == CONTENT
    headers = server.requests[0][1]
    assert (headers["Range"], headers["If-Range"]) == (f"bytes={HALF}-", '"1"')
    assert server.sent == [HALF] and names(tmp_path) == ["a.zip"]
    assert capsys.readouterr().out == "download  a.zip from 127.0.0.1, 512 kB, resuming at 256 kB\n"


def test_no_validator_but_equal_size_is_resumed(server, tmp_path):
    url = server.on("/a.zip", ranged())
    begin(tmp_path, url, validator="")
    assert fetch(unchecked(url), tmp_path).read_bytes() == CONTENT
    assert server.sent == [HALF] and "If-Range" not in server.requests[0][1]


def test_whole_partial_is_only_checked(server, tmp_path):
    url = server.on("/a.zip", ranged())
    begin(tmp_path, url, CONTENT)
    assert fetch(remote(url), tmp_path).read_bytes() == CONTENT
    assert sum(server.sent) == 0


@pytest.mark.parametrize(
    "behave, begun",
    [
        ([whole()], {}),
        ([ranged(etag='"2"')], {}),
        ([ranged_whatever_if_range, whole()], {}),
        ([ranged(), ranged()], {"validator": "", "total": SIZE + 1}),
        ([ranged(), ranged()], {"validator": "", "total": None}),
        ([other_range, whole()], {}),
        ([partly(SIZE, total="*"), whole()], {"validator": ""}),
        ([status(416), whole()], {}),
        ([status(416, Content_Range=f"bytes */{SIZE}"), whole()], {"total": None}),
        ([ranged(), ranged()], {"url": "http://elsewhere/a.zip"}),
    ],
    ids=["200", "if-range", "etag", "total", "unknown", "other range", "206 *", "416", "416 size", "other server"],
)
def test_start_over(server, tmp_path, behave, begun):
    url = server.on("/a.zip", *behave)
    begin(tmp_path, **{"url": url, "content": b"old" * 1000, **begun})
    assert fetch(unchecked(url), tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == ["a.zip"]


def test_spoiled_partial_is_fetched_again_from_the_start(server, tmp_path, capsys):
    url = server.on("/a.zip", ranged())
    begin(tmp_path, url, b"x" * HALF)
    assert fetch(remote(url), tmp_path).read_bytes() == CONTENT
    assert server.sent == [HALF, SIZE] and names(tmp_path) == ["a.zip", "a.zip.wrong"]
    assert "trying again from the start" in capsys.readouterr().err


def test_mirror_goes_on_where_another_broke(server, tmp_path):
    urls = server.on("/1/a.zip", cut(**ETAG), status(404)), server.on("/2/a.zip", ranged(etag='"other"'))
    assert fetch(remote(*urls), tmp_path).read_bytes() == CONTENT
    assert server.sent == [HALF, 0, HALF]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_next_mirror_at_once(server, tmp_path, capsys, code):
    urls = server.on("/1/a.zip", status(code)), server.on("/2/a.zip", whole())
    assert fetch(remote(*urls), tmp_path).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/1/a.zip", "/2/a.zip"]
    assert f"{code} " in capsys.readouterr().err


def test_every_mirror_fails(server, tmp_path):
    urls = server.on("/1/a.zip", status(404)), server.on("/2/a.zip", status(500)), "http://127.0.0.1:1/a.zip"
    with pytest.raises(InputError) as error:
        fetch(remote(*urls), tmp_path, field="config.model.mirrors")
    message = str(error.value)
    for part in (
        f"{urls[0]}: 404 Not Found\n  {urls[1]}",
        f"{urls[1]}: 500 Internal Server Error (3 times in a row)\n",
        f"{urls[2]}: Connection refused (3 times in a row)\n",
        f"put it in {tmp_path} under the name a.zip",
        "config.model.mirrors",
    ):
        assert part in message
    with pytest.raises(InputError, match="no address of it is known"):
        fetch(remote(), tmp_path)


@pytest.mark.parametrize("code", [408, 429, 503])
def test_passing_trouble(server, tmp_path, monkeypatch, code):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    script = status(code), status(code, Retry_After=7), status(code, Retry_After=86400), status(code), whole()
    fetch(remote(server.on("/a.zip", *script)), tmp_path, attempts=5, back_off_seconds=2.0)
    assert waits == [2.0, 7.0, 8.0, 16.0]


def test_wrong_content_is_kept_aside(server, tmp_path):
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
    assert names(tmp_path) == []  # nothing had to come to see that
    assert fetch(remote(*urls), tmp_path).read_bytes() == CONTENT
    (tmp_path / "a.zip").unlink()
    # A file of a length that nobody tells, shorter than it should be.
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
    empty = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # what git calls it
    assert download.verify(path, remote()) == "" == download.verify(path, unchecked())
    assert "512000 bytes instead of the published 7" in download.verify(path, remote(size=7))
    assert "sha256 of a.zip is" in download.verify(path, remote(sha256="0" * 64))
    path.write_bytes(b"")
    assert download.verify(path, remote(size=None, sha256=None, git_blob=empty)) == ""


def test_stall(server, tmp_path, capsys):
    def stall(handler):
        cut(**ETAG)(handler)
        handler.server.over.wait()

    path = fetch(remote(server.on("/a.zip", stall, ranged())), tmp_path, stall_seconds=0.2)
    assert path.read_bytes() == CONTENT and server.sent == [HALF, HALF]
    assert "timed out; trying again" in capsys.readouterr().err


def test_redirect(server, tmp_path):
    url = server.on("/download", status(302, Location="/files/1?signature=2"))
    server.on("/files/1?signature=2", ranged())
    begin(tmp_path, url)
    assert fetch(remote(url), tmp_path).read_bytes() == CONTENT
    assert server.sent == [0, HALF]
    with pytest.raises(InputError, match="infinite loop"):
        fetch(remote(server.on("/round", status(302, Location="/round"))), tmp_path / "other")


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


def test_two_at_once_download_once(server, tmp_path):
    def slow(handler):
        time.sleep(0.2)
        whole()(handler)

    what = remote(server.on("/a.zip", slow))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetch(what, tmp_path), range(2)))
    assert [path.read_bytes() for path in paths] == [CONTENT, CONTENT]
    assert len(server.requests) == 1


def test_interrupt_leaves_the_partial(server, tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    url = server.on("/a.zip", cut(**ETAG), ranged())
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(remote(url), tmp_path)
    assert fetch(remote(url), tmp_path).read_bytes() == CONTENT
    assert server.sent == [HALF, HALF]


def test_ftp(tmp_path, server):
    with ftp_server.serve("pub/a file.zip", CONTENT, cuts=[HALF]) as ftp:
        assert fetch(remote(ftp.url.replace(" ", "%20")), tmp_path).read_bytes() == CONTENT
        assert "USER anonymous" in ftp.commands and "TYPE I" in ftp.commands
        assert [line for line in ftp.commands if line.startswith("REST")] == [f"REST {HALF}"]
        (tmp_path / "a.zip").unlink()
        begin(tmp_path, ftp.url, validator="")  # an earlier process, a file without a checksum
        assert fetch(unchecked(ftp.url), tmp_path).read_bytes() == CONTENT
        assert [line for line in ftp.commands if line.startswith("REST")] == [f"REST {HALF}"] * 2
        (tmp_path / "a.zip").unlink()
        with pytest.raises(InputError, match="550 no such file"):
            fetch(remote(f"{ftp.url}x"), tmp_path)


@pytest.mark.parametrize("without", ["REST", "SIZE"])
def test_ftp_server_that_cannot_resume(server, tmp_path, without):
    with ftp_server.serve("a.zip", CONTENT, cuts=[HALF], without=[without]) as ftp:
        assert fetch(unchecked(ftp.url), tmp_path).read_bytes() == CONTENT
        assert sum(line.startswith("RETR") for line in ftp.commands) == 2


def test_ftp_through_a_proxy(server, tmp_path, monkeypatch):
    monkeypatch.setenv("ftp_proxy", server.on("", whole()))
    server.on("ftp://ftp.invalid/a.zip", whole())
    assert fetch(remote("ftp://ftp.invalid/a.zip"), tmp_path).read_bytes() == CONTENT
