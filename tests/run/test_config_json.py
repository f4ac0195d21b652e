"""The config of a run, as it is written and read back."""

import json
import shutil

import numpy as np
import pytest

from configs import car_symm_npair, default
from symm_jax import errors
from symm_jax.run import checkpoints, config_json, paths, workdir


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


@pytest.mark.parametrize("content", ["", "[1]", '{"data": 3}'])
def test_a_damaged_file_is_named(tmp_path, content):
    paths.config(tmp_path).write_text(content)
    with pytest.raises(errors.InputError, match=r"config.json is damaged .* copy .*/checkpoints/STEP/config/metadata"):
        config_json.read(tmp_path)
    with checkpoints.Writer(tmp_path, config_json.to_dict(default.get_config())) as writer:
        writer.save(3, {"w": np.float32([1])}, {"m": np.float32([0])})
    with pytest.raises(errors.InputError, match=r"config.json is damaged"):
        workdir.check_config(tmp_path, config_json.to_dict(default.get_config()))
    # What the message says to do.
    shutil.copy(paths.checkpoint(tmp_path, 3) / "config" / "metadata", paths.config(tmp_path))
    workdir.check_config(tmp_path, config_json.to_dict(config_json.read(tmp_path)))
    paths.config(tmp_path).unlink()
    with pytest.raises(errors.InputError, match="holds no config.json"):
        config_json.read(tmp_path)
