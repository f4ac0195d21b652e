"""The config of a run, as it is written and read back."""

import contextlib
import json
import shlex
import subprocess

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from configs import car_symm_npair, default
from symm_jax import errors
from symm_jax.run import checkpoints, config_fields, config_json, paths, workdir


def test_a_config_is_read_as_it_was(tmp_path):
    config = car_symm_npair.get_config()
    stored = config_json.to_dict(config)
    paths.config(tmp_path).write_text(json.dumps(stored))
    assert config_json.read(tmp_path).to_dict() == config.to_dict()
    assert not workdir.differences(stored, config_json.to_dict(config_json.read(tmp_path)))


def test_fields_that_did_not_exist_have_the_values_of_then(tmp_path):
    stored = config_json.to_dict(default.get_config())
    del stored["keep_checkpoints"], stored["data"]["validation_seed"], stored["optimizer"]["backbone_rate"]
    paths.config(tmp_path).write_text(json.dumps(stored))
    assert config_json.read(tmp_path).to_dict() == default.get_config().to_dict()
    assert not workdir.differences(config_json.to_dict(default.get_config()), stored)


def write(tmp_path, text, **changes):
    """A config.json with changed fields or, without changes, with `text`."""
    config = config_json.to_dict(default.get_config()) | changes
    paths.config(tmp_path).write_text(json.dumps(config) if changes else text)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("", {}),
        ("[1]", {}),
        ('{"seed": 3}', {}),
        ("[" * 100_000, {}),
        ("", {"data": 3}),
        ("", {"seed": float("nan")}),
        ("", {"batch_size": "128"}),
        ("", {"recall_ks": {"1": 2}}),
        ("", {"model": {"options": {"a.b": 1}}}),
    ],
)
def test_a_damaged_file_is_named_and_restored_from_a_checkpoint(tmp_path, text, changes):
    write(tmp_path, text, **changes)
    with pytest.raises(errors.InputError, match="config.json is damaged .* No checkpoint has a copy of it"):
        config_json.read(tmp_path)
    copy = paths.checkpoint(tmp_path, 3) / "config" / "metadata"
    copy.parent.mkdir(parents=True)
    copy.write_text(json.dumps(config_json.to_dict(default.get_config())))
    with pytest.raises(errors.InputError, match="config.json is damaged") as error:
        config_json.read(tmp_path)
    subprocess.run(shlex.split(str(error.value).partition("Run: ")[2]), check=True)  # what the message says to do
    assert config_json.read(tmp_path).to_dict() == default.get_config().to_dict()


def test_the_copy_in_a_checkpoint_is_where_the_message_says(tmp_path):
    config = config_json.to_dict(default.get_config())
    with checkpoints.Writer(tmp_path, config) as writer:
        writer.save(3, {"w": np.float32([1])}, {"m": np.float32([0])})
    assert config_json.in_checkpoint(tmp_path, 3) == config
    with pytest.raises(errors.InputError, match="holds no config.json"):
        config_json.read(tmp_path)


def test_a_field_that_no_version_reads_is_ignored_with_a_warning(tmp_path, capsys):
    """Versions before recorded fields that had no effect. Their runs are still evaluated and resumed."""
    config = config_json.to_dict(default.get_config())
    config["optimizer"]["learning_rat"], config["batchsize"] = 5.0, 8
    paths.config(tmp_path).write_text(json.dumps(config))
    assert config_json.read(tmp_path).to_dict() == default.get_config().to_dict()
    assert "optimizer.learning_rat is unknown (did you mean 'optimizer.learning_rate'?)" in capsys.readouterr().err
    assert not workdir.differences(config_json.to_dict(default.get_config()), config_json.read_dict(tmp_path))
    config["data"]["validation_clasres"] = config["data"].pop("validation_classes")  # its value must not be lost
    paths.config(tmp_path).write_text(json.dumps(config))
    with pytest.raises(errors.InputError, match="validation_clasres is unknown, and .*validation_classes is missing"):
        config_json.read(tmp_path)


@given(position=strategies.floats(0, 1, exclude_max=True), bit=strategies.integers(0, 7), cut=strategies.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_wrong_byte_gives_a_config_or_our_error(tmp_path, position, bit, cut):
    content = bytearray(json.dumps(config_json.to_dict(car_symm_npair.get_config())).encode())
    index = int(position * len(content))
    content[index] ^= 1 << bit
    paths.config(tmp_path).write_bytes(content[: index + 1] if cut else content)
    with contextlib.suppress(errors.InputError):
        config_fields.check(config_json.read(tmp_path))
