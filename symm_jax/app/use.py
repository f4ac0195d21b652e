"""The modes that use a trained network, each in a module of its own."""

import ml_collections

from symm_jax.app.use_flags import Use


def run(mode: str, config: ml_collections.ConfigDict | None, given: Use) -> list[str]:
    """Runs a mode. Returns what could not be done, one sentence each.

    Args:
      mode: a key of use_flags.MODES.
      config: of --config or of the workdir; None for modes that need none.
      given: the flags.

    Raises:
      InputError: a mistake in a flag, config, workdir, index or picture.
    """
    # Imported here: each mode has dependencies of its own, which the others do not need.
    if mode == "embed":
        from symm_jax.app.embed import embed

        assert config is not None
        return embed(config, given)
    if mode == "search":
        from symm_jax.app.search import search

        return search(given)
    if mode == "calibrate":
        from symm_jax.app.calibrate import calibrate

        return calibrate(given)
    if mode == "duplicates":
        from symm_jax.app.duplicates import duplicates

        return duplicates(given)
    if mode == "export":
        from symm_jax.app.export import export

        assert config is not None
        return export(config, given)
    if mode == "serve":
        from symm_jax.app.serve import serve

        return serve(given)
    raise AssertionError(mode)
