"""Embeddings in a column of pgvector: their binary form, the HNSW index, and the nearest rows of a query."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from symm_jax.errors import InputError
from symm_jax.search.index import from_text
from symm_jax.search.postgres import Connection, sql

KINDS = {"float32": "vector", "float16": "halfvec"}
MAX_DIM = 16000  # of a column
_MAX_HNSW = {"vector": 2000, "halfvec": 4000}  # dimensions of an HNSW index
_MIN_EF, _MAX_EF = 200, 1000  # of hnsw.ef_search


def binary(embeddings: np.ndarray, kind: str) -> list[bytes]:
    """Rows (n, dim) as pgvector's binary form: the dimension and a zero as int16, then the numbers, big-endian."""
    dim = embeddings.shape[1]
    number = {"vector": ">f4", "halfvec": ">f2"}[kind]
    rows = np.zeros(len(embeddings), [("dim", ">i2"), ("zero", ">i2"), ("numbers", number, (dim,))])
    rows["dim"], rows["numbers"] = dim, embeddings
    return [row.tobytes() for row in rows]


def _hnsw_key(about: Mapping[str, Any]) -> tuple[sql.Composable, str] | None:
    """What HNSW indexes, and its type; None where pgvector has no HNSW index of so many dimensions.

    A column of the type vector with more than 2,000 dimensions is indexed as halfvec.
    """
    kind, dim = KINDS[about["dtype"]], about["dim"]
    if dim <= _MAX_HNSW[kind]:
        return sql.Identifier("embedding"), kind
    if dim <= _MAX_HNSW["halfvec"]:
        return sql.SQL("(embedding::halfvec({}))").format(sql.Literal(dim)), "halfvec"
    return None


def make_hnsw(connection: Connection, name: sql.Identifier, about: Mapping[str, Any]) -> bool:
    """Makes the HNSW index where there is none. Returns whether it was made."""
    key = _hnsw_key(about)
    if key is None or has_hnsw(connection, name):
        return False
    statement = sql.SQL("CREATE INDEX ON {} USING hnsw ({} {})")
    connection.execute(statement.format(name, key[0], sql.Identifier(f"{key[1]}_ip_ops")))
    return True


def has_hnsw(connection: Connection, name: sql.Identifier) -> bool:
    """Whether a table has a valid graph to search approximately."""
    query = """SELECT 1 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
        WHERE indrelid = to_regclass(%s) AND amname = 'hnsw' AND indisvalid"""
    return connection.execute(query, [name.as_string(connection)]).fetchone() is not None


def nearest(
    connection: Connection,
    name: sql.Identifier,
    about: Mapping[str, Any],
    queries: np.ndarray,
    k: int,
) -> tuple[np.ndarray, list[list[str]]]:
    """The nearest rows of a table, see `database.search`.

    Args:
      connection: a connection that knows pgvector.
      name: the table.
      about: "dim" and "dtype" of its embeddings.
      queries: (n, dim) float32, rows of unit length.
      k: the number of results.

    Returns:
      The similarities, (n, k) float32, best first, and the paths.

    Raises:
      InputError: the queries have another dimension, or `k` is larger than the table.
    """
    if queries.ndim != 2 or queries.shape[1] != about["dim"]:
        raise InputError(f"queries must be (n, {about['dim']}), got {queries.shape}")
    (count,) = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone() or (0,)
    if not 1 <= k <= count:
        raise InputError(f"must be from 1 to {count:,}, the number of rows of the table, got {k:,}", argument="k")
    statements = _statements(name, about, k)
    similarities, paths = np.zeros((len(queries), k), np.float32), []
    for number, query in enumerate(np.asarray(queries, np.float32).tolist()):
        found = _first_with(connection, statements, str(query), k)
        similarities[number] = [-negative for negative, _ in found]
        paths.append([path for _, path in found])
    return similarities, paths


def _statements(name: sql.Identifier, about: Mapping[str, Any], k: int) -> dict[str, sql.Composed]:
    """The statements that give the nearest rows, similarity times -1 and path: by HNSW, if it can, and exactly.

    HNSW orders by halfvec, which rounds the query. Twice as many rows are taken, so that the rounding decides nothing.
    """
    template = sql.SQL("SELECT {exact}, path FROM (SELECT * FROM {name} ORDER BY {order} LIMIT {limit}) AS nearest")
    dim = sql.Literal(about["dim"])
    exact = sql.SQL("embedding::vector({0}) <#> %(query)s::vector({0})").format(dim)
    statements = {}
    if k <= _MAX_EF and (key := _hnsw_key(about)):
        query = sql.SQL("{} <#> %(query)s::vector({})::{}({})")  # always a vector: PostgreSQL gives it one type
        order = query.format(key[0], dim, sql.Identifier(key[1]), dim)
        limit = sql.Literal(min(2 * k, _MAX_EF))
        statements["hnsw"] = template.format(exact=exact, name=name, order=order, limit=limit)
    return statements | {"exact": template.format(exact=exact, name=name, order=exact, limit=sql.Literal(k))}


def _first_with(
    connection: Connection, statements: Mapping[str, sql.Composed], query: str, k: int
) -> list[tuple[float, str]]:
    """The k nearest rows by the first statement that gives so many. HNSW may give fewer."""
    for kind, statement in statements.items():
        with connection.transaction():
            if kind == "hnsw":
                ef = str(max(_MIN_EF, min(4 * k, _MAX_EF)))
                connection.execute("SELECT set_config('hnsw.ef_search', %s, true)", [ef])
            else:
                connection.execute("SET LOCAL enable_indexscan = off")
            found = connection.execute(statement, {"query": query}).fetchall()
        if len(found) >= k:
            return sorted((negative, from_text(path)) for negative, path in found)[:k]
    raise InputError("another process changes the table. Run the same command again later.", argument="table")
