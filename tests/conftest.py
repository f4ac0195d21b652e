"""Eight host devices, strict promotion, checked shapes, and small data sets and configs shared by the tests.

Tests run on the CPU. SYMM_JAX_TEST_PLATFORMS=cuda,cpu lets those that need one device run on a GPU.

Shapes: in the tests, every call of an annotated function of the modules below is checked against its annotations, such
as `Float[Array, "n dim"]`, by beartype through jaxtyping's import hook. Programs and users run without these checks. A
wrong shape raises jaxtyping.TypeCheckError before the function runs. Tests of our own errors for wrong arguments
therefore use the fixture `without_shape_checks`.
"""

import gc
import json
import os
import signal
import threading
from pathlib import Path

import launcher

collect_ignore_glob = ["*/conftest.py"]  # they are no modules with examples; pytest reads their fixtures all the same

# Tests that are started in the background of a script ignore Ctrl-C. The programs that they start must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Most of the time of the tests is compilation. All tests, and the programs that they start, share one cache of compiled
# programs, and the next run of the tests uses it too. `make clean` deletes it.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(".pytest_cache/compiled").resolve()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Tracing makes many objects and little garbage. To look for it less often saves a sixteenth of the time.
gc.set_threshold(100_000, 20, 50)
# The threads of NumPy's products wait by running. The workers need the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
_given = os.environ.get("SYMM_JAX_TEST_PLATFORMS")
os.environ["JAX_PLATFORMS"] = _given or "cpu"
# The other flags are of the CPU alone.
_flags = launcher.xla_flags(devices=8, optimised=bool(_given))
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flags}"

import jax
import jaxtyping

jax.config.update("jax_numpy_rank_promotion", "raise")
# The hook must be set before the modules are imported. As in type checkers, an int is accepted for a float.
jaxtyping.install_import_hook(
    ["symm_jax.losses", "symm_jax.synthesis", "symm_jax.metrics", "symm_jax.models", "symm_jax.data.augment"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

import http_server
import photographs
import pytest


@pytest.fixture(scope="module")
def module_on_one_device():
    """As `one_device`, also for the fixtures of a module."""
    devices = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda **_: devices)
        yield


@pytest.fixture
def cars(tmp_path):
    folder = tmp_path / "cars"
    photographs.cars_original(folder)
    return folder


@pytest.fixture
def data_source(tmp_path):
    """A function (name, folder, fields) -> datasets.Source."""
    from symm_jax.data import datasets

    def make(name, folder, **fields):
        return datasets.Source(name, str(folder), str(tmp_path / "cache"), **fields)

    return make


@pytest.fixture
def deny(monkeypatch):
    """A function (ending) that makes folders whose path ends so unreadable, also for root."""

    def refuse(ending):
        scan = os.scandir

        def scandir(path):
            if str(path).endswith(ending):
                raise PermissionError(13, "Permission denied")
            return scan(path)

        monkeypatch.setattr(os, "scandir", scandir)

    return refuse


@pytest.fixture
def without_shape_checks():
    """Switches off the checks of annotations, for tests of our own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def forget_warnings():
    """Makes every test print its warnings, also those that an earlier test printed."""
    from symm_jax import errors

    errors.warn.cache_clear()


@pytest.fixture
def tiny(cars, tmp_path):
    """A config that trains in seconds: 5 training classes of tiny photographs, a tiny ConvNet."""
    from configs import car_symm_npair

    config = car_symm_npair.get_config()
    config.data.dir, config.data.cache_dir = str(cars), str(tmp_path / "cache")
    config.data.image_size = 16
    config.batch_size, config.num_steps, config.checkpoint_every, config.log_every = 8, 6, 3, 1
    config.model.name, config.model.pretrained, config.model.dim = "convnet", "", 8
    config.model.options = type(config)({"widths": (8, 8)})
    config.losses = ({"name": "npair", "synthesis": "symmetric", "l2_normalize": True, "scale": 8.0},)
    config.optimizer.learning_rate = 1e-2
    return config


@pytest.fixture(scope="session")
def launch():
    """A launcher.Launcher that runs."""
    with launcher.Launcher() as running:
        yield running


@pytest.fixture
def config_flag(tmp_path):
    """A function (config) -> the flag that makes launch.py use it."""

    def write(config):
        from symm_jax.run import config_json, paths

        folder = tmp_path / "config"
        folder.mkdir(exist_ok=True)
        paths.config(folder).write_text(json.dumps(config_json.to_dict(config)))
        return f"--config=symm_jax/app/saved_config.py:{folder}"

    return write


@pytest.fixture
def use_devices(monkeypatch):
    """A function (number) that makes the program see the first `number` of the eight devices."""
    pmap = jax.pmap

    def use(number):
        devices = jax.devices()[:number]
        monkeypatch.setattr(jax, "device_count", lambda: number)
        monkeypatch.setattr(jax, "local_device_count", lambda: number)
        monkeypatch.setattr(jax, "local_devices", lambda **_: devices)
        monkeypatch.setattr(jax, "pmap", lambda f, **options: pmap(f, **(options | {"devices": devices})))

    return use


@pytest.fixture
def one_device(use_devices):
    """Makes the program see one of the eight devices."""
    use_devices(1)


@pytest.fixture
def server(monkeypatch):
    """A running HTTP server, reached without a proxy."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with http_server.Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()
