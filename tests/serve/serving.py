"""A running server of drawn pictures: an index that needs no network, and pictures that are hard to take."""

import contextlib
import hashlib
import io
import struct
import threading
import zipfile
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import PIL.Image
import uvicorn

from symm_jax.search import Index, index
from symm_jax.serve import app, server
from symm_jax.serve.limits import Limits

COLOURS = {"blue": (40, 80, 220), "green": (30, 160, 60), "red": (220, 40, 40)}
SIDE = 16
RED = "red/1.png"  # a picture of the index
LIMITS = Limits(bytes=300_000, pixels=1_000_000, upload_seconds=1.5, decode_seconds=3, cache_bytes=100_000)


class Colours:
    """Embeds a picture as the mean colours of its four quarters, around grey. Remembers the sizes of batches."""

    image_size, dim = SIDE, 12
    weights, network, preprocessing = {"sha256": "0" * 64}, {"name": "colours"}, {"image_size": SIDE, "orient": True}

    def __init__(self):
        self.batches = []

    def embed(self, squares):
        self.batches.append(len(squares))
        small = np.stack([cv2.resize(square, (2, 2), interpolation=cv2.INTER_AREA) for square in squares])
        flat = small.reshape(len(squares), -1).astype(np.float32) - 127.5
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def draw(colour, number, size=(60, 40)):
    """A picture of one colour with a white corner, which differs by its number."""
    image = np.full((size[1], size[0], 3), COLOURS[colour], np.uint8)
    image[: 4 + 3 * number, : 6 + 4 * number] = 255
    return image


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def make_index(folder, each=4):
    """An index of `each` pictures per colour. The red ones are in an archive."""
    photos, out = folder / "photos", folder / "index"
    out.mkdir(parents=True)
    names, vectors = [], []
    photos.mkdir()
    with zipfile.ZipFile(photos / "red.zip", "w") as archive:
        for colour in COLOURS:
            for number in range(each):
                image, name = draw(colour, number), f"{colour}/{number}.png"
                content = encode(image)
                if colour == "red":
                    archive.writestr(name, content)
                else:
                    (photos / colour).mkdir(exist_ok=True)
                    (photos / name).write_bytes(content)
                square = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
                names.append(index.Row(name, 1, 1, hashlib.sha256(content).hexdigest(), colour))
                vectors.append(Colours().embed(square[None])[0])
    about = {key: getattr(Colours, key) for key in ("dim", "weights", "network", "preprocessing")}
    index.write(out, {**about, "images": str(photos), "dtype": "float32"}, names, [np.stack(vectors)])
    return Index(out)


@contextlib.contextmanager
def running(index, embedder, **options):
    """Serves in a thread. Yields the address, and the service behind it."""
    listener = server.bind("127.0.0.1", 0)
    application = app.create_app(index, embedder, workers=2, **options)
    config = uvicorn.Config(application, loop="asyncio", log_config=None, access_log=False, timeout_graceful_shutdown=1)
    started = threading.Event()
    program = server._Server(config, started.set)
    thread = threading.Thread(target=program.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert started.wait(60)
        yield SimpleNamespace(url=server.url("127.0.0.1", listener)[:-1], service=application.state.service)
    finally:
        program.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def bomb():
    """A PNG of 30,000 x 30,000 white pixels in 110 kB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    compressor, row = zlib.compressobj(9), b"\0" + b"\xff" * (30_000 // 8)
    data = b"".join([compressor.compress(row * 1000) for _ in range(30)] + [compressor.flush()])
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def post(client, content, path="/api/search", name="a.png", **parameters):
    return client.post(path, params=parameters, files={"image": (name, content)})


def paths(response):
    assert response.status_code == 200, response.text
    return [result["path"] for result in response.json()["results"]]
