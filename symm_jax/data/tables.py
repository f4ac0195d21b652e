"""Reads annotation tables, text and MATLAB, field by field. An error names the file, the line and the field."""

import csv
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from symm_jax import matfile
from symm_jax.errors import InputError

_MAX_FIELD = 1000  # characters
# The annotations of a data set are read for its examples, and for the names of its classes.
_parse = functools.lru_cache(maxsize=2)(matfile.parse)
_SPACE = " \t\f\v"  # between fields. Other white space, as in the names of macOS's screenshots, is a part of a name


def parse_int(text: str) -> int:
    """An integer from ASCII digits, with or without zeros after a decimal point. Raises ValueError otherwise."""
    number = parse_float(text)
    if number != int(number):
        raise ValueError(f"{text!r} is not an integer")
    return int(number)


def parse_float(text: str) -> float:
    """A number that is finite and below 1e9 in magnitude. Raises ValueError otherwise."""
    try:
        number = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        number = math.nan
    if not abs(number) < 1e9:
        raise ValueError(f"{text!r} is not a number")
    return number


def parse_relative_path(text: str) -> str:
    """A relative path that stays below its folder. Raises ValueError otherwise."""
    if "\\" in text or "\0" in text or text.startswith("/") or not {"", ".", ".."}.isdisjoint(text.split("/")):
        raise ValueError(f"{text!r} is not a relative file path")
    return text


def rows(
    content: bytes,
    path: str,
    parsers: Sequence[Callable[[str], Any]],
    *,
    separator: str | None = None,
    header: int = 0,
) -> Iterator[tuple]:
    """The rows of a text table.

    Args:
      content: the file's bytes, UTF-8.
      path: the file's path, for messages.
      parsers: a function per column from string to value: `parse_int`, `parse_float`, `parse_relative_path` or another
        one that raises ValueError.
      separator: "," for CSV with quotes; None for runs of white space.
      header: number of lines to skip at the top.

    Yields:
      A tuple of values for every line that is not empty.

    Raises:
      InputError: a line has another number of fields, or a field cannot be parsed.
    """
    try:
        lines = re.split("\r\n|\r|\n", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file ({error}). Download it again.") from error
    for number, line in enumerate(lines[header:], header + 1):
        fields = line.strip(_SPACE)
        if not fields:
            continue
        try:
            cells = next(csv.reader([fields], strict=True)) if separator == "," else re.split(f"[{_SPACE}]+", fields)
            if len(cells) != len(parsers) or max(map(len, cells)) > _MAX_FIELD:
                raise ValueError(f"{len(cells)} fields instead of {len(parsers)}: {line[:80]!r}")
            values = tuple(parse(cell.strip(_SPACE)) for parse, cell in zip(parsers, cells, strict=True))
        except (ValueError, csv.Error) as error:
            raise InputError(f"{path}, line {number}: {error}. Download the file again.") from error
        yield values


def structs(content: bytes, path: str, variable: str, parsers: dict[str, Callable[[str], Any]]) -> Iterator[tuple]:
    """The fields of each element of a struct array in a MATLAB file.

    Args:
      content: the file's bytes.
      path: the file's path, for messages.
      variable: name of the struct array.
      parsers: {field: function from the value as a string, as in `rows`}.

    Yields:
      A tuple of values for every element.

    Raises:
      InputError: it is not a MATLAB file, the variable or a field is missing, or a value cannot be parsed.
    """
    arrays = _parse(content, path)
    columns = [arrays.get(f"{variable}.{name}", np.empty(0)).ravel().tolist() for name in parsers]
    lengths = {len(column) for column in columns}
    if lengths == {0} or len(lengths) > 1:
        state = ", ".join(f"{len(column)} of {name!r}" for name, column in zip(parsers, columns, strict=True))
        raise InputError(f"{path} has no complete struct array {variable!r}, but {state}. Download it again.")
    for number, values in enumerate(zip(*columns, strict=True), 1):
        try:
            yield tuple(parse(str(value)) for parse, value in zip(parsers.values(), values, strict=True))
        except ValueError as error:
            raise InputError(f"{path}, {variable}({number}): {error}. Download the file again.") from error


def strings(content: bytes, path: str, variable: str) -> list[str]:
    """A cell array of strings in a MATLAB file; empty where it has no such variable. Raises InputError as `structs`."""
    cells = _parse(content, path).get(variable, np.empty(0))
    return [str(cell) for cell in cells.ravel()] if cells.dtype.kind == "U" else []
