"""Mistakes on the command line and in config files: one message each, before anything is done."""

import pytest


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
        (
            ["--config.num_steps=50"],
            "--config is missing, such as --config=configs/car_symm_npair.py; --config.n",
        ),
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
