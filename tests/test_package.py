"""The package: what the wheel holds, the wheel alone in a fresh environment, and its lists of requirements."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import uv

ROOT = Path(__file__).parents[1]
SOURCES = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "symm_jax",
    "requirements",
    "requirements-dev.txt",
    "requirements-docs.txt",
)
LIBRARY = "losses", "metrics", "models", "optim", "synthesis"

# Packages of the extra "train" that no dependency of the library brings: flax brings Orbax, and Optax absl-py.
ABSENT = (
    "cv2",
    "matplotlib",
    "ml_collections",
    "PIL",
    "safetensors",
    "simplejpeg",
    "tensorboardX",
    "tensorflow_datasets",
)

IMPORTS = f"""
import importlib, importlib.metadata, importlib.util, sys

import symm_jax
assert symm_jax.__file__.startswith(sys.prefix), symm_jax.__file__
assert symm_jax.__version__ == importlib.metadata.version("symm_jax"), symm_jax.__version__
assert "jax" not in sys.modules
assert not [name for name in {ABSENT} if importlib.util.find_spec(name)]
for name in {LIBRARY}:
    importlib.import_module("symm_jax." + name)
assert "orbax" not in sys.modules
"""

USE = """
import numpy as np
from symm_jax import metrics, models

assert history[-1] < 0.1 * history[0], history
points = np.concatenate([embed(params, anchors), embed(params, positives)])
recall = metrics.recall_at_k(points, np.tile(np.arange(64), 2), ks=(1, 2))
assert 0.9 < recall[1] <= recall[2] <= 1.0, recall
model = models.create("convnet", dim=8)
images = np.zeros((2, 16, 16, 3), np.uint8)
variables = jax.jit(model.init)(jax.random.key(0), images)
assert jax.jit(model.apply)(variables, images).shape == (2, 8)
"""


def requirements(name: str) -> list[str]:
    """The lines of a list of requirements, and of those that it includes."""
    lines = []
    for line in (ROOT / name).read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            lines += requirements(line.removeprefix("-r "))
        elif line:
            lines.append(line)
    return lines


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def run(*command) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    if done.returncode and "CI" not in os.environ and re.search(r"Failed to fetch|network was disabled", done.stderr):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stdout + done.stderr


def test_wheel(tmp_path, monkeypatch):
    source, python = tmp_path / "source", tmp_path / "environment" / "bin" / "python"
    source.mkdir()
    for name in SOURCES:  # the build writes beside the sources
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    # The source distribution, and the wheel from it.
    run(uv.find_uv_bin(), "build", "--python", sys.executable, "--out-dir", tmp_path, source)
    [wheel] = tmp_path.glob("*.whl")

    files = {path.relative_to(ROOT) for path in (ROOT / "symm_jax").rglob("*") if path.is_file()}
    files = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        [metadata] = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA")]
    assert packed == files
    declared = []  # (requirement, extra)
    for requirement, marker in re.findall(r"^Requires-Dist: ([^;\n]+);?(.*)$", metadata, re.MULTILINE):
        extra = re.search(r"extra == \"(\w+)\"", marker)
        declared.append((requirement, extra[1] if extra else ""))
    for extra, name in {
        "": "requirements/library.txt",
        "train": "requirements/train.txt",
        "postgres": "requirements/postgres.txt",
        "cuda": "requirements/cuda.txt",
        "onnx": "requirements/onnx.txt",
        "usearch": "requirements/usearch.txt",
        "serve": "requirements/serve.txt",
        "dev": "requirements-dev.txt",
        "docs": "requirements-docs.txt",
    }.items():
        assert sorted(map(parsed, requirements(name))) == sorted(parsed(line) for line, of in declared if of == extra)

    run(uv.find_uv_bin(), "venv", "--python", sys.executable, python.parents[1])
    run(uv.find_uv_bin(), "pip", "install", "--python", python, wheel)
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    run(python, "-c", IMPORTS + example + USE)


def parsed(requirement: str) -> tuple[str, list[str]]:
    """Name and bounds, however they are spelt, without the marker."""
    requirement = requirement.partition(";")[0].replace(" ", "")
    name, bounds = re.fullmatch(r"([\w.\-]+(?:\[[\w,]+\])?)(.*)", requirement).groups()
    return normalized(name), sorted(bounds.split(","))


def test_requirements_are_what_is_imported():
    files = [f"requirements/{extra}.txt" for extra in ("onnx", "postgres", "serve", "usearch")]
    lines = [line for file in files for line in requirements(file)]
    assert {*lines} <= {*requirements("requirements-dev.txt")}  # setuptools cannot read "-r" there
    names = {re.match(r"[\w.\-]+", line)[0] for line in (*requirements("requirements.txt"), *lines)}
    listed = {*map(normalized, names)}
    providers = importlib.metadata.packages_distributions()
    imported = set()
    for path in (*ROOT.glob("symm_jax/**/*.py"), *ROOT.glob("configs/**/*.py"), ROOT / "launch.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
    imported = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - {"symm_jax", "configs"}
    used = {name: {*map(normalized, providers[name])} for name in imported}
    assert not {name for name, provided_by in used.items() if not provided_by & listed}
    # flatbuffers serves jax.export, array-record and importlib-resources serve tensorflow-datasets, jaxtyping the
    # annotations that are being written, and starlette imports python-multipart.
    unused = listed - set().union(*used.values())
    assert unused <= {"array-record", "flatbuffers", "importlib-resources", "jaxtyping", "python-multipart"}


def test_cuda_is_the_same_list_with_jax_for_gpus():
    gpu = [line for line in requirements("requirements-cuda.txt") if line not in requirements("requirements.txt")]
    assert gpu == [
        "jax[cuda]" + line.removeprefix("jax") for line in requirements("requirements.txt") if line[:4] == "jax>"
    ]


def test_imports_without_what_only_linux_has():
    """macOS has no posix_fallocate, Windows neither fcntl nor resource."""
    program = """
import importlib, os, pkgutil, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
del os.posix_fallocate
import symm_jax
for module in pkgutil.walk_packages(symm_jax.__path__, "symm_jax."):
    importlib.import_module(module.name)
import launch
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_import_is_instant():
    code = "import sys, symm_jax; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
