"""A connection to PostgreSQL with pgvector. Every error of the server is one message, and no message has a password."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from symm_jax.errors import InputError

try:
    import psycopg
    from psycopg import conninfo, sql
except ImportError as error:
    raise InputError(
        f"PostgreSQL needs the package psycopg ({error}): pip install 'symm_jax[postgres]', or "
        "pip install 'psycopg[binary]'.",
        argument="to",
    ) from error

__all__ = ["Connection", "connected", "require_pgvector", "sql"]
Connection = psycopg.Connection[Any]
_FORM = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
_SECONDS = 10  # to wait for a connection, unless the URL has connect_timeout
_OLDEST = (0, 7)  # of pgvector: the first with halfvec
_AGAIN = "Batches that were finished are kept. Run the same command again; it goes on."
# SQLSTATE -> the argument at fault, and what to do.
_ADVICE = {
    "42501": ("table", "Ask for the right (GRANT ... ON SCHEMA or ON TABLE), or name a table that is yours."),
    "3F000": ("table", "Create the schema (CREATE SCHEMA), or name another one."),
    "22P05": ("to", "Pass a database with the encoding UTF8."),
    "25006": ("to", "Pass a server that can be written, not a copy of one."),
    "53100": ("to", f"Make room on the server. {_AGAIN}"),
    "54000": ("to", "Shorten the path of the picture, then embed and run the same command again."),
}


@contextlib.contextmanager
def connected(url: str) -> Iterator[Connection]:
    """Yields a connection, which commits each statement outside of `transaction()`. It is closed when the block ends.

    Args:
      url: postgresql://..., as libpq takes it.

    Raises:
      InputError: the URL is wrong, there is no connection, or the server refuses a statement of the block.
    """
    given = {"connect_timeout": _SECONDS, "application_name": "symm_jax", **_parse(url), "client_encoding": "utf8"}
    try:
        connection = psycopg.connect(**given, autocommit=True, prepare_threshold=None)
    except psycopg.Error as error:
        raise InputError(
            f"there is no connection to PostgreSQL ({_text(error)}). Check that the server runs, and the host, port, "
            "database, user and password in the URL.",
            argument="to",
        ) from None
    with connection:
        with contextlib.suppress(psycopg.Error):  # before PostgreSQL 14, or on other systems than Linux
            # A process that is killed while the server makes an index ends that work, and with it its lock.
            connection.execute("SET client_connection_check_interval = '2s'")
        try:
            yield connection
        except psycopg.Error as error:
            raise _explain(error, lost=connection.closed) from error


def require_pgvector(connection: Connection, *, create: bool = False) -> None:
    """Makes the types and operators of pgvector known to the session, in whichever schema they are.

    Args:
      connection: the connection.
      create: whether the extension is created where the database does not have it.

    Raises:
      InputError: the database has no pgvector, or an old one.
    """
    find = """SELECT extversion, set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''),
        quote_ident(nspname)), false) FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
        WHERE extname = 'vector'"""
    found = connection.execute(find).fetchone()
    if found is None and create:
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.errors.InsufficientPrivilege as error:
            raise InputError(
                f"the user may not create the extension pgvector ({_text(error)}). Ask the administrator of the "
                "database to run once: CREATE EXTENSION vector;",
                argument="to",
            ) from error
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
            raise InputError(
                f"the server has no pgvector ({_text(error)}). Install it on the server, such as the package "
                "postgresql-17-pgvector of Debian, or pass a server that has it.",
                argument="to",
            ) from error
        found = connection.execute(find).fetchone()
    if found is None:
        raise InputError("the database has no extension pgvector. Fill a table there first.", argument="to")
    if tuple(int(number) for number in re.findall(r"\d+", found[0])[:2]) < _OLDEST:
        raise InputError(
            f"the database has pgvector {found[0]}, and 0.7 is the oldest that serves. Update it on the server, then: "
            "ALTER EXTENSION vector UPDATE;",
            argument="to",
        )


def _parse(url: str) -> dict[str, Any]:
    """The parameters in a URL.

    libpq splits a URL whose password has a plain @, / or ? at the wrong place, and would then show a part of it.
    """
    if re.fullmatch(r"postgres(ql)?://([^@/?]*@)?[^@]*", url):
        with contextlib.suppress(psycopg.Error, ValueError):
            return conninfo.conninfo_to_dict(url)
    raise InputError(
        f"it is not a URL of PostgreSQL, {_FORM}. In user and password, %40 stands for @, %2F for /, %3A for :, "
        "%3F for ? and %25 for %.",
        argument="to",
    )


def _explain(error: psycopg.Error, *, lost: bool) -> InputError:
    """The message for an error of the server."""
    if lost:
        return InputError(f"the connection to PostgreSQL was lost ({_text(error)}). {_AGAIN}", argument="to")
    argument, advice = _ADVICE.get(error.sqlstate or "", ("to", _AGAIN))
    return InputError(f"PostgreSQL refuses a statement ({_text(error)}). {advice}", argument=argument)


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())
