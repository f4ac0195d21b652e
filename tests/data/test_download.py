"""Downloads from servers on the loopback that cut, stall, change and redirect, and by FTP."""

import concurrent.futures
import time

import ftp_server
import pytest
from fetching import begin, fetch, names, remote, unchecked
from http_server import (
    CONTENT,
    ETAG,
    HALF,
    SIZE,
    cut,
    other_range,
    partly,
    ranged,
    ranged_whatever_if_range,
    status,
    whole,
)

from symm_jax.errors import InputError


@pytest.mark.parametrize("what", [remote, unchecked])
def test_download(server, tmp_path, capsys, what):
    path = fetch(what(server.on("/a.zip", whole())), tmp_path / "new")
    assert path == tmp_path / "new" / "a.zip" and path.read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["a.zip"]
    assert capsys.readouterr().out == "download  a.zip from 127.0.0.1, 512 kB\n"
    assert server.requests[0][1]["User-Agent"] == "symm_jax"


def test_an_existing_file_is_not_touched(server, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"mine")
    assert fetch(remote(server.on("/a.zip", whole())), tmp_path).read_bytes() == b"mine"
    assert not server.requests and [path.name for path in tmp_path.iterdir()] == [
        "a.zip"
    ]  # no lock: the folder may be read-only


def test_cut_connection_is_resumed(server, tmp_path, capsys):
    # Each attempt brings new bytes, so none counts as a failure.
    behave = [cut(100, **ETAG), *[partly(1000 * k) for k in (1, 2, 3)], ranged()]
    path = fetch(unchecked(server.on("/a.zip", *behave)), tmp_path, attempts=1)
    assert path.read_bytes() == CONTENT
    ranges = [headers.get("Range") for _, headers in server.requests]
    assert ranges == [None, "bytes=100-", "bytes=1000-", "bytes=2000-", "bytes=3000-"]
    assert sum(server.sent) == SIZE
    assert "ended after 100 B of 512 kB; trying again" in capsys.readouterr().err


def test_attempts_without_new_bytes_end(server, tmp_path):
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


def test_a_complete_partial_file_is_only_verified(server, tmp_path):
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


def test_a_wrong_partial_file_is_downloaded_again_from_the_start(server, tmp_path, capsys):
    url = server.on("/a.zip", ranged())
    begin(tmp_path, url, b"x" * HALF)
    assert fetch(remote(url), tmp_path).read_bytes() == CONTENT
    assert server.sent == [HALF, SIZE] and names(tmp_path) == ["a.zip", "a.zip.wrong"]
    assert "trying again from the start" in capsys.readouterr().err


def test_a_mirror_resumes_where_another_failed(server, tmp_path):
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
        fetch(remote(*urls), tmp_path, argument="model_mirrors")
    message = str(error.value)
    for part in (
        f"{urls[0]}: 404 Not Found\n  {urls[1]}",
        f"{urls[1]}: 500 Internal Server Error (3 times in a row)\n",
        f"{urls[2]}: Connection refused (3 times in a row)\n",
        f"save it as {tmp_path / 'a.zip'}, or pass another URL",
        "model_mirrors: a.zip could not be downloaded",
    ):
        assert part in message
    with pytest.raises(InputError, match="no URL is known"):
        fetch(remote(), tmp_path)


@pytest.mark.parametrize("code", [408, 429, 503])
def test_transient_errors_are_retried(server, tmp_path, monkeypatch, code):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    script = status(code), status(code, Retry_After=7), status(code, Retry_After=86400), status(code), whole()
    fetch(remote(server.on("/a.zip", *script)), tmp_path, attempts=5, back_off_seconds=2.0)
    assert waits == [2.0, 7.0, 8.0, 16.0]


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


def test_two_at_once_download_once(server, tmp_path):
    def slow(handler):
        time.sleep(0.2)
        whole()(handler)

    what = remote(server.on("/a.zip", slow))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetch(what, tmp_path), range(2)))
    assert [path.read_bytes() for path in paths] == [CONTENT, CONTENT]
    assert len(server.requests) == 1


def test_an_interrupt_keeps_the_partial_file(server, tmp_path, monkeypatch):
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
