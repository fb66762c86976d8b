"""Reads embeddings of other tools from .npy or Parquet, block by block, never all of them at once."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from redundancy import storage
from redundancy.config import CONTROLS
from redundancy.data import inputs, npy
from redundancy.embedding.write import wrong_rows
from redundancy.importing import files, parquet
from redundancy.runtime.errors import ConfigError, DataError

_BLOCK_BYTES = 1 << 26
_FLOATS = "float16, float32 or float64"
# The range of the exponent of a row's largest number in which float32 preserves the direction. Below it, numbers 2**-26 times
# the largest would be denormal; above it, some would be infinite.
_LOWEST, _HIGHEST = -99, 127
_MOST = np.finfo(np.float32).max


class _NpyFile:
    """A .npy file, mapped into memory."""

    columns: Sequence[str] = ()

    def __init__(self, path: str):
        """Raises DataError if the file is truncated, not .npy, or not an [n, d] array of floats."""
        if problem := inputs.unfit(path):
            raise DataError(f"{path} {problem}; wanted a .npy file. Check the path.")
        wanted = f"wanted {_FLOATS} [N, d], N and d at least 1, as numpy.save writes it"
        try:
            with open(path, "rb") as file:
                kind, offset, shape, order = npy.read_header(file, os.path.getsize(path))
        except npy.NotAnArrayError as error:
            raise DataError(f"{path} {error}; {wanted}.") from error
        empty = shape[:1] == (0,)
        if not empty and (kind.kind != "f" or kind.itemsize > 8 or len(shape) != 2 or not shape[1]):
            raise DataError(f"{path} is {inputs.shown(str(kind))} {list(shape)}{npy.raw_bytes(kind)}; {wanted}.")
        self.path, self.num_rows = path, shape[0]
        self._dimension, self._mapping = shape[-1], (path, kind, "r", offset, shape, order)

    def dimension(self) -> int:
        return self._dimension

    def blocks(self, start: int, rows: int, dimension: int) -> Iterator[np.ndarray]:
        if self._dimension != dimension:
            raise DataError(
                f"{self.path} has rows of {self._dimension} numbers; wanted {dimension}, as many as in the first row."
            )
        array = np.memmap(*self._mapping)
        for first in range(start, self.num_rows, rows):
            yield float32(array[first : first + rows])


class _ParquetFile:
    """A Parquet file with a column of lists of floats."""

    def __init__(self, path: str, column: str):
        """Reads the footer. Raises DataError if the file is not Parquet, or if the column is missing or has another type."""
        self.path, self._column = path, column
        with parquet.opened(path, column) as file:
            self.columns = file.schema_arrow.names
            self._groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
            # In a file without rows the column may be missing or have any type: pandas writes it as null.
            kind = file.schema_arrow.field(column).type if any(self._groups) else pa.list_(pa.float32())
            if not _is_list_of_floats(getattr(kind, "storage_type", kind)):
                raise DataError(
                    f"{path}: column {column!r} is {inputs.shown(str(kind))}; wanted a list of {_FLOATS}. Name the right "
                    "one in --columns."
                )
        if min(self._groups, default=0) < 0:
            raise DataError(f"{path} has a negative number of rows; it is damaged. Write it again.")
        self.num_rows = sum(self._groups)

    def dimension(self) -> int:
        """Length of the first row; raises DataError if it is empty."""
        _, first = next(self._lists(0, 1))
        dimension = first.value_lengths()[0].as_py()
        if not dimension:
            found = "no list" if dimension is None else "[]"
            raise DataError(
                f"{self.path}, row 0: column {self._column!r} is {found}; wanted a list of {_FLOATS}. Write these "
                "embeddings again, or leave the row out."
            )
        return dimension

    def blocks(self, start: int, rows: int, dimension: int) -> Iterator[np.ndarray]:
        for first, lists in self._lists(start, rows):
            yield self._matrix(first, lists, dimension)

    def _lists(self, start: int, most: int) -> Iterator[tuple[int, pa.Array]]:
        """Yields the column from row `start` on, up to `most` lists at a time, with the row number of the first one."""
        at = 0
        with parquet.opened(self.path, self._column) as file:
            for number, rows in enumerate(self._groups):
                end = at + rows
                if end > start:
                    for batch in file.iter_batches(most, [number], [self._column]):
                        lists = batch.column(0)
                        lists = getattr(lists, "storage", lists)[max(0, start - at) :]
                        if _is_view(lists.type):
                            lists = lists.cast(pa.large_list(lists.type.value_type))
                        at += batch.num_rows
                        if len(lists):
                            yield at - len(lists), lists
                    if at != end:
                        raise DataError(
                            f"{self.path}: row group {number} has {at - end + rows} rows, and {rows} by its own account; it "
                            "is damaged. Write it again."
                        )
                at = end

    def _matrix(self, first: int, lists: pa.Array, dimension: int) -> np.ndarray:
        """Converts lists, which start at row `first`, to float32 [n, d]."""
        lengths = lists.value_lengths().fill_null(-1).to_numpy()
        wrong = np.flatnonzero(lengths != dimension)
        if len(wrong):
            length = lengths[wrong[0]]
            found = "is empty (null)" if length < 0 else f"has {length} numbers"
        elif (flat := lists.flatten()).null_count:
            wrong = np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False)) // dimension
            found = "has an empty (null) number"
        else:
            flat = flat if pa.types.is_floating(flat.type) else flat.view(pa.float16())
            return float32(flat.to_numpy().reshape(-1, dimension))
        raise DataError(
            f"{self.path}, row {first + int(wrong[0])}: column {self._column!r} {found}; wanted {dimension} numbers, as "
            "many as in the first row."
        )


class Vectors:
    """N vectors of d numbers.

    Attributes:
      name: name of the array; or base name of the file, folder or pattern.
      num_rows: N, at least 1.
      dimension: d, at least 1.
    """

    name: str
    num_rows: int
    dimension: int

    @property
    def block_rows(self) -> int:
        return max(1, _BLOCK_BYTES // (4 * self.dimension))

    def blocks(self, start: int = 0) -> Iterator[np.ndarray]:
        """The rows from `start` on, float32 [n, d] at a time.

        A float64 row outside of float32's range is multiplied by a power of two that brings it into the range. This changes
        its length but no cosine. NaN, infinity and zero rows are kept.
        """
        raise NotImplementedError

    def where(self, row: int) -> str:
        """'FILE, row r' for messages; rows of each file are counted from 0."""
        raise NotImplementedError


class FileVectors(Vectors):
    """Vectors in one or several files of one kind; rows are counted over all files.

    Attributes:
      paths: paths of all files, in order.
      columns: names of the columns of Parquet files; empty for .npy.
    """

    def __init__(self, name: str, opened: Sequence[_NpyFile] | Sequence[_ParquetFile]):
        """Raises DataError if there are no rows, or if the first row is empty."""
        self.name, self._files = name, [file for file in opened if file.num_rows]
        self.paths = [file.path for file in opened]
        self.columns = [*dict.fromkeys(column for file in opened for column in file.columns)]
        self._firsts = np.cumsum([0, *(file.num_rows for file in self._files)])
        self.num_rows = int(self._firsts[-1])
        if not self.num_rows:
            raise DataError(f"{name} has no rows; wanted at least one. Write it again.")
        self.dimension = self._files[0].dimension()

    def blocks(self, start=0):
        for file, first in zip(self._files, self._firsts.tolist(), strict=False):
            if first + file.num_rows > start:
                yield from file.blocks(max(0, start - first), self.block_rows, self.dimension)

    def where(self, row):
        file = int(np.searchsorted(self._firsts, row, side="right")) - 1
        return f"{self._files[file].path}, row {row - self._firsts[file]}"


def _is_list_of_floats(kind: pa.DataType) -> bool:
    """Whether the type is a list of numbers; Polars writes float16 as two bytes each."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists and not _is_view(kind):
        return False
    return pa.types.is_floating(kind.value_type) or kind.value_type == pa.binary(2)


def _is_view(kind: pa.DataType) -> bool:
    return pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)


def checked(vectors: Vectors) -> Iterator[np.ndarray]:
    """Yields the blocks of all rows.

    Raises:
      DataError: after the last block, if a vector holds NaN or infinity, or is zero; names the first such vector.
    """
    at = num_wrong = 0
    first = ""
    for block in vectors.blocks():
        wrong, finite = wrong_rows(block)
        if len(wrong) and not first:
            first = f"{vectors.where(at + int(wrong[0]))} "
            first += "is a zero vector" if finite[0] else "holds NaN or infinity"
        num_wrong += len(wrong)
        at += len(block)
        yield block
    if first:
        raise DataError(
            f"{first} ({num_wrong} such of {at} rows); wanted finite numbers, not all 0, or there is no cosine. "
            "Make these embeddings again, or leave those rows and their labels out."
        )


def float32(block: np.ndarray) -> np.ndarray:
    """Converts [n, d] float16, float32 or float64 to float32, see `Vectors.blocks`."""
    if block.dtype.itemsize == 8:
        largest = np.maximum(block.max(axis=1), -block.min(axis=1))
        exponent = np.frexp(largest)[1]
        beyond = np.isfinite(largest) & (largest > 0) & ((largest > _MOST) | (exponent < _LOWEST))
        if beyond.any():
            # To the nearer end of the range, since lengths matter in the mean of a group: tiny vectors must remain tiny.
            shift = np.clip(exponent, _LOWEST, _HIGHEST) - exponent
            block = np.ldexp(block, np.where(beyond, shift, 0)[:, None])
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(block, np.float32)


def open_vectors(path: str, column: str | None, order: str = "") -> FileVectors:
    """Opens the embeddings in a .npy or Parquet file, or in a folder or pattern of files of one of these kinds.

    Args:
      path: local; for a Parquet file or a folder of them also gs://.
      column: column of the vectors, for Parquet; None is "embedding".
      order: order of several files, see `files.find`.

    Raises:
      ConfigError: there is no such file, or the order of several files is ambiguous.
      DataError: a file is damaged, or does not contain vectors of one length.
    """
    path = os.path.expanduser(storage.local_path(path))
    if CONTROLS.search(path):
        raise ConfigError(
            f"--embeddings={inputs.shown(path)}: the name holds control characters or broken UTF-8, which cannot be written "
            "beside the embeddings. Rename the file."
        )
    kind, found = files.find(path, order)
    name = os.path.basename(path.rstrip("/"))
    if kind == ".parquet":
        return FileVectors(name, [_ParquetFile(each, column or "embedding") for each in found])
    if column is not None:
        raise ConfigError(f"--columns names a column of embeddings, {column!r}, but {found[0]} is a .npy file.")
    return FileVectors(name, [_NpyFile(each) for each in found])
