"""launch.py as a user runs it: the main job, its modes, and the mistakes of a tired person."""

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        (["--mode=eval", "--workdir=/tmp/absent-run"], "/tmp/absent-run holds no config.json"),
        (["--mode=train", "--workdir=/tmp/absent-run"], "--config is missing"),
        (["--config=configs/absent.py"], "absent.py: there is no such file"),
        (["--config", "configs/absent.py"], "absent.py: there is no such file"),
        (["--config=configs/glyphs_npair.py", "--config.model.name=conv"], "did you mean 'convnet'"),
        (["--config=configs/glyphs_npair.py", "--config.losses=({'name':'n_pair'},)"], "did you mean 'npair'"),
        (
            ["--config=configs/glyphs_npair.py", "--config.model.pretrained=x.mat"],
            "no pretrained weights for 'convnet'",
        ),
        (
            ["--config=configs/car_npair.py", "--config.batchsize=4"],
            "no field 'batchsize' (did you mean 'batch_size'?)",
        ),
        (["--config=configs/car_npair.py", "--config.data.dri=x"], "no field 'data.dri' (did you mean 'data.dir'?)"),
        (["--config=configs/car_npair.py", "--batch_size=4"], "not a flag; did you mean --config.batch_size?"),
        (["--config=configs/car_npair.py", "--workdri=a"], "not a flag; did you mean --workdir?"),
        (["--config=configs/car_npair.py", "--config.batch_size=63.5"], "batch_size must be an integer, got '63.5'"),
        (["--config=configs/car_npair.py", "--config.recall_ks=(1,2"], "its brackets do not match"),
        (["--config=configs/car_npair.py", "--config.losses=({'name':'npair'}"], "must be a tuple of mappings"),
        (["--config=configs/car_npair.py", "--config.model.options.size=3"], "replaces all options"),
        (["--config=configs/car_npair.py", "--workdir=~no-such-user/a"], "Set HOME, or write the path without ~"),
        (["--config="], "--config= is empty"),
        (["--config=README.md"], "README.md: it is no Python file"),
        (["--config=configs/glyphs_npair.py:x"], "--config=configs/glyphs_npair.py: TypeError: get_config() takes 0"),
        (["--config=configs/glyphs_npair.py", "--workdir="], "--workdir= is empty"),
        (
            ["--config=configs/glyphs_npair.py", "--config.data.cache_dir="],
            "config.data.cache_dir: the name of the folder",
        ),
        (["--mode=search", "--index=/tmp", "--query=/tmp", "--table=a"], "--table needs --to"),
        (["configs/car_npair.py"], "did you mean --config=configs/car_npair.py?"),
        (["--config=configs/car_npair.py", "config.batch_size=4"], "did you mean --config.batch_size=4?"),
        (["--config=configs/car_npair.py", "extra"], "words that belong to no flag: extra"),
        (["--config=configs/car_npair.py", "--mode=evaluate"], "did you mean 'eval'"),
        (["--config=configs/car_npair.py", "--config.num_steps=many"], "num_steps must be an integer, got 'many'"),
        (["--config=configs/car_npair.py", "--config.num_steps=0"], "config.num_steps must be an integer above 0"),
        (
            ["--config=configs/inshop_npair.py", "--config.model.pretrained=", "--config.data.dir=/absent"],
            "config.data.dir: /absent does not exist. It should hold",
        ),
        (
            ["--config=configs/cub_npair.py", "--mode=prepare", "--config.data.mirrors=('x',)"],
            "config.data.mirrors: 'x'",
        ),
        (["--config=configs/car_npair.py", "--config.data.dir=/tmp", "--workdir=/tmp/a"], "lies in config.data.dir"),
        (["--config=configs/glyphs_npair.py", "--config.data.name=cars"], "did you mean 'cars196'"),
        (["--config=configs/car_npair.py", "--mode=eval", "--workdir=/tmp/absent-run"], "holds no checkpoints"),
        (["--config=configs/glyphs_npair.py", "--mode=report", "--workdir=/tmp/absent-run"], "choice.json is missing"),
        (
            ["--config=configs/glyphs_npair.py", "--workdir=a", "--workdir=b"],
            "--mode=train_and_eval accepts one --workdir; got 2",
        ),
        (["--config=configs/glyphs_npair.py", "--watch"], "--watch needs --mode=eval"),
        (["--config=configs/glyphs_npair.py", "--mode=eval", "--coordinator=auto"], "only training runs in several"),
        (["--config=configs/glyphs_npair.py", "--coordinator=host"], "--coordinator=host: must be HOST:PORT"),
        (["--config=configs/glyphs_npair.py", "--coordinator=h:1", "--num_processes=2"], "needs --num_processes, and"),
        (["--config=configs/glyphs_npair.py", "--process_id=1"], "need --coordinator=HOST:PORT"),
        (["--config=configs/glyphs_npair.py", "--coordinator=auto"], "no job of SLURM, Open MPI or Kubernetes found"),
        (["--config=configs/glyphs_npair.py", "--mode=compare"], "needs a config of configs/compare/"),
        (["--config=configs/compare/glyphs.py"], "needs a config of configs/compare/"),
        (["--config=configs/compare/glyphs.py", "--mode=compare", "--config.baseline=pair"], "did you mean 'npair'"),
        (
            ["--config=configs/compare/glyphs.py", "--mode=compare", "--config.methods.pair.num_steps=3"],
            "--config.methods.pair.num_steps: the config has no 'pair'",
        ),
    ],
)
def test_mistakes_are_answered_without_a_traceback(arguments, message, launch):
    result = launch(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = [1,\n", "line 1: '[' was never closed"),
        ("def get_config():\n    return absent\n", "line 2: NameError: name 'absent' is not defined"),
        ("import absent_package\n", "line 1: ModuleNotFoundError: No module named 'absent_package'"),
        ("def get_config():\n    return ()[1]\n", "line 2: IndexError: tuple index out of range"),
        ("x = 1\n", "it has no function get_config()"),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line_with_its_place(content, message, launch, tmp_path):
    (tmp_path / "own.py").write_text(content)
    result = launch(f"--config={tmp_path / 'own.py'}")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"{tmp_path / 'own.py'}" in result.stderr and message in result.stderr


@pytest.mark.parametrize(
    ("changes", "mode", "message"),
    [
        (
            "config.optimizer.learning_rat = 5.0",
            "train",
            "config.optimizer.learning_rat is unknown (did you mean 'opti",
        ),
        ("config.batchsize = 8", "prepare", "config.batchsize is unknown (did you mean 'batch_size'?)"),
        ("config.num_steps = 1e4", "eval", "own.py, line 4: TypeError: Could not override field 'num_steps'"),
        ("config.model.pretrained = None", "train", "config.model.pretrained must be a string, got None"),
        ("del config.data.crop", "train", "config lacks data.crop; copy what is missing from configs/default.py"),
        ("config = None", "train", "get_config() must return a ConfigDict, got None"),
        ("config = compare(sedes=(1,))", "compare", "config.sedes is unknown (did you mean 'seeds'?)"),
        ("config = compare(seeds=1)", "compare", "config.seeds must be a tuple of integers, got 1"),
        ("config.lr = 1; config = compare(config)", "compare", "config.methods.a.lr is unknown"),
    ],
)
def test_a_config_file_is_checked_before_anything_is_done(changes, mode, message, launch, tmp_path):
    (tmp_path / "own.py").write_text(
        "from configs import glyphs_npair\ndef get_config():\n"
        f"    config = glyphs_npair.get_config()\n    {changes}\n    return config\n"
        "def compare(method=glyphs_npair.get_config(), **others):\n"
        "    fields = {'methods': {'a': method}, 'baseline': 'a', 'seeds': (1,), 'validation_classes': (0,)}\n"
        "    return type(method)(fields | others)\n"
    )
    result = launch(f"--config={tmp_path / 'own.py'}", f"--mode={mode}", f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


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
