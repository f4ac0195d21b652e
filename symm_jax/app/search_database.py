"""--to of --mode=search: a table of PostgreSQL in place of exact search."""

import sys
from collections.abc import Callable

import numpy as np

from symm_jax.app.use_flags import Use
from symm_jax.errors import InputError
from symm_jax.search import Index, database


def fill_table(index: Index, given: Use) -> Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    """Fills the table of --to and --table, or brings it up to date, and says so on stderr.

    Returns:
      A function (queries, k) -> (similarities, rows of the index) that searches the table, as `Index.search`.

    Raises:
      InputError: the database or the table cannot be used.
    """
    done = database.fill(index, given.to, given.table)
    print(
        f"table     {given.table}: {len(index):,} rows, of which {done.new:,} new and {done.changed:,} changed; "
        f"{done.gone:,} deleted",
        file=sys.stderr,
    )
    if not done.hnsw:
        print(f"search    exact: pgvector has no HNSW index of {index.about['dim']:,} dimensions", file=sys.stderr)
    elif done.recall is not None:
        print(f"hnsw      recall@10 {done.recall:.4f} of exact search", file=sys.stderr)
    numbers = {row.path: number for number, row in enumerate(index.rows)}

    def nearest(queries: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        similarities, paths = database.search(given.to, given.table, queries, k)
        try:
            rows = np.array([[numbers[path] for path in found] for found in paths], np.int64)
            return similarities, rows.reshape(similarities.shape)
        except KeyError as error:
            raise InputError(
                "the table was filled from another index meanwhile. Run the same command again.", argument="table"
            ) from error

    return nearest
