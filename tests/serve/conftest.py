"""One server for the tests of a module."""

import tempfile

import httpx
import pytest
import serving

from symm_jax.serve import server


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One server for all tests. It must neither write temporary files nor lose a process that it was not asked for."""
    folder = tmp_path_factory.mktemp("serve")
    embedder = serving.Colours()
    opened = serving.make_index(folder)
    with serving.running(opened, embedder, limits=serving.LIMITS, hosts=server.names("127.0.0.1")) as running:
        running.embedder, running.folder = embedder, folder
        yield running


@pytest.fixture
def client(served):
    with httpx.Client(base_url=served.url, timeout=30, trust_env=False) as client:
        yield client
        assert client.get("/api/health").json() == {"status": "ok"}


@pytest.fixture
def no_temporary_files(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a temporary file")

    monkeypatch.setattr(tempfile, "_mkstemp_inner", refuse)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
