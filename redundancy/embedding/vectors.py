"""Embeddings in files of other tools, .npy or Parquet, read block by block: never all of them at once."""

import glob
import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from redundancy import storage
from redundancy.config import CONTROLS
from redundancy.data import inputs, npy
from redundancy.runtime.errors import ConfigError, DataError, UserError

_BLOCK_BYTES = 1 << 26
_FLOATS = "float16, float32 or float64"
# Exponents of a row's largest number that float32 holds with no loss of direction: below the lowest, numbers 2**-26
# times the largest would be denormal; above the highest, some are infinite.
_LOWEST, _HIGHEST = -99, 127
_MOST = np.finfo(np.float32).max


class Vectors:
    """N vectors of d numbers in one or several files; row r is the r-th over all files.

    Attributes:
      name: base name of the file or folder.
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

        A float64 row beyond the range of float32 is multiplied by a power of two that brings it there: the length,
        which no cosine depends on, is then another, the direction is kept. NaN, infinity and zero rows stay.
        """
        raise NotImplementedError

    def where(self, row: int) -> str:
        """'FILE, row r' for messages; rows of a file are counted from 0."""
        raise NotImplementedError


class NpyVectors(Vectors):
    """A .npy file, mapped into memory."""

    def __init__(self, path: str):
        """Opens the file.

        Raises:
          ConfigError: there is no such file here.
          DataError: it is not .npy, truncated, or no [N, d] array of floats.
        """
        self._path, self.name = path, os.path.basename(path)
        wanted = f"wanted {_FLOATS} [N, d], N and d at least 1, as numpy.save writes it"
        try:
            with open(path, "rb") as file:
                header = npy.read_header(file, os.path.getsize(path))
        except npy.NotAnArrayError as error:
            raise DataError(f"{path} {error}; {wanted}.") from error
        kind, shape = header.dtype, header.shape
        if kind.kind != "f" or kind.itemsize > 8 or len(shape) != 2 or 0 in shape:
            raise DataError(f"{path} is {inputs.shown(str(kind))} {list(shape)}; {wanted}.")
        order = "F" if header.fortran_order else "C"
        array = np.memmap(path, kind, "r", header.offset, shape, order)
        self._array = array
        self.num_rows, self.dimension = array.shape

    def blocks(self, start=0):
        for first in range(start, self.num_rows, self.block_rows):
            yield _float32(self._array[first : first + self.block_rows])

    def where(self, row):
        return f"{self._path}, row {row}"


class ParquetVectors(Vectors):
    """Parquet files that lie one after the other, with a column of lists of floats."""

    def __init__(self, paths: Sequence[str], name: str, column: str):
        """Reads the files' footers.

        Args:
          paths: the files in order, at least one.
          name: of them all.
          column: name of the column of vectors.

        Raises:
          DataError: a file is not Parquet, lacks the column, or has one of another type; no rows; empty lists.
        """
        self.name, self._column, self._paths = name, column, list(paths)
        self._groups: list[list[int]] = []  # rows of each row group, by file
        for path in paths:
            with _Parquet(path) as file:
                kind = file.type_of(column)
                lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
                if not lists or not pa.types.is_floating(kind.value_type):
                    raise DataError(
                        f"{path}: column {column!r} is {inputs.shown(str(kind))}; wanted a list of {_FLOATS}. Name the right "
                        "one in --columns."
                    )
                self._groups.append(file.group_rows)
        if min((rows for groups in self._groups for rows in groups), default=0) < 0:
            raise DataError(f"{name} says that it has fewer than no rows; it is damaged. Write it again.")
        self._firsts = np.cumsum([0, *(sum(rows) for rows in self._groups)])
        self.num_rows = int(self._firsts[-1])
        if not self.num_rows:
            raise DataError(
                f"{paths[0] if len(paths) == 1 else name} has no rows; wanted at least one. Write the embeddings again."
            )
        self.dimension = self._first_length()

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of one value a row, over all files."""
        inputs.check_memory(self.name, f"column {name!r} of {self.num_rows} rows", 8 * self.num_rows)
        chunks = []
        for path in self._paths:
            with _Parquet(path) as file:
                file.type_of(name)
                chunks.append(file.read(name))
        types = {chunk.type for chunk in chunks}
        if len(types) > 1:
            raise DataError(
                f"{self.name}: column {name!r} is {', '.join(map(str, sorted(types, key=str)))}; wanted one."
            )
        return pa.chunked_array([piece for chunk in chunks for piece in chunk.chunks], type=types.pop())

    def blocks(self, start=0):
        for path, groups, first in zip(self._paths, self._groups, self._firsts.tolist(), strict=False):
            if first + sum(groups) <= start:
                continue
            with _Parquet(path) as file:
                for number, rows in enumerate(groups):
                    if first + rows > start:
                        at = first
                        for array in file.batches(number, self._column, self.block_rows):
                            block = self._matrix(array, at)
                            yield block[max(0, start - at) :] if at < start else block
                            at += len(array)
                        if at != first + rows:
                            raise DataError(
                                f"{path}: row group {number} has {at - first} rows, and {rows} by its own account; it is "
                                "damaged. Write it again."
                            )
                    first += rows

    def where(self, row):
        file = int(np.searchsorted(self._firsts, row, side="right")) - 1
        return f"{self._paths[file]}, row {row - self._firsts[file]}"

    def _first_length(self) -> int:
        file = next(number for number, groups in enumerate(self._groups) if sum(groups))
        with _Parquet(self._paths[file]) as opened:
            group = next(number for number, rows in enumerate(self._groups[file]) if rows)
            array = next(opened.batches(group, self._column, 1), None)
        length = array.value_lengths()[0].as_py() if array is not None and len(array) else None
        if not length:
            found = "no list" if length is None else "[]"
            raise DataError(
                f"{self.where(0)}: column {self._column!r} is {found}; wanted a list of {_FLOATS}. Write these embeddings "
                "again, or leave the row out."
            )
        return length

    def _matrix(self, array: pa.Array, first: int) -> np.ndarray:
        """float32 [n, d] of lists that start at row `first`."""
        wanted = f"wanted {self.dimension} numbers, as many as in the first row"
        if array.null_count:
            row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(f"{self.where(first + row)}: column {self._column!r} is empty (null); {wanted}.")
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(lengths != self.dimension)
        if len(wrong):
            raise DataError(
                f"{self.where(first + int(wrong[0]))}: column {self._column!r} has {lengths[wrong[0]]} numbers; "
                f"{wanted}."
            )
        flat = array.flatten()
        if flat.null_count:
            row = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0]) // self.dimension
            raise DataError(f"{self.where(first + row)}: column {self._column!r} has an empty (null) number; {wanted}.")
        return _float32(flat.to_numpy(zero_copy_only=False).reshape(-1, self.dimension))


class _Parquet:
    """A Parquet file of somebody else's, whose faults are told as such; a context manager."""

    def __init__(self, path: str):
        self._path = path
        local = path.removeprefix("file://")
        if storage.is_local(path) and (problem := inputs.unfit(local)):
            raise DataError(f"{path} {problem}; wanted a Parquet file. Check the path.")
        try:
            # So a column is read page by page, else a row group at a time, which may be the whole file.
            self._file = pq.ParquetFile(
                storage.open_read(path), buffer_size=1 << 22, pre_buffer=False, page_checksum_verification=True
            )
        except Exception as error:
            raise self._error(error) from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close(force=True)

    @property
    def group_rows(self) -> list[int]:
        return [self._file.metadata.row_group(number).num_rows for number in range(self._file.num_row_groups)]

    def type_of(self, column: str) -> pa.DataType:
        names = self._file.schema_arrow.names
        if names.count(column) != 1:
            found = f"has {names.count(column)} columns {column!r}" if column in names else f"has no column {column!r}"
            raise DataError(
                f"{self._path} {found}; it has {inputs.shown(str(names))}. Name the right one in --columns."
            )
        return self._file.schema_arrow.field(column).type

    def batches(self, group: int, column: str, rows: int) -> Iterator[pa.Array]:
        """The column of one row group, up to `rows` rows at a time."""
        try:
            for batch in self._file.iter_batches(rows, [group], [column]):
                yield batch.column(0)
        except Exception as error:
            raise self._error(error) from error

    def read(self, column: str) -> pa.ChunkedArray:
        try:
            return self._file.read([column]).column(0)
        except Exception as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> UserError:
        """What to raise for an exception of pyarrow, which for damaged files are of many kinds."""
        if isinstance(error, UserError):
            return error
        if isinstance(error, OSError) and error.errno is not None:
            return DataError(
                f"{self._path} cannot be read ({error.strerror}); check the file, its permissions and the disk."
            )
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return DataError(
            f"{self._path} cannot be read as Parquet ({inputs.shown(first)}); it is truncated, damaged or no Parquet file. "
            "Write it again."
        )


def _float32(block: np.ndarray) -> np.ndarray:
    """[n, d] float to float32; see `Vectors.blocks`."""
    if block.dtype.itemsize == 8:
        largest = np.maximum(block.max(axis=1), -block.min(axis=1))
        exponent = np.frexp(largest)[1]
        beyond = np.isfinite(largest) & (largest > 0) & ((largest > _MOST) | (exponent < _LOWEST))
        if beyond.any():
            # To the nearer end: where lengths do count, in the mean of a group, a tiny vector stays a tiny one.
            shift = np.clip(exponent, _LOWEST, _HIGHEST) - exponent
            block = np.ldexp(block, np.where(beyond, shift, 0)[:, None])
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(block, np.float32)


def _parquet_files(path: str) -> list[str]:
    """The Parquet files that `path` names, in the order of their names: one, those of a folder, or of a pattern."""
    wanted = "wanted a .npy file, a .parquet file, or a folder of .parquet files"
    if storage.exists(path):
        if path.lower().endswith(".parquet") and not os.path.isdir(path):
            return [path]
        try:
            there = storage.list_dir(path)
        except OSError as error:
            raise DataError(
                f"{path} cannot be listed ({error.strerror or error}); {wanted}. Check its permissions and the disk."
            ) from error
        names = [storage.join(path, name) for name in there if name.lower().endswith(".parquet")]
        if not names:
            raise ConfigError(f"--embeddings={path}: no .parquet file here; {wanted}.")
        return names
    found = sorted(name for name in glob.glob(path) if os.path.isfile(name)) if storage.is_local(path) else []
    if not found:
        raise ConfigError(f"--embeddings={path}: there is no such file or folder; {wanted}.")
    return found


def open_vectors(path: str, column: str | None) -> Vectors:
    """Opens the embeddings in a .npy file, a Parquet file, or a folder or pattern of Parquet files.

    Args:
      path: local; a Parquet file or a folder of them may be gs:// too.
      column: of the vectors, for Parquet; None is "embedding".

    Raises:
      ConfigError: there is no such file.
      DataError: the file is damaged, or its contents are no vectors of one length.
    """
    path = os.path.expanduser(path.removeprefix("file://"))
    if CONTROLS.search(path):
        raise ConfigError(
            f"--embeddings={inputs.shown(path)}: the name holds control characters or broken UTF-8, and could not be written "
            "beside the embeddings. Rename the file."
        )
    # A file whose name has brackets is no pattern.
    if path.lower().endswith(".npy") and (os.path.isfile(path) or not glob.has_magic(path)):
        if not storage.is_local(path):
            raise ConfigError(f"--embeddings={path}: a .npy file is mapped into memory; copy it to this machine first.")
        if not os.path.lexists(path):
            raise ConfigError(f"--embeddings={path}: there is no such file. Check the path.")
        if problem := inputs.unfit(path):
            raise DataError(f"{path} {problem}; wanted a .npy file. Check the path.")
        if column is not None:
            raise ConfigError(f"--columns names a column of embeddings, {column!r}, but {path} is a .npy file.")
        return NpyVectors(path)
    name = os.path.basename(path.rstrip("/"))
    return ParquetVectors(_parquet_files(path), name, "embedding" if column is None else column)
