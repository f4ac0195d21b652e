"""--mode=export: writes the network of a workdir, or a pretrained backbone alone, as files that run alone."""

import ml_collections

from symm_jax.app.embed import load_network
from symm_jax.app.use_flags import Use
from symm_jax.export import card, write


def export(config: ml_collections.ConfigDict, given: Use) -> list[str]:
    """Writes an export. What a file cannot be written for is printed and on its card.

    Raises:
      InputError: a mistake in config, workdir or the folder.
    """
    assert given.out is not None
    network = load_network(config, given)
    run = card.read_run(given.workdir, network.weights["step"]) if given.workdir else None
    write.write(network, given.out, run)
    return []
