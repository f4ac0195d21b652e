"""A config file for the flag --config: the config.json of a workdir, as `--config=saved_config.py:WORKDIR`."""

from pathlib import Path

import ml_collections

from symm_jax.run import config_json


def get_config(workdir: str) -> ml_collections.ConfigDict:
    """The config that the run in `workdir` was started with."""
    return config_json.read(Path(workdir))
