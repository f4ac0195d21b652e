"""launch.py as a user runs it: the main job and its modes, the configs that ship, --help and the documented code."""

import contextlib
import importlib
import inspect
import math
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import launcher
import pytest
from flax.traverse_util import flatten_dict

import symm_jax
from configs import default
from symm_jax import errors
from symm_jax.app import checks, compare, fetch, flags
from symm_jax.evaluation.protocol import create_protocol
from symm_jax.run import metric_log, paths
from symm_jax.training.recipe import create_plan

CONFIGS = sorted(p.stem for p in Path("configs").glob("*.py"))
COMPARISONS = sorted(p.stem for p in Path("configs/compare").glob("*.py"))


def launch_as_a_user_does(*arguments):
    command = [sys.executable, "launch.py", *arguments]
    environment = os.environ | {"XLA_FLAGS": launcher.xla_flags(devices=2)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def car_flags(cars, tmp_path):
    sizes = {"data.image_size": 35, "batch_size": 4, "num_steps": 2, "checkpoint_every": 1, "log_every": 2}
    sizes["eval_batch_size"] = 4
    return [
        "--config=configs/car_symm_npair.py",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.dir={cars}",
        f"--config.data.cache_dir={tmp_path / 'cache'}",
        "--config.model.pretrained=",
        "--config.model.name=convnet",  # tests/test_optim.py trains GoogLeNet
        "--config.model.options={'widths': (8, 8)}",
        *(f"--config.{field}={value}" for field, value in sizes.items()),
    ]


def test_the_main_job_and_its_modes(cars, tmp_path, launch):
    flags = car_flags(cars, tmp_path)
    prepared = launch(*flags, "--mode=prepare")
    assert prepared.returncode == 0, prepared.stderr
    assert "15 images of 5 classes" in prepared.stdout
    whole = launch_as_a_user_does(*flags)
    assert whole.returncode == 0, whole.stderr
    assert "devices   2 x cpu" in whole.stdout
    table = re.findall(r"^ +([12])((?: +\d+\.\d\d%){4})", whole.stdout, re.M)
    assert [step for step, _ in table] == ["1", "2"]
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {
        *(
            "config.json",
            "data.json",
            "checkpoints",
            "finished",
            "train",
            "eval",
            "best",
            "tensorboard",
            "report.html",
            "figures",
        ),
        ".lock",
    }
    lines = metric_log.read(paths.metrics(tmp_path / "run", "eval"))
    assert [line["step"] for line in lines] == [1, 2]
    assert set(lines[0]) == {
        "step",
        "recall@1",
        "recall@2",
        "recall@4",
        "recall@8",
        "map@r",
        "r_precision",
        "nmi",
        "f1",
    }
    (line,) = metric_log.read(paths.metrics(tmp_path / "run", "train"))
    assert 0 <= line["npair/synthetic_share"] <= 1
    assert sum(x for name, x in line.items() if name.startswith("npair/winner")) == pytest.approx(1, abs=1e-5)
    again = launch("--mode=eval", f"--workdir={tmp_path / 'run'}")  # its config is in the workdir
    assert again.returncode == 0, again.stderr
    assert re.findall(r"^ +([12])((?: +\d+\.\d\d%){4})", again.stdout, re.M) == table
    (tmp_path / "run/report.html").unlink()
    drawn = launch("--mode=report", f"--workdir={tmp_path / 'run'}", "--config.clustering=False")
    assert drawn.returncode == 0, drawn.stderr
    assert "images of 3 classes" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_loads_and_is_valid(name):
    checks.validate(load(name), num_devices=2)


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_comparison_can_be_planned(name, tmp_path):
    comparison = load(f"compare.{name}")
    runs = compare.plan(comparison, tmp_path)
    counts = map(len, (comparison.methods, comparison.seeds, comparison.validation_classes))
    assert len(runs) == math.prod(counts)
    assert runs[0].method in str(comparison.baseline)


def load(name):
    return __import__(f"configs.{name}", fromlist=["get_config"]).get_config()


# Those of the sections "augment" and "model.options" are arguments by name: an unknown one is a TypeError.
FIELDS = [
    f for f in flatten_dict(default.get_config().to_dict(), sep=".") if not f.startswith(("augment.", "model.opt"))
]


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_read(field, tmp_path):
    config = load("car_npair")
    config.data.name, config.model.pretrained = "glyphs", ""
    section, _, name = field.rpartition(".")
    with config.unlocked():
        del (config[section] if section else config)[name]
    with pytest.raises((AttributeError, KeyError, TypeError)):
        checks.validate(config, num_devices=2)
        create_plan(config)
        create_protocol(config)
        fetch.fetch_missing({tmp_path: config})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", 5, "even"),
        ("seed", 2**32, "below"),
        ("batch_size", 2, "at least 4"),
        ("batch_size", 12, "4 devices cannot share"),
        ("batch_size", -8, "above 0"),
        ("checkpoint_every", 0, "above 0"),
        ("data.image_size", -1, "above 0"),
        ("model.dim", 0, "above 0"),
        ("data.on_device", "sometimes", "one of auto, always, never"),
        ("model.dtype", "float23", "one of float32"),
        ("model.param_dtype", "bfloat16", "one of float32, float64"),
        ("model.param_dtype", "float64", "needs JAX_ENABLE_X64=1"),
        ("optimizer.learning_rate", 0.0, "above 0"),
        ("optimizer.learning_rate", float("nan"), "above 0"),
        ("optimizer.b1", 1.0, "between 0 and 1"),
        ("augment.max_margin", 0.5, "below 0.5"),
        ("augment.enlarge", 0.9, "1 or more"),
        ("recall_ks", (0,), "above 0"),
        ("data.images_per_class", 3, "even, 2 or more"),
    ],
)
def test_values_that_cannot_be_trained_with_are_named(field, value, message):
    config = load("default")
    with config.unlocked():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(errors.InputError, match=message) as error:
        checks.validate(config, num_devices=4)
    assert f"config.{field}" in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "npair"}, "config.losses: 'npair' compares two images of one class in each row. .* Set it to 2"),
        (
            {"name": "supcon", "synthesis": {"name": "symmetric"}},
            "config.losses: the synthesis 'symmetric' of 'supcon' makes points from two .* without this synthesis",
        ),
        ({"name": "norm_softmax"}, ""),
        ({"name": "supcon"}, ""),
    ],
)
def test_shuffled_epochs_are_refused_where_pairs_are_needed(spec, message):
    config = load("default")
    config.losses, config.data.images_per_class = (spec,), 1
    with pytest.raises(errors.InputError, match=message) if message else contextlib.nullcontext():
        checks.validate(config, num_devices=2)


def test_help_is_one_screen(launch):
    result = launch("--help")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 120
    assert all(f"  {mode} " in result.stdout for mode in flags.MODES)
    assert result.stdout.count("python launch.py") == 4


def public_functions():
    for found in pkgutil.walk_packages(symm_jax.__path__, "symm_jax."):
        module = importlib.import_module(found.name)
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__:
                yield f"{module.__name__}.{name}", function


def test_public_functions_are_documented_as_they_are():
    """Every name under "Args:" is an argument, and every argument of such a function is named there."""
    checked = 0
    for name, function in public_functions():
        text = inspect.getdoc(function) or ""
        if "Args:" in text:
            section = re.split(r"\n\n?(?=\w+:\n)", text.split("Args:\n")[1])[0]
            documented = re.findall(r"^  \*{0,2}(\w+):", section, re.M)
            assert documented == list(inspect.signature(function).parameters), name
            checked += 1
    assert checked > 50


@pytest.mark.parametrize("page", ["README.md", "docs/losses.md", "docs/models.md"])
def test_documented_code_runs(page):
    code = "\n".join(re.findall(r"```python\n(.*?)```", Path(page).read_text(), re.S))
    names = {}
    exec(code, names)
    if page == "README.md":
        assert names["history"][-1] < 0.9 * names["history"][0]
    else:
        assert float(names["loss"]) > 0
