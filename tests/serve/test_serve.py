"""The server of the search page: its answers, the pictures it shows, metrics, the token and the address."""

import re
from pathlib import Path

import cv2
import httpx
import numpy as np
import PIL.Image
import pytest
import serving
from serving import LIMITS, RED, Colours, draw, encode, paths, post

from symm_jax.app import fields, use_flags
from symm_jax.app.serve import serve
from symm_jax.errors import InputError
from symm_jax.search import index as indexes
from symm_jax.serve import server
from symm_jax.serve.service import Service

pytestmark = pytest.mark.usefixtures("no_temporary_files")


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
