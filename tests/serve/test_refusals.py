"""Hostile uploads, unusual pictures and wrong requests: each gets the right status."""

import http.client
import io
import socket
import time
import urllib.parse

import httpx
import numpy as np
import PIL.Image
import pytest
import serving
from serving import RED, draw, encode, paths, post

pytestmark = pytest.mark.usefixtures("no_temporary_files")


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
