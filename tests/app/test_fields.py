"""What a user reads of an error: the field or flag, the fact, and what can be done."""

import pytest

from configs import default
from symm_jax.app import fields
from symm_jax.errors import InputError


@pytest.mark.parametrize("argument", fields.FIELDS)
def test_every_argument_has_a_field_or_a_flag_that_exists(argument):
    name = fields.FIELDS[argument]
    value = default.get_config()
    if not name.startswith("--"):
        for key in name.split(".")[1:]:
            value = value[key]


def test_the_fact_stands_between_field_and_advice():
    error = InputError("/photos holds nothing", argument="dir")
    assert str(error) == "dir: /photos holds nothing"
    assert fields.describe(error) == "config.data.dir: /photos holds nothing\nAnother folder: --config.data.dir=FOLDER."
    assert fields.describe(InputError("a plain fact")) == "a plain fact"
    assert fields.describe(InputError("a fact", argument="another")) == "another: a fact"
