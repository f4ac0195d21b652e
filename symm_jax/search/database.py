"""A table of PostgreSQL with the embeddings of an index, by pgvector: filled, brought up to date, and searched.

    path text PRIMARY KEY, class text, sha256 text, size bigint, embedding vector(dim) or halfvec(dim)

The comment on the table, as JSON, says that this program made it, and from which weights. Rows change in batches, each
in a transaction.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from symm_jax.data.tree import as_text
from symm_jax.errors import InputError
from symm_jax.search import pgvector, postgres
from symm_jax.search.embedder import describe_weights
from symm_jax.search.index import Index, Row
from symm_jax.search.postgres import Connection, sql

_BATCH = 1000  # rows in a transaction
_MAX_NAME = 63  # bytes of a name; PostgreSQL cuts longer ones
_RECALL_K, _RECALL_QUERIES = 10, 100
_TIE = 1e-5  # similarities that differ by less are equal
_ABOUT = ("weights", "network", "preprocessing", "dim", "dtype")


class Filled(NamedTuple):
    """What `fill` has done.

    Attributes:
      new, changed, gone: numbers of rows.
      hnsw: whether the table has an HNSW index; without one, search is exact.
      recall: Recall@10 of search in the table against exact search, for a sample of the embeddings, each without
        itself. None when nothing was written.
    """

    new: int
    changed: int
    gone: int
    hnsw: bool
    recall: float | None


def fill(index: Index, url: str, table: str) -> Filled:
    """Makes a table, or brings it up to date: a picture whose digest, size and class are the same is left as it is.

    Args:
      index: the index.
      url: postgresql://... of a database.
      table: NAME or SCHEMA.NAME. It is made if it does not exist, with an HNSW index after it was filled.

    Raises:
      InputError: the table was not made by this program or has embeddings of other weights, another process fills it,
        or the database cannot be used. Batches that were finished are kept.
    """
    with postgres.connected(url) as connection:
        name = _identifier(table)
        postgres.require_pgvector(connection, create=True)
        about = {key: index.about.get(key) for key in _ABOUT}
        theirs = _read_about(connection, name, table)
        if theirs is None:
            _create(connection, name, about)
        else:
            _require_same(about, theirs, table)
        _lock(connection, name, table)
        todo, changed, gone = _compare(connection, name, index.rows)
        _delete(connection, name, gone)
        _write(connection, name, index, todo, changed)
        made = pgvector.make_hnsw(connection, name, about)
        recall = _recall(connection, name, about, index) if todo or gone or made else None
        return Filled(len(todo) - len(changed), len(changed), len(gone), pgvector.has_hnsw(connection, name), recall)


def search(url: str, table: str, queries: np.ndarray, k: int = 10) -> tuple[np.ndarray, list[list[str]]]:
    """The nearest pictures of a table. With an HNSW index they are approximate, and from k = 1,001 on exact.

    Args:
      url: postgresql://... of a database.
      table: NAME or SCHEMA.NAME that `fill` has made.
      queries: (n, dim) float32, rows of unit length.
      k: the number of results, at most the number of rows.

    Returns:
      The cosine similarities, (n, k) float32, best first, and the paths, as in `Row.path`. Of equal similarities, the
      one with the smaller path comes first.

    Raises:
      InputError: there is no such table, the queries have another dimension, or `k` is larger than the table.
    """
    with postgres.connected(url) as connection:
        name = _identifier(table)
        postgres.require_pgvector(connection)
        about = _read_about(connection, name, table)
        if about is None:
            raise InputError(f"the database has no table {table}. Fill it first.", argument="table")
        return pgvector.nearest(connection, name, about, queries, k)


def _identifier(table: str) -> sql.Identifier:
    """The quoted name of a table. A dot separates the schema, every other character stands for itself."""
    parts = table.split(".")
    printable = table.isprintable() and "%" not in table  # psycopg would take % for a parameter
    if len(parts) > 2 or not printable or not all(0 < len(part.encode()) <= _MAX_NAME for part in parts):
        raise InputError(
            f"must be NAME or SCHEMA.NAME of printable characters without %, each at most {_MAX_NAME} bytes, got "
            f"{table!r}",
            argument="table",
        )
    return sql.Identifier(*parts)


def _read_about(connection: Connection, name: sql.Identifier, table: str) -> dict[str, Any] | None:
    """What the comment on the table says; None where there is no such table."""
    query = "SELECT obj_description(oid, 'pg_class') FROM pg_class WHERE oid = to_regclass(%s)"
    found = connection.execute(query, [name.as_string(connection)]).fetchone()
    if found is None:
        return None
    try:
        about = json.loads(found[0] or "")["symm_jax"]
        if isinstance(about["weights"], dict) and isinstance(about["dim"], int) and about["dtype"] in pgvector.KINDS:
            return about
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(
        f"the database has a table {table} that was not made by this program. It stays as it is. Name another one.",
        argument="table",
    )


def _require_same(ours: Mapping[str, Any], theirs: Mapping[str, Any], table: str) -> None:
    """Raises InputError when a table has embeddings of other weights, or of another form."""
    if ours["weights"]["sha256"] != theirs["weights"].get("sha256"):
        raise InputError(
            f"the table {table} has embeddings of other weights:\n  table  {describe_weights(theirs['weights'])}\n"
            f"  index  {describe_weights(ours['weights'])}\nName another table.",
            argument="table",
        )
    for key in _ABOUT:
        if key != "weights" and ours[key] != theirs.get(key):
            raise InputError(
                f"the table {table} has embeddings with another {key}: there {theirs.get(key)}, in the index "
                f"{ours[key]}. Name another table.",
                argument="table",
            )


def _create(connection: Connection, name: sql.Identifier, about: Mapping[str, Any]) -> None:
    """Makes an empty table with its comment."""
    if about["dim"] > pgvector.MAX_DIM:
        raise InputError(
            f"the embeddings have {about['dim']:,} numbers, and pgvector takes {pgvector.MAX_DIM:,}.", argument="index"
        )
    columns = "path text PRIMARY KEY, class text NOT NULL, sha256 text NOT NULL, size bigint NOT NULL"
    kind, dim = sql.Identifier(pgvector.KINDS[about["dtype"]]), sql.Literal(about["dim"])
    create = sql.SQL("CREATE TABLE {} ({}, embedding {}({}) NOT NULL)").format(name, sql.SQL(columns), kind, dim)
    comment = sql.SQL("COMMENT ON TABLE {} IS {}").format(name, sql.Literal(json.dumps({"symm_jax": about})))
    with connection.transaction():
        connection.execute(create)
        connection.execute(comment)


def _lock(connection: Connection, name: sql.Identifier, table: str) -> None:
    """Takes the lock of a table, which the server gives back when the connection ends."""
    query = "SELECT pg_try_advisory_lock(hashtextextended('symm_jax ' || to_regclass(%s)::oid, 0))"
    found = connection.execute(query, [name.as_string(connection)]).fetchone()
    if not (found and found[0]):
        raise InputError(
            f"another process fills the table {table}, or the server still ends the work of one that was killed. Run "
            "the same command again later.",
            argument="table",
        )


def _compare(
    connection: Connection, name: sql.Identifier, rows: Sequence[Row]
) -> tuple[list[int], set[str], list[str]]:
    """The rows to write, the paths of those that are otherwise in the table, and the paths that are gone."""
    todo = {as_text(row.path): number for number, row in enumerate(rows)}
    changed, gone = set(), []
    with connection.transaction(), connection.cursor("symm_jax") as cursor:  # named: the server keeps the result
        cursor.itersize = 10000
        cursor.execute(sql.SQL("SELECT path, class, sha256, size FROM {}").format(name))
        for path, *others in cursor:
            if path not in todo:
                gone.append(path)
            elif others == [as_text((row := rows[todo[path]]).label), row.sha256, row.size]:
                del todo[path]
            else:
                changed.add(path)
    return sorted(todo.values()), changed, gone


def _delete(connection: Connection, name: sql.Identifier, paths: Sequence[str]) -> None:
    for start in range(0, len(paths), _BATCH):
        statement = sql.SQL("DELETE FROM {} WHERE path = ANY(%s)").format(name)
        connection.execute(statement, [list(paths[start : start + _BATCH])])


def _write(connection: Connection, name: sql.Identifier, index: Index, todo: Sequence[int], changed: set[str]) -> None:
    """Writes rows of the index, in place of those at the paths `changed`."""
    kind = pgvector.KINDS[index.about["dtype"]]
    statement = sql.SQL("COPY {} (path, class, sha256, size, embedding) FROM STDIN (FORMAT BINARY)").format(name)
    with tqdm.tqdm(total=len(todo), desc="fill", unit="row", leave=False, disable=len(todo) <= _BATCH) as progress:
        for start in range(0, len(todo), _BATCH):
            numbers = todo[start : start + _BATCH]
            paths = [as_text(index.rows[number].path) for number in numbers]
            with connection.transaction(), connection.cursor() as cursor:
                _delete(connection, name, [path for path in paths if path in changed])
                with cursor.copy(statement) as copy:
                    copy.set_types(["text", "text", "text", "int8", "bytea"])
                    for number, path, vector in zip(
                        numbers, paths, pgvector.binary(index.embeddings[numbers], kind), strict=True
                    ):
                        row = index.rows[number]
                        copy.write_row((path, as_text(row.label), row.sha256, row.size, vector))
            progress.update(len(numbers))


def _recall(connection: Connection, name: sql.Identifier, about: Mapping[str, Any], index: Index) -> float:
    """Recall@10 of the table, for a sample of its embeddings, each without itself.

    A row as near as the k-th nearest counts as found.
    """
    rows = np.random.default_rng(0).choice(len(index), min(_RECALL_QUERIES, len(index)), replace=False)
    queries = np.asarray(index.embeddings[np.sort(rows)], np.float32)
    k = min(_RECALL_K + 1, len(index))
    exact, _ = index.search(queries, k)
    found, _ = pgvector.nearest(connection, name, about, queries, k)
    return float(np.mean(found[:, min(1, k - 1) :] >= exact[:, -1:] - _TIE))
