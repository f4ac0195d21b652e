"""Runs the application on an address until a signal ends it."""

import errno
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

from symm_jax.errors import InputError

_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_GRACE_SECONDS = 3  # for requests that are being answered when the server ends
_CONNECTIONS = 512


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
      InputError: the port is taken, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"{host!r} is not known ({error}). This machine only: 127.0.0.1.", argument="host") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            fact = f"{port} is in use on {host}. Pass another one, or 0 for any that is free."
        elif error.errno == errno.EACCES:
            fact = f"this user may not use {port} ({error.strerror}). Pass one from 1024 on."
        else:
            raise InputError(
                f"{host} cannot be used ({error.strerror}). This machine only: 127.0.0.1. All its addresses: 0.0.0.0.",
                argument="host",
            ) from error
        raise InputError(fact, argument="port") from error
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches the socket."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def names(host: str) -> tuple[str, ...]:
    """The names that a server on the loopback address `host` may be called."""
    return (*_LOCAL, f"[{host}]" if ":" in host else host)


def url(host: str, listener: socket.socket) -> str:
    """The address of the page."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"


def run(app: Starlette, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serves until SIGINT or SIGTERM, and calls `ready` when the first request can come.

    Raises:
      InputError: the processes that decode cannot be started.
      KeyboardInterrupt: SIGINT came.
      SystemExit: SIGTERM (143) came.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    config = uvicorn.Config(
        app,
        loop="asyncio",  # uvloop forks with its own hands, of which JAX warns
        access_log=False,
        server_header=False,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=_GRACE_SECONDS,
        limit_concurrency=_CONNECTIONS,
    )
    server = _Server(config, ready)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # uvicorn raises the signal again at its end
    try:
        server.run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
        listener.close()
    if not server.started:
        raise InputError("the processes that decode pictures cannot be started: see above.")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()
