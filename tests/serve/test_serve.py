"""The server of the search page: answers, hostile requests, batches, the token, and processes that are killed."""

import concurrent.futures
import contextlib
import http.client
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

import cv2
import httpx
import numpy as np
import PIL.Image
import pytest
import serving
from serving import COLOURS, Colours, draw, encode

from symm_jax.app import fields, use_flags
from symm_jax.app.serve import serve
from symm_jax.errors import InputError
from symm_jax.search import index as indexes
from symm_jax.serve import server
from symm_jax.serve.engine import Engine, Query
from symm_jax.serve.limits import Limits
from symm_jax.serve.service import Service

LIMITS = Limits(bytes=300_000, pixels=1_000_000, upload_seconds=1.5, decode_seconds=3, cache_bytes=100_000)
RED = "red/1.png"
BOUNDARY = "multipart/form-data; boundary=x"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One server for all tests. It must neither write temporary files nor lose a process that it was not asked for."""
    folder = tmp_path_factory.mktemp("serve")
    embedder = Colours()
    opened = serving.make_index(folder)
    with serving.running(opened, embedder, limits=LIMITS, hosts=server.names("127.0.0.1")) as running:
        running.embedder, running.folder = embedder, folder
        yield running


@pytest.fixture
def client(served):
    with httpx.Client(base_url=served.url, timeout=30, trust_env=False) as client:
        yield client
        assert client.get("/api/health").json() == {"status": "ok"}


@pytest.fixture(autouse=True)
def no_temporary_files(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a temporary file")

    monkeypatch.setattr(tempfile, "_mkstemp_inner", refuse)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)


def post(client, content, path="/api/search", name="a.png", **parameters):
    return client.post(path, params=parameters, files={"image": (name, content)})


def paths(response):
    assert response.status_code == 200, response.text
    return [result["path"] for result in response.json()["results"]]


def test_results_are_the_nearest_best_first(client, served):
    response = post(client, encode(draw("red", 1)), k=5)
    results = response.json()["results"]
    assert results[0] == {"path": RED, "row": 9, "class": "red", "similarity": 1.0, "match": None}
    values = [result["similarity"] for result in results]
    assert len(results) == 5 and values == sorted(values, reverse=True) and values[-1] < 0.9
    assert {result["class"] for result in results[:4]} == {"red"}
    assert response.json()["query"] == {"width": 60, "height": 40, "box": None}
    assert paths(post(client, encode(draw("red", 1)), **{"class": "blue"}))[0].startswith("blue/")
    assert len(paths(post(client, encode(draw("red", 1)), k=1000))) == 12  # all there are


def test_pictures_of_the_index_are_queries_without_themselves(client):
    by_path = client.get("/api/search", params={"path": RED, "k": 3})
    assert len(paths(by_path)) == 3 and RED not in paths(by_path)
    assert by_path.json()["query"] == {"path": RED, "row": 9, "class": "red", "box": None}
    assert paths(client.get("/api/search?row=9&k=3")) == paths(by_path)
    # A box is cropped by the server, also from an archive.
    part = client.get("/api/search", params={"path": RED, "box": "0,0,30,20", "k": 3})
    assert RED not in paths(part) and part.json()["query"] == {
        **by_path.json()["query"],
        "box": [0, 0, 30, 20],
        "width": 60,
        "height": 40,
    }
    assert part.json()["results"] != by_path.json()["results"]


def test_embedding_is_that_of_the_network(client):
    image = draw("green", 2)
    found = np.array(post(client, encode(image), "/api/embed").json()["embedding"], np.float32)
    square = cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(found, Colours().embed(square[None])[0])
    boxed = post(client, encode(image), "/api/embed", box="0,0,30,20").json()["embedding"]
    crop = cv2.resize(image[:20, :30], (16, 16), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(np.array(boxed, np.float32), Colours().embed(crop[None])[0])


def test_the_box_is_of_the_rotated_picture(client):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = encode(np.rot90(draw("blue", 1)).copy(), exif=exif)
    plain = post(client, encode(draw("blue", 1)), "/api/embed", box="0,0,20,10").json()
    assert post(client, turned, box="0,0,20,10").json()["query"]["width"] == 60
    assert post(client, turned, "/api/embed", box="0,0,20,10").json() == plain


def test_uploads_are_kept_in_memory_for_their_address(client):
    content = encode(draw("blue", 3))
    first = post(client, content, keep=1)
    sha256 = first.json()["query"]["upload"]
    again = client.get("/api/search", params={"upload": sha256})
    assert again.json() == first.json()
    shown = client.get(f"/api/upload/{sha256}")
    assert shown.headers["content-type"] == "image/webp" and shown.headers["picture-width"] == "60"
    noise = np.random.default_rng(0).integers(0, 256, (170, 170, 3), dtype=np.uint8)
    for _ in range(2):  # the memory for them is bounded
        post(client, encode(noise := noise[::-1].copy()), keep=1)
    assert client.get("/api/search", params={"upload": sha256}).status_code == 404
    assert "upload" not in post(client, content).json()["query"]


def test_pictures_are_shown_by_their_row_only(client, served):
    for row in (0, 9):  # a file, and a member of an archive
        shown = client.get(f"/api/thumbnail/{row}")
        assert shown.content[8:12] == b"WEBP" and shown.headers["picture-height"] == "40"
        tag = {"If-None-Match": shown.headers["etag"]}
        assert client.get(f"/api/thumbnail/{row}", headers=tag).status_code == 304
        assert client.get(f"/api/picture/{row}").status_code == 200
    for path in ("12", "-1", "..%2f..%2fetc%2fpasswd", "0/../../../etc/passwd", "99999999999999999999"):
        assert client.get(f"/api/thumbnail/{path}").status_code == 404
    for path in ("../index/index.json", "/etc/passwd", ""):
        assert client.get("/api/search", params={"path": path}).status_code == 404


def test_a_picture_that_was_changed_is_not_shown(client, served):
    row = next(i for i, row in enumerate(served.service.index.rows) if row.path == "green/3.png")
    path = served.folder / "photos/green/3.png"
    before = path.read_bytes()
    path.write_bytes(encode(draw("blue", 3)))
    try:
        for address in (f"/api/picture/{row}", f"/api/search?row={row}&box=0,0,9,9"):
            answer = client.get(address)
            assert answer.status_code == 404 and "was changed after it was embedded" in answer.json()["error"]
    finally:
        path.write_bytes(before)
    assert client.get(f"/api/picture/{row}").status_code == 200


def test_an_index_that_names_other_files_shows_none_of_them(tmp_path, capsys):
    opened = serving.make_index(tmp_path)
    secret = tmp_path / "secret.png"
    secret.write_bytes(encode(draw("blue", 0)))
    rows = [row._replace(path=f"../secret.png{i or ''}") for i, row in enumerate(opened.rows)]
    indexes.write(opened.folder, opened.about, rows, [opened.embeddings])
    service = Service(indexes.Index(opened.folder), Colours(), limits=LIMITS, workers=1)
    with pytest.raises(Exception, match="not in the folder of pictures"):
        service._file(0)
    assert "12 of 12 pictures of the index are not in" in capsys.readouterr().err


BIG = np.zeros((1001, 1000, 3), np.uint8)
HOSTILE = {
    "no picture": (b"GIF, they said" * 50, 415),
    "a script": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", 415),
    "bomb": (serving.bomb(), 413),
    "too many pixels": (encode(BIG), 413),
    "truncated": (encode(np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8), "JPEG")[:3000], 422),
    "empty": (b"", 400),
    "too many bytes": (bytes(300_001), 413),
}


@pytest.mark.parametrize(("content", "status"), HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_uploads_get_the_right_status(client, content, status):
    response = post(client, content)
    assert response.status_code == status and response.json()["error"]
    assert response.headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    "content",
    [
        encode(draw("red", 0)[:1, :1]),
        encode(draw("red", 0), "WEBP"),
        encode(np.full((8, 8), 40_000, np.uint16)),
        encode(np.asarray(PIL.Image.fromarray(draw("red", 0)).convert("L"))),
    ],
    ids=["one pixel", "WebP", "16 bits", "grey"],
)
def test_unusual_pictures_are_taken(client, content):
    assert len(paths(post(client, content, name="../../etc/passwd\x00.png"))) == 10


def test_cmyk_is_taken(client):
    file = encode(np.asarray(PIL.Image.fromarray(draw("red", 1)).convert("CMYK")), "TIFF")
    assert post(client, file).status_code == 415
    image = PIL.Image.fromarray(draw("red", 1)).convert("CMYK")
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=95)
    assert paths(post(client, jpeg.getvalue()))[0] == RED


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("DELETE", "/api/search", {}, 405),
        ("PUT", "/api/embed", {}, 405),
        ("POST", "/api/thumbnail/1", {}, 405),
        ("GET", "/nothing", {}, 404),
        ("GET", "/..%2f..%2fetc/passwd", {}, 404),
        ("GET", "/api/search", {}, 400),
        ("GET", "/api/search?row=1&path=a", {}, 400),
        ("GET", "/api/search?row=1&k=0", {}, 400),
        ("GET", "/api/search?row=1&k=9999999999999999999999", {}, 400),
        ("GET", "/api/search?row=1&k=١", {}, 400),
        ("GET", "/api/search?row=1&class=yellow", {}, 400),
        ("GET", "/api/search?row=1&box=1,2,3", {}, 400),
        ("GET", "/api/search?row=1&klass=red", {}, 400),
        ("GET", "/api/search?row=1&k=1&k=2", {}, 400),
        ("GET", "/api/search?row=1&keep=1", {}, 400),
        ("POST", "/api/search?row=1", {"files": {"image": b"a"}}, 400),
        ("POST", "/api/search?keep=2", {"files": {"image": b"a"}}, 400),
        ("POST", "/api/search", {"files": {"image": b"a"}, "data": {"k": "1"}}, 400),
        ("GET", "/api/search?row=1&box=5,5,5,9", {}, 400),
        ("GET", "/api/search?row=1&box=-1,0,5,9", {}, 400),
        ("GET", "/api/search?row=1&box=60,40,70,50", {}, 422),
        ("POST", "/api/search", {"content": b"\xff\xd8"}, 415),
        ("POST", "/api/search", {"json": {"image": "a"}}, 415),
        ("POST", "/api/search", {"files": {"other": b"a"}}, 400),
        ("POST", "/api/search", {"data": {"image": "text"}, "files": {"x": b""}}, 400),
        ("POST", "/api/search", {"files": [("image", b"a"), ("image", b"b")]}, 400),
        ("POST", "/api/search", {"content": b"", "headers": {"Content-Type": "multipart/form-data"}}, 400),
        (
            "POST",
            "/api/search",
            {"content": b"--", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            400,
        ),
        ("GET", "/api/health", {"headers": {"Host": "evil.example"}}, 400),
        ("POST", "/api/embed", {"headers": {"Origin": "http://evil.example"}}, 403),
        ("POST", "/api/embed", {"headers": {"Sec-Fetch-Site": "cross-site"}}, 403),
    ],
)
def test_wrong_requests_get_the_right_status(client, method, path, options, status):
    response = client.request(method, path, **options)
    assert response.status_code == status, response.text
    assert response.headers["x-content-type-options"] == "nosniff"


def test_slow_uploads_end(served):
    """The sender stops half-way, and goes on too slowly: both end after 1.5 s, and others are answered meanwhile."""
    address = urllib.parse.urlsplit(served.url)
    head = (
        f"POST /api/embed HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 1000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=10) as slow:
        slow.sendall(head.encode())
        start = time.monotonic()
        assert httpx.get(f"{served.url}/api/health", trust_env=False).status_code == 200
        answer = http.client.HTTPResponse(slow)
        answer.begin()
        assert answer.status == 408 and b"longer than 1.5 seconds" in answer.read()
        assert 1 < time.monotonic() - start < 8


def test_requests_that_come_together_are_one_batch(client, served):
    contents = [encode(draw(colour, number)) for colour in COLOURS for number in range(4)]
    served.embedder.batches.clear()
    alone = [post(client, content, k=3).json() for content in contents[:2]]
    assert set(served.embedder.batches) == {1}
    served.embedder.batches.clear()
    plain = served.embedder.embed

    def slow(squares):
        time.sleep(0.3)
        return plain(squares)

    served.embedder.embed = slow
    try:
        with concurrent.futures.ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(lambda content: post(client, content, k=3), contents))
    finally:
        served.embedder.embed = plain
    assert len(served.embedder.batches) < 8 and set(served.embedder.batches) <= {1, 4, 16}
    assert [answer.json() for answer in answers[:2]] == alone
    assert [paths(answer)[0] for answer in answers] == [f"{c}/{n}.png" for c in COLOURS for n in range(4)]


def test_a_batch_answers_each_as_if_alone(served):
    engine = Engine(served.service.index, Colours())
    queries = [Query(None, 3, 2), Query(np.zeros((16, 16, 3), np.uint8), None, 5, "red"), Query(None, 9, 1, "red")]
    for together, alone in zip(engine.answer(queries), [engine.answer([query])[0] for query in queries], strict=True):
        assert together.rows == alone.rows
        np.testing.assert_allclose(together.similarities, alone.similarities, atol=1e-6)


def stopped(served):
    """Stops the processes that decode, so that a picture waits in one of them. Returns them."""
    pids = served.service.pool.pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_process_loses_its_own_picture_only(client, served):
    content, pool = encode(draw("red", 1)), served.service.pool
    before, pids = pool.restarts, stopped(served)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        requests = [threads.submit(post, client, content, k=1) for _ in range(2)]
        wait_for(lambda: served.service.pool._idle.empty())
        os.kill(pids[0], signal.SIGKILL)
        os.kill(pids[1], signal.SIGCONT)
        answers = sorted((request.result() for request in requests), key=lambda answer: answer.status_code)
    assert [answer.status_code for answer in answers] == [200, 503]
    assert answers[1].headers["retry-after"] == "1" and "Try again" in answers[1].json()["error"]
    wait_for(lambda: len(pool.pids) == 2 and pids[0] not in pool.pids)
    assert pool.restarts == before + 1 and paths(post(client, content, k=1)) == [RED]


def test_a_process_that_hangs_is_killed(client, served):
    pids = stopped(served)
    start = time.monotonic()
    response = post(client, encode(draw("red", 1)))
    assert response.status_code == 504 and "longer than 3 seconds" in response.json()["error"]
    assert time.monotonic() - start < 15
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_too_many_requests_at_once_are_refused(client, served):
    served.service.busy += LIMITS.requests
    try:
        response = post(client, encode(draw("red", 1)))
    finally:
        served.service.busy -= LIMITS.requests
    assert response.status_code == 503 and response.headers["retry-after"] == "1"


def test_metrics_count(client):
    client.get("/api/search?row=1")
    text = client.get("/metrics").text
    assert re.search(r'symm_jax_requests_total\{route="/api/search",status="200"\} [1-9]', text)
    assert re.search(r'symm_jax_request_seconds_bucket\{le="0.5",route="/api/search"\} [1-9]', text)
    for name in ("batch_size_count", "queue_length", "worker_restarts", "worker_resident_memory_bytes"):
        assert f"symm_jax_{name} " in text
    assert "process_resident_memory_bytes" in text


def test_a_token_is_asked_for(served):
    token = "пароль"
    with (
        serving.running(served.service.index, Colours(), token=token) as running,
        httpx.Client(base_url=running.url, trust_env=False) as client,
    ):
        assert client.get("/api/health").status_code == 200
        for path in ("/api/about", "/api/search?row=1", "/api/thumbnail/1", "/metrics", "/page.js", "/?token=wrong"):
            assert client.get(path).status_code == 401, path
        assert post(client, encode(draw("red", 1))).headers["www-authenticate"] == "Bearer"
        assert client.get("/api/about", headers={"Authorization": "Bearer wrong"}).status_code == 401
        bearer = [(b"Authorization", b"Bearer " + token.encode())]
        assert client.get("/api/about", headers=bearer).status_code == 200
        assert client.post("/login", data={"token": "wrong"}).status_code == 401
        entered = client.post("/login?row=3", data={"token": token})
        assert entered.status_code == 303 and entered.headers["location"] == "/?row=3"
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and token not in cookie
        assert client.get("/api/about").status_code == 200


def test_addresses_that_cannot_be_used(monkeypatch):
    with server.bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"port: {port} is in use on 127.0.0.1. Pass another") as error:
            server.bind("127.0.0.1", port)
        assert fields.describe(error.value).startswith(f"--port: {port} is in use")
    with pytest.raises(InputError, match="host: 192.0.2.1 cannot be used"):
        server.bind("192.0.2.1", 0)
    with pytest.raises(InputError, match="host: 'a b' is not known"):
        server.bind("a b", 0)
    with pytest.raises(InputError, match="index: /absent is not an index. Make one with --mode=embed"):
        serve(use_flags.Use(index=Path("/absent")))
    with server.bind("0.0.0.0", 0) as listener:
        assert not server.is_loopback(listener)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else True)
    with pytest.raises(InputError, match=r"needs the packages uvicorn: pip install 'symm_jax\[serve\]'"):
        serve(use_flags.Use())


def test_workers_need_neither_jax_nor_tensorflow():
    program = "import sys, symm_jax.serve.worker; sys.exit(bool({'jax', 'tensorflow', 'starlette'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", program], check=True)
