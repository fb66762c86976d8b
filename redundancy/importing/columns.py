"""Reads labels or ids, one value per embedding, from files of several kinds.

Values remain exact: numbers are not rounded, and 007 is not 7. Never unpickles.
"""

import io
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redundancy import storage
from redundancy.data import inputs, npy
from redundancy.importing import files, parquet, texts
from redundancy.runtime.errors import ConfigError, DataError

_WANTED = "wanted whole numbers or texts, one for each embedding"
_FILES = "a .npy, .csv, .txt or Parquet file"


class Column(NamedTuple):
    """The values of N embeddings, in order.

    Attributes:
      where: the file, for messages.
      values: [N] large_string, int64, uint64 or bool, with nulls for missing values; float64 if not all are integers; or
        another type that is neither text nor number.
      class_names: names of integer labels, if Hugging Face's `datasets` has stored them with the column; else None.
    """

    where: str
    values: pa.Array
    class_names: list[str] | None = None


def is_text(kind: pa.DataType) -> bool:
    """Whether values are texts."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def has_columns(path: str) -> bool:
    """Whether a file is a table, in which --columns may name a column."""
    return files.kind(os.path.expanduser(storage.local_path(path))) == ".parquet" or texts.is_csv(path)


def read(path: str, column: str | None, what: str, num_rows: int) -> Column:
    """Reads a column of `num_rows` values from a .npy, .csv, .txt or Parquet file, as determined by its first bytes or its name.

    Args:
      path: local or gs://.
      column: name of the column in a table. None: the only column of a file or, in Parquet, the column named `what`.
      what: "label" or "id", for messages.
      num_rows: expected number of values.

    Raises:
      ConfigError: there is no such file, or the kind of file is not supported.
      DataError: the file is damaged, has no such column, a wrong number of values, or a header in place of the first value.
    """
    path = inputs.existing(f"--{what}s={inputs.shown(path)}", path)
    kind = files.kind(path)
    if column is not None and not has_columns(path):
        raise ConfigError(f"--columns names a column of {what}s, {column!r}, but {path} is no .csv or Parquet file.")
    if kind == ".parquet":
        return of_parquet([path], column or parquet.only_column(path, what), num_rows, what)
    if kind == ".npy":
        return checked(path, _npy(path, what), num_rows, what)
    if kind not in ("", ".csv") or files.ending(path) in (".json", ".jsonl"):
        raise ConfigError(f"--{what}s={path}{files.other_kind(path) or ':'} Wanted {_FILES}.")
    return checked(path, pa.array(texts.values(path, column, what, num_rows), pa.large_string()), num_rows, what)


def of_parquet(paths: Sequence[str], column: str, num_rows: int, what: str, where: str = "") -> Column:
    """As `read`, for a column of several files, in which its width and encoding may differ.

    Args:
      paths: files in the order of their rows; files without rows are skipped.
      column: name of the column.
      num_rows: expected total number of values.
      what: "label" or "id", for messages.
      where: name for all files together, for messages.
    """
    parts, names = [], {}
    for path in paths:
        values, class_names = parquet.read_column(path, column)
        if values is not None:
            parts.append((path, exact(f"{path}, column {column!r}", values)))
            if class_names and pa.types.is_integer(parts[-1][1].type):
                names.setdefault(tuple(class_names), path)
    if len(names) > 1:
        first, second, *_ = names.values()
        raise DataError(
            f"{first} and {second} have other class names for the numbers in column {column!r}; wanted the same ones. Write "
            "the names themselves into the column."
        )
    where = f"{where or paths[0]}, column {column!r}"
    return checked(where, _joined(column, parts), num_rows, what)._replace(class_names=next(map(list, names), None))


def checked(where: str, values: pa.Array, num_rows: int, what: str) -> Column:
    """Makes a column from values of any width and encoding; raises DataError if they are damaged or not `num_rows`."""
    if len(values) != num_rows:
        raise DataError(f"{where} has {len(values)} {what}s; wanted {num_rows}, as many as there are embeddings.")
    return Column(where, exact(where, values))


def _plain(values: pa.Array) -> pa.Array:
    """Converts dictionaries, views and extension types to plain arrays."""
    values = getattr(values, "storage", values)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(pa.large_string()) if is_text(values.type) else values


def exact(where: str, values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Values as described in `Column`; raises DataError if they are damaged, or floats too large to be exact integers."""
    try:
        values.validate(full=True)
        chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
        values = pa.concat_arrays(map(_plain, chunks)) if chunks else pa.nulls(0)
    except pa.ArrowException as error:
        raise DataError(
            f"{where} is damaged ({inputs.shown(str(error).splitlines()[0])}); write the file again."
        ) from error
    if pa.types.is_floating(values.type):
        numbers = values.to_numpy(zero_copy_only=False)
        limit = 2 ** (np.finfo(numbers.dtype).nmant + 1)
        large = np.flatnonzero(np.isfinite(numbers) & (np.abs(numbers) >= limit))
        if len(large):
            raise DataError(
                f"{where}: row {large[0]} has {numbers[large[0]]!s}; {numbers.dtype} has every whole number below {limit} "
                "alone, and rounds others. Save these as integers or texts."
            )
        known = values.drop_null().to_numpy(zero_copy_only=False)
        return values.cast(
            pa.int64() if (known == np.floor(known)).all() and np.isfinite(known).all() else pa.float64()
        )
    if pa.types.is_integer(values.type):
        wide = values.type == pa.uint64() and (pc.max(values).as_py() or 0) >= 2**63
        return values if wide else values.cast(pa.int64())
    return values


def _joined(column: str, parts: Sequence[tuple[str, pa.Array]]) -> pa.Array:
    """Joins the exact values of several files; raises DataError, naming two files, if their types do not fit together."""
    parts = [(path, values) for path, values in parts if len(values)]
    types = {values.type for _, values in parts if not pa.types.is_null(values.type)}
    below_zero = any(values.type == pa.int64() and (pc.min(values).as_py() or 0) < 0 for _, values in parts)
    fit = not (below_zero and pa.uint64() in types)  # no integer type holds both, and a float would round
    kinds: dict[Any, tuple[str, pa.DataType]] = {}
    for path, values in parts:
        if values.type in types:  # values of other types are all null
            kinds.setdefault("number" if fit and _is_number(values.type) else values.type, (path, values.type))
    if len(kinds) > 1:
        (first, kind), (second, other), *_ = kinds.values()
        raise DataError(
            f"column {column!r} is {inputs.shown(str(kind))} in {first} and {inputs.shown(str(other))} in {second}; wanted "
            "texts in all files, or numbers of one type. Write one of the two again."
        )
    if pa.float64() in types:  # floats are refused
        wanted = pa.float64()
    elif pa.uint64() in types:
        wanted = pa.uint64()
    else:
        wanted = next(iter(types), pa.null())
    return pa.chunked_array([values.cast(wanted, safe=False) for _, values in parts], wanted).combine_chunks()


def _npy(path: str, what: str) -> pa.Array:
    data = inputs.read_bytes(path)
    try:
        array = npy.read_array(io.BytesIO(data), len(data))
    except npy.NotAnArrayError as error:
        raise DataError(f"{path} {error}; {_WANTED}, as numpy.save writes arrays of numbers or texts.") from error
    return from_array(path, array, what)


def from_array(where: str, array: np.ndarray, what: str = "label") -> pa.Array:
    """Converts numbers, bools or texts [N] or [N, 1]; raises DataError if they have another type or shape."""
    kind = array.dtype
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or kind.kind not in "biufUS" or (kind.kind == "f" and kind.itemsize > 8):
        raise DataError(
            f"{where} is {inputs.shown(str(kind))} {list(array.shape)}{npy.raw_bytes(kind)}; {_WANTED}, as an array [N]."
        )
    if kind.kind not in "US":
        return pa.array(array.astype(kind.newbyteorder("=")))
    try:
        return pa.array((np.char.decode(array, "utf-8") if kind.kind == "S" else array).tolist(), pa.large_string())
    except UnicodeDecodeError as error:
        # Not decoded with replacement characters, which could turn several classes into one.
        raise DataError(
            f"{where}: the {what} {inputs.shown(str(error.object))} is no UTF-8 text ({error.reason}); {_WANTED}. Decode the "
            f"{what}s and save them as texts, numpy.char.decode({what.upper()}S, ENCODING)."
        ) from error
    except Exception as error:  # lone surrogates; several kinds for numbers that are not characters
        raise DataError(f"{where} holds a {what} that is no text ({inputs.shown(str(error))}); {_WANTED}.") from error
