"""A table of a real PostgreSQL with pgvector: filled from an index, brought up to date, searched, refused."""

import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import postgres_server
import psycopg
import pytest

from symm_jax.app import fields
from symm_jax.app.search_database import fill_table
from symm_jax.app.use_flags import Use
from symm_jax.data.tree import as_text
from symm_jax.errors import InputError
from symm_jax.search import Index, database, index

DIM = 8
ODD = ('b/it\'s "1";--.jpg', "b/back\\slash\t%s.jpg", os.fsdecode(b"c/\xff\n.jpg"), "c/日本.jpg")


@pytest.fixture(scope="module")
def server():
    with tempfile.TemporaryDirectory() as folder:  # a socket needs a short path
        running = postgres_server.running(Path(folder))
        try:
            url = running.__enter__()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"PostgreSQL cannot be started here: {error}")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE USER guest PASSWORD 's3cret/@'")
        yield url
        running.__exit__(None, None, None)


@pytest.fixture
def run(server):
    """A function that runs a statement and returns the rows."""
    with psycopg.connect(server, autocommit=True) as connection:

        def execute(statement):
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

        yield execute
        for (name,) in execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid >= 16384"):
            execute(f"DROP TABLE {name}")


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(database, "_BATCH", 5)


def make(folder, names, *, dim=DIM, dtype="float32", weights="a" * 64, seed=0):
    """An index whose embeddings depend on the names alone."""
    names = sorted(names)
    vectors = np.stack([np.random.default_rng([seed, *os.fsencode(name)]).normal(size=dim) for name in names])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    about = {
        **{"images": "/photos", "dim": dim, "dtype": dtype, "network": {"name": "convnet"}},
        **{"weights": {"workdir": "/run", "step": 1, "sha256": weights}, "preprocessing": {"image_size": 16}},
    }
    rows = [index.Row(name, 9, 1, f"{seed:064x}", name.split("/")[0]) for name in names]
    folder.mkdir(exist_ok=True)
    index.write(folder, about, rows, [vectors.astype(dtype)])
    return Index(folder)


def numbered(count):
    return [f"a/{number:03d}.jpg" for number in range(count)]


@pytest.mark.parametrize(
    ("dtype", "dim", "type_", "hnsw"),
    [
        ("float32", DIM, "vector(8)", "(embedding vector_ip_ops)"),
        ("float16", DIM, "halfvec(8)", "(embedding halfvec_ip_ops)"),
        ("float32", 2048, "vector(2048)", "(((embedding)::halfvec(2048)) halfvec_ip_ops)"),
        ("float32", 4001, "vector(4001)", None),
    ],
)
def test_results_are_those_of_exact_search(run, server, tmp_path, capsys, dtype, dim, type_, hnsw):
    found = make(tmp_path / "index", [*numbered(16), *ODD], dtype=dtype, dim=dim)
    nearest = fill_table(found, Use(to=server, table="photos"))
    queries = make(tmp_path / "queries", numbered(7), dim=dim, seed=1).embeddings
    exact, rows = found.search(queries, 9)
    ours = nearest(queries, 9)
    np.testing.assert_allclose(ours[0], exact, atol=1e-6)
    np.testing.assert_array_equal(ours[1], rows)
    assert run(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = 'photos'::regclass AND attname = 'embedding'"
    ) == [(type_,)]
    indexes = [text for (text,) in run("SELECT indexdef FROM pg_indexes WHERE indexdef LIKE '%hnsw%'")]
    assert [text.partition("hnsw ")[2] for text in indexes] == ([hnsw] if hnsw else [])
    printed = capsys.readouterr()
    assert "20 rows, of which 20 new and 0 changed; 0 deleted" in printed.err and not printed.out
    approximate = "recall@10 1.0000 of exact search"
    assert (approximate if hnsw else "exact: pgvector has no HNSW index of 4,001 dimensions") in printed.err
    assert nearest(queries[:0], 9)[1].shape == (0, 9)


def test_more_results_than_hnsw_gives_are_exact(run, server, tmp_path, monkeypatch):
    monkeypatch.setattr(database.pgvector, "_MIN_EF", 1)
    monkeypatch.setattr(database.pgvector, "_MAX_EF", 40)
    found = make(tmp_path / "index", numbered(120), dtype="float16")
    done = database.fill(found, server, "photos")
    assert done.hnsw and done.recall > 0.9
    run("DELETE FROM photos WHERE path < 'a/100.jpg'")  # HNSW meets them until a VACUUM
    run("ALTER ROLE postgres SET enable_seqscan = off")
    try:
        queries = np.array(found.embeddings[100:102], np.float32)
        for k in (1, 15, 20):
            similarities, paths = database.search(server, "photos", queries, k)
            assert similarities.shape == (2, k) and [len(set(row)) for row in paths] == [k, k]
            assert [row[0] for row in paths] == numbered(102)[100:] and (np.diff(similarities) <= 0).all()
    finally:
        run("ALTER ROLE postgres RESET enable_seqscan")


def test_a_second_run_writes_only_what_is_new_or_changed(run, server, tmp_path, small_batches):
    names = [*numbered(12), *ODD]
    assert database.fill(make(tmp_path / "index", names), server, "photos")[:3] == (16, 0, 0)
    versions = dict(run("SELECT path, xmin::text FROM photos"))
    assert versions.keys() == {as_text(name) for name in names} and len({*versions.values()}) == 4  # transactions
    assert database.fill(Index(tmp_path / "index"), server, "photos") == (0, 0, 0, True, None)
    assert dict(run("SELECT path, xmin::text FROM photos")) == versions
    mixed = make(tmp_path / "index", [*names[3:], "b/new.jpg"])
    rows = list(mixed.rows)
    rows[2] = rows[2]._replace(sha256="f" * 64)
    odd = next(number for number, row in enumerate(rows) if row.path == ODD[2])
    rows[odd] = rows[odd]._replace(label="z")
    vectors = np.array(mixed.embeddings)
    vectors[2] = -vectors[2]
    about = {key: value for key, value in mixed.about.items() if key not in ("files", "version", "count")}
    index.write(mixed.folder, about, rows, [vectors])
    now = Index(mixed.folder)
    assert database.fill(now, server, "photos")[:3] == (1, 2, 3)
    after = dict(run("SELECT path, xmin::text FROM photos"))
    assert after.keys() == {as_text(row.path) for row in rows}
    assert {path for path in after if after[path] != versions.get(path)} == {
        names[5],
        as_text(ODD[2]),
        "b/new.jpg",
    }
    np.testing.assert_array_equal(
        fill_table(now, Use(to=server, table="photos"))(vectors, 5)[1], now.search(vectors, 5)[1]
    )
    stored = run('SELECT path, class, sha256, size FROM photos ORDER BY path COLLATE "C"')
    assert stored == sorted((as_text(row.path), as_text(row.label), row.sha256, row.size) for row in rows)


def test_a_killed_run_leaves_whole_batches_and_goes_on(run, server, tmp_path, small_batches, monkeypatch):
    found = make(tmp_path / "index", numbered(18))
    binary, calls = database.pgvector.binary, []

    def killed(embeddings, kind):
        calls.append(len(embeddings))
        if len(calls) == 3:
            yield from binary(embeddings, kind)[:2]
            raise SystemExit
        yield from binary(embeddings, kind)

    monkeypatch.setattr(database.pgvector, "binary", killed)
    with pytest.raises(SystemExit):
        database.fill(found, server, "photos")
    assert run("SELECT count(*) FROM photos") == [(10,)]
    assert run("SELECT 1 FROM pg_indexes WHERE indexdef LIKE '%hnsw%'") == []
    monkeypatch.setattr(database.pgvector, "binary", binary)
    assert database.fill(found, server, "photos")[:4] == (8, 0, 0, True)
    assert run("SELECT count(*) FROM photos") == [(18,)]


def test_a_lost_connection_leaves_whole_batches(run, server, tmp_path, small_batches, monkeypatch):
    found = make(tmp_path / "index", numbered(18))
    binary = database.pgvector.binary

    def cut(embeddings, kind):
        if run("SELECT count(*) FROM photos") == [(5,)]:
            run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname <> ''"
            )
        return binary(embeddings, kind)

    monkeypatch.setattr(database.pgvector, "binary", cut)
    with pytest.raises(InputError, match="connection to PostgreSQL was lost .*Run the same command again") as error:
        database.fill(found, server, "photos")
    assert fields.describe(error.value).startswith("--to: ")
    assert run("SELECT count(*) FROM photos") == [(5,)]


def test_other_weights_and_foreign_tables_are_refused_and_left(run, server, tmp_path):
    database.fill(make(tmp_path / "index", numbered(3)), server, "photos")
    before = run("SELECT path, xmin::text FROM photos")
    with pytest.raises(InputError) as error:
        database.fill(make(tmp_path / "other", numbered(4), weights="b" * 64), server, "photos")
    text = fields.describe(error.value)
    assert text.startswith("--table: ") and "a" * 64 in text and "b" * 64 in text
    for change in ({"dtype": "float16"}, {"dim": 4}):
        with pytest.raises(InputError, match=f"another {next(iter(change))}"):
            database.fill(make(tmp_path / "other", numbered(4), **change), server, "photos")
    run("CREATE TABLE theirs AS SELECT 1 AS x")
    run("""COMMENT ON TABLE theirs IS '{"weights": 1}'""")
    for name in ("theirs", "pg_class"):
        for use in (lambda name: database.fill(Index(tmp_path / "index"), server, name), search_of(server)):
            with pytest.raises(InputError, match="was not made by this program. It stays as it is"):
                use(name)
    assert run("SELECT x FROM theirs") == [(1,)] and run("SELECT path, xmin::text FROM photos") == before
    with pytest.raises(InputError, match="no table absent. Fill it first"):
        search_of(server)("absent")
    with pytest.raises(InputError, match="from 1 to 3, the number of rows of the table, got 4"):
        database.search(server, "photos", np.zeros((1, DIM), np.float32), 4)
    with pytest.raises(InputError, match=r"queries must be \(n, 8\)"):
        database.search(server, "photos", np.zeros((1, 3), np.float32), 1)
    run("SELECT pg_advisory_lock(hashtextextended('symm_jax ' || 'photos'::regclass::oid, 0))")
    with pytest.raises(InputError, match="another process fills the table photos"):
        database.fill(Index(tmp_path / "index"), server, "photos")


def search_of(url):
    return lambda table: database.search(url, table, np.zeros((1, DIM), np.float32), 1)


def test_names_of_tables(run, server, tmp_path):
    found = make(tmp_path / "index", numbered(3))
    run('CREATE SCHEMA IF NOT EXISTS "Pictures of; mine"')
    for name in ("Photos", 'it\'s "1"; DROP TABLE x --', "Pictures of; mine.Füße", "{} ?"):
        assert database.fill(found, server, name).new == 3 and database.fill(found, server, name).new == 0
        assert database.search(server, name, np.array(found.embeddings[1:2]), 1)[1] == [["a/001.jpg"]]
    schemas = run("""SELECT nspname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE relname = 'Füße'""")
    assert schemas == [("Pictures of; mine",)]
    for name in ("", "a.b.c", ".a", "a\n", "%s", "\udcff", "é" * 32):
        with pytest.raises(InputError, match="must be NAME or SCHEMA.NAME"):
            database.fill(found, server, name)
    with pytest.raises(InputError, match='schema "absent" does not exist.*Create the schema'):
        database.fill(found, server, "absent.photos")


def test_databases_that_cannot_be_used(run, server, tmp_path):
    found = make(tmp_path / "index", numbered(3))
    run("DROP EXTENSION IF EXISTS vector CASCADE")
    host = server.partition("?")[2]
    guest = f"postgresql://guest:s3cret%2F%40@/postgres?{host}"
    for url, message in [
        (f"postgresql://guest:s3cret@/postgres?{host}", "password authentication failed.*Check"),
        (f"postgresql://postgres@/absent?{host}", 'database "absent" does not exist.*Check'),
        ("postgresql://guest:s3cret@127.0.0.1:1/postgres", "no connection.*refused.*Check that the server runs"),
        ("postgresql://guest:s3cret/@127.0.0.1/postgres", "not a URL of PostgreSQL.*%40 stands for @"),
        ("postgresql://guest:s3cret@x@127.0.0.1/postgres", "not a URL of PostgreSQL"),
        ("postgresql://guest:s3cret%zz@127.0.0.1/postgres", "not a URL of PostgreSQL"),
        ("mysql://guest:s3cret@127.0.0.1/postgres", "not a URL of PostgreSQL"),
        (guest, "may not create the extension pgvector .*CREATE EXTENSION vector;"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            database.fill(found, url, "photos")
        text = fields.describe(error.value)
        assert text.startswith("--to: ") and "s3cret" not in text
        assert error.value.__suppress_context__ or "s3cret" not in str(error.value.__cause__)
    run("CREATE EXTENSION vector")
    with pytest.raises(InputError, match="permission denied for schema public.*Ask for the right"):
        database.fill(found, guest, "photos")
    database.fill(found, server, "photos")
    run("GRANT SELECT ON photos TO guest")  # enough to search, and to see that nothing is to be done
    nearest = fill_table(found, Use(to=guest, table="photos"))
    assert nearest(np.array(found.embeddings[2:]), 1)[1].tolist() == [[2]]


def test_without_psycopg_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"pip install 'symm_jax\[postgres\]', or pip install 'psycopg\[binary\]'"):
        runpy.run_path(database.postgres.__file__)
