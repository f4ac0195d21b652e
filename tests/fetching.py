"""The file of the download tests, a.zip, and a `fetch` with few, quick attempts."""

import hashlib
import json

from http_server import CONTENT, HALF, SIZE

from symm_jax.data import download, sources

SHA256 = hashlib.sha256(CONTENT).hexdigest()


def remote(*urls, size=SIZE, sha256=SHA256, **fields):
    return sources.Remote("a.zip", urls, size, sha256, **fields)


def unchecked(*urls):
    return remote(*urls, size=None, sha256=None)


def fetch(what, folder, **options):
    return download.fetch(what, folder, **{"attempts": 3, "stall_seconds": 5.0, "back_off_seconds": 0.0} | options)


def begin(folder, url, content=CONTENT[:HALF], validator='"1"', total=SIZE):
    """Leaves the files of an interrupted download."""
    (folder / "a.zip.partial").write_bytes(content)
    description = {"url": url, "validator": validator, "total": total}
    (folder / "a.zip.partial.json").write_text(json.dumps(description))


def names(folder):
    return sorted(path.name for path in folder.iterdir())
