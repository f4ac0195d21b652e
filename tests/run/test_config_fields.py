"""Every field of a config is known and has a type, wherever the config comes from."""

import ml_collections
import pytest

from configs import default, glyphs_npair
from symm_jax import errors, losses
from symm_jax.run import config_fields
from symm_jax.training.recipe import create_recipe


def test_the_fields_are_those_of_the_default_config():
    config = default.get_config()
    assert {name for name, _ in config_fields.flatten(config)} == {*config_fields.FIELDS}
    assert not config_fields.missing_fields(config)
    config_fields.check(config)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batchsize", 8, r"config.batchsize is unknown \(did you mean 'batch_size'\?\)"),
        ("optimizer.learning_rat", 5.0, "did you mean 'optimizer.learning_rate'"),
        ("learning_rate", 5.0, "did you mean 'optimizer.learning_rate'"),
        ("optimizer.schedule", "cosine", "config.optimizer.schedule is unknown; known are: b1, b2"),
        ("optimiser", ml_collections.ConfigDict(), "did you mean 'optimizer'"),
        ("data", 5, "config.data must be a section"),
        ("num_steps", 1e4, "config.num_steps must be an integer, got 10000.0"),
        ("num_steps", True, "must be an integer, got True"),
        ("clustering", 1, "must be True or False, got 1"),
        ("model.pretrained", None, "config.model.pretrained must be a string, got None"),
        ("data.mirrors", "http://x", "must be a tuple of strings"),
        ("recall_ks", (1, 2.0), "must be a tuple of integers"),
        ("losses", ({"name": "npair"}, "npair"), "must be a tuple of mappings"),
        ("losses", ({"name": "npair", "scale": "16"},), "losses: scale of 'npair' must be a number, got '16'"),
        ("losses", ({"name": "npair", "l2_normalize": "no"},), "must be True or False"),
        ("losses", ({"name": "npair", "synthesis": {"name": "symmetric", "ratio": "2"}},), "ratio of synthesis 'symm"),
        ("model.options", {"widths": 8}, "options: widths of 'convnet' must be a tuple of integers, got 8"),
    ],
)
def test_what_is_unknown_or_of_another_type_is_named(field, value, message):
    config = glyphs_npair.get_config()
    section, _, name = field.rpartition(".")
    with config.ignore_type():
        (config[section] if section else config)[name] = value
    with pytest.raises(errors.InputError, match=message):
        create_recipe(config)


def test_an_integer_is_a_number_and_a_list_a_tuple():
    config = glyphs_npair.get_config()
    with config.ignore_type():
        config.optimizer.learning_rate, config.recall_ks, config.data.mirrors = 1, [1, 2], []
    config_fields.check(config)
    losses.from_config([{"name": "npair", "scale": 16, "block_size": 8}])
