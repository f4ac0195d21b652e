"""--mode=embed: embeds a folder of pictures by the network of a workdir, or by a pretrained backbone alone."""

import ml_collections

from symm_jax.app import checks, fetch
from symm_jax.app.use_flags import Use
from symm_jax.errors import InputError
from symm_jax.run import config_json
from symm_jax.run import workdir as workdirs
from symm_jax.search import build, embedder


def embed(config: ml_collections.ConfigDict, given: Use) -> list[str]:
    """Writes or updates an index. Returns a message for each damaged picture.

    Raises:
      InputError: a mistake in config, workdir, pictures or index.
    """
    assert given.images is not None and given.out is not None
    if not given.images.exists():  # before the network is loaded
        raise InputError(f"{given.images} does not exist.", argument="images")
    return build.build(load_network(config, given), given.images, given.out, dtype=given.dtype)


def load_network(config: ml_collections.ConfigDict, given: Use) -> embedder.Embedder:
    """Loads the network of a workdir, or a pretrained backbone alone.

    Raises:
      InputError: a mistake in config or workdir.
    """
    checks.validate(config, num_devices=1)
    if given.workdir is None:
        return _load_backbone(config)
    workdirs.check_config(given.workdir, config_json.to_dict(config), any_seed=True)
    return embedder.load(given.workdir, given.step)


def _load_backbone(config: ml_collections.ConfigDict) -> embedder.Embedder:
    m = config.model
    if not m.pretrained:
        raise InputError(
            "it is empty, and a backbone alone needs pretrained weights. Name them, or pass --workdir.",
            argument="backbone",
        )
    fetch.fetch_weights(config)
    return embedder.load_backbone(
        m.name,
        m.pretrained,
        image_size=config.data.image_size,
        orient=embedder.orients(config.data.name),
        batch_size=config.eval_batch_size,
        dtype=m.dtype,
        param_dtype=m.param_dtype,
        **m.options,
    )
