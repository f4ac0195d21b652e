"""Reads annotation tables, text and MATLAB, field by field; what is wrong is named by file, line and field."""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from symm_jax import matfile
from symm_jax.errors import InputError

_MAX_FIELD = 1000  # characters


def whole(text: str) -> int:
    """A whole number from ASCII digits, possibly with a point and zeros behind it; ValueError for anything else."""
    number = finite(text)
    if number != int(number):
        raise ValueError(f"{text!r} is not a whole number")
    return int(number)


def finite(text: str) -> float:
    """A number that is neither NaN nor infinite nor beyond 1e9; ValueError for anything else."""
    try:
        number = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        number = math.nan
    if not abs(number) < 1e9:
        raise ValueError(f"{text!r} is not a number")
    return number


def filename(text: str) -> str:
    """A relative path that stays below its folder; ValueError for anything else."""
    if (
        not text.isprintable()
        or "\\" in text
        or text.startswith("/")
        or not {"", ".", ".."}.isdisjoint(text.split("/"))
    ):
        raise ValueError(f"{text!r} is not the name of a file")
    return text


def rows(
    content: bytes, path: str, fields: Sequence[Callable[[str], Any]], *, separator: str | None = None, header: int = 0
) -> Iterator[tuple]:
    """The rows of a text table.

    Args:
      content: of the file, UTF-8.
      path: of the file, for messages.
      fields: for each column what makes a value of its text, `whole`, `finite`, `filename` or another function that
        raises ValueError.
      separator: "," for CSV with its quotes; None for runs of white space.
      header: lines to pass over at the top.

    Yields:
      A tuple of values for every line that is not empty.

    Raises:
      InputError: a line has another number of fields, or a field another kind of value.
    """
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text file ({error}); get it anew") from error
    for number, line in enumerate(lines[header:], header + 1):
        if not line.strip():
            continue
        try:
            cells = next(csv.reader([line], strict=True)) if separator == "," else line.split()
            if len(cells) != len(fields) or max(map(len, cells)) > _MAX_FIELD:
                raise ValueError(f"{len(cells)} fields instead of {len(fields)}: {line[:80]!r}")
            values = tuple(field(cell.strip()) for field, cell in zip(fields, cells, strict=True))
        except (ValueError, csv.Error) as error:
            raise InputError(f"{path}, line {number}: {error}; get the file anew") from error
        yield values


def structs(content: bytes, path: str, variable: str, fields: dict[str, Callable[[str], Any]]) -> Iterator[tuple]:
    """The fields of each element of a struct array in a MATLAB file, checked like those of `rows`.

    Args:
      content: of the file.
      path: of the file, for messages.
      variable: name of the struct array.
      fields: {name: function as in `rows`, which gets the value's text}.

    Raises:
      InputError: it is not a MATLAB file, or lacks the variable or a field, or a value is of another kind.
    """
    arrays = matfile.parse(content, path)
    columns = [arrays.get(f"{variable}.{name}", np.empty(0)).ravel().tolist() for name in fields]
    lengths = {len(column) for column in columns}
    if lengths == {0} or len(lengths) > 1:
        state = ", ".join(f"{len(column)} of {name!r}" for name, column in zip(fields, columns, strict=True))
        raise InputError(f"{path} has no whole struct array {variable!r}, but {state}; get it anew")
    for number, values in enumerate(zip(*columns, strict=True), 1):
        try:
            yield tuple(make(str(value)) for make, value in zip(fields.values(), values, strict=True))
        except ValueError as error:
            raise InputError(f"{path}, {variable}({number}): {error}; get the file anew") from error
