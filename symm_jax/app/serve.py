"""--mode=serve: serves a page to search an index with pictures."""

import importlib.util

from symm_jax.app.use_flags import Use
from symm_jax.errors import InputError, warn

_NEEDED = ("prometheus_client", "python_multipart", "starlette", "uvicorn")


def serve(given: Use) -> list[str]:
    """Serves until SIGINT or SIGTERM.

    Raises:
      InputError: packages are missing, the address cannot be used, or a mistake in index or weights.
      KeyboardInterrupt: SIGINT came.
      SystemExit: SIGTERM (143) came.
    """
    if missing := [name for name in _NEEDED if not importlib.util.find_spec(name)]:
        raise InputError(
            f"--mode=serve needs the packages {', '.join(missing)}: pip install 'symm_jax[serve]', or "
            "pip install starlette uvicorn python-multipart prometheus-client"
        )
    from symm_jax.search import Index, embedder
    from symm_jax.serve import app, server

    assert given.index is not None
    index = Index(given.index)
    with server.bind(given.host, given.port) as listener:
        local = server.is_loopback(listener)
        if not local and not given.token:
            warn(
                f"there is no login: everyone who reaches {given.host} can search, and see the pictures. To ask for a "
                "password: --token=PASSWORD"
            )
        application = app.create_app(
            index,
            embedder.load_for(index, given.workdir),
            k=given.k or 10,
            token=given.token,
            hosts=server.names(given.host) if local else None,
        )
        print(f"index     {index.folder}: {len(index):,} pictures of {index.images}", flush=True)
        address = server.url(given.host, listener)
        server.run(application, listener, lambda: print(f"search    {address} (Ctrl-C ends it)", flush=True))
    return []
