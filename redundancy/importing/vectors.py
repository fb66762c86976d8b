"""Reads embeddings of other tools, .npy or Parquet, block by block: never all of them at once."""

import contextlib
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
    """N vectors of d numbers in one or several files; row r is the r-th over all files."""

    name: str  # base name of the file or folder
    num_rows: int  # N, at least 1
    dimension: int  # d, at least 1

    @property
    def block_rows(self) -> int:
        return max(1, _BLOCK_BYTES // (4 * self.dimension))

    def blocks(self, start: int = 0) -> Iterator[np.ndarray]:
        """The rows from `start` on, float32 [n, d] at a time.

        A float64 row beyond the range of float32 is multiplied by a power of two that brings it there, which changes its
        length but no cosine. NaN, infinity and zero rows stay.
        """
        raise NotImplementedError

    def where(self, row: int) -> str:
        """'FILE, row r' for messages; rows of a file are counted from 0."""
        raise NotImplementedError


class NpyVectors(Vectors):
    """A .npy file, mapped into memory."""

    def __init__(self, path: str):
        """Raises DataError if the file is truncated, no .npy, or no [N, d] array of floats."""
        self._path, self.name = path, os.path.basename(path)
        wanted = f"wanted {_FLOATS} [N, d], N and d at least 1, as numpy.save writes it"
        try:
            with open(path, "rb") as file:
                kind, offset, shape, order = npy.read_header(file, os.path.getsize(path))
        except npy.NotAnArrayError as error:
            raise DataError(f"{path} {error}; {wanted}.") from error
        if kind.kind != "f" or kind.itemsize > 8 or len(shape) != 2 or 0 in shape:
            raise DataError(f"{path} is {inputs.shown(str(kind))} {list(shape)}; {wanted}.")
        self._array = np.memmap(path, kind, "r", offset, shape, order)
        self.num_rows, self.dimension = shape

    def blocks(self, start=0):
        for first in range(start, self.num_rows, self.block_rows):
            yield float32(self._array[first : first + self.block_rows])

    def where(self, row):
        return f"{self._path}, row {row}"


class ParquetVectors(Vectors):
    """Parquet files, one after the other, with a column of lists of floats."""

    def __init__(self, paths: Sequence[str], name: str, column: str):
        """Reads the footers of the files, in order, and the first row.

        Raises DataError if a file is not Parquet, lacks the column, or has one of another type; for no rows; empty lists.
        """
        self.name, self._column, self._paths = name, column, list(paths)
        self._groups: list[list[int]] = []  # rows of each row group, by file
        for path in paths:
            with _open_parquet(path, column) as file:
                kind = file.schema_arrow.field(column).type
                lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
                if not lists or not pa.types.is_floating(kind.value_type):
                    raise DataError(
                        f"{path}: column {column!r} is {inputs.shown(str(kind))}; wanted a list of {_FLOATS}. Name the "
                        "right one in --columns."
                    )
                self._groups.append([file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)])
        self._firsts = np.cumsum([0, *map(sum, self._groups)])
        self.num_rows = int(self._firsts[-1])
        if not self.num_rows or min(rows for groups in self._groups for rows in groups) < 0:
            raise DataError(f"{name} has no rows, or a negative number of them; wanted at least one. Write it again.")
        _, first = next(self._lists(0, 1))
        self.dimension = first.value_lengths()[0].as_py()
        if not self.dimension:
            found = "no list" if self.dimension is None else "[]"
            raise DataError(
                f"{self.where(0)}: column {column!r} is {found}; wanted a list of {_FLOATS}. Write these embeddings again, "
                "or leave the row out."
            )

    def column(self, name: str) -> pa.Array:
        """A column of one value a row, over all files."""
        inputs.check_memory(self.name, f"column {name!r} of {self.num_rows} rows", 8 * self.num_rows)
        columns = []
        for path in self._paths:
            with _open_parquet(path, name) as file:
                columns.append(file.read([name]).column(0))
        types = {column.type for column in columns}
        if len(types) > 1:
            found = ", ".join(map(str, sorted(types, key=str)))
            raise DataError(f"{self.name}: column {name!r} is {found}; wanted one type.")
        return pa.chunked_array([chunk for column in columns for chunk in column.chunks], types.pop()).combine_chunks()

    def blocks(self, start=0):
        for first, lists in self._lists(start, self.block_rows):
            yield self._matrix(first, lists)

    def where(self, row):
        file = int(np.searchsorted(self._firsts, row, side="right")) - 1
        return f"{self._paths[file]}, row {row - self._firsts[file]}"

    def _lists(self, start: int, most: int) -> Iterator[tuple[int, pa.Array]]:
        """The column from row `start` on, up to `most` lists at a time, and the row of their first."""
        for path, groups, at in zip(self._paths, self._groups, self._firsts.tolist(), strict=False):
            if at + sum(groups) <= start:
                continue
            with _open_parquet(path, self._column) as file:
                for number, rows in enumerate(groups):
                    end = at + rows
                    if end > start:
                        for batch in file.iter_batches(most, [number], [self._column]):
                            lists = batch.column(0)[max(0, start - at) :]
                            at += batch.num_rows
                            if len(lists):
                                yield at - len(lists), lists
                        if at != end:
                            raise DataError(
                                f"{path}: row group {number} has {at - end + rows} rows, and {rows} by its own account; it "
                                "is damaged. Write it again."
                            )
                    at = end

    def _matrix(self, first: int, lists: pa.Array) -> np.ndarray:
        """float32 [n, d] of lists that start at row `first`."""
        lengths = lists.value_lengths().fill_null(-1).to_numpy()
        wrong = np.flatnonzero(lengths != self.dimension)
        if len(wrong):
            length = lengths[wrong[0]]
            found = "is empty (null)" if length < 0 else f"has {length} numbers"
        elif (flat := lists.flatten()).null_count:
            wrong = np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False)) // self.dimension
            found = "has an empty (null) number"
        else:
            return float32(flat.to_numpy().reshape(-1, self.dimension))
        raise DataError(
            f"{self.where(first + int(wrong[0]))}: column {self._column!r} {found}; wanted {self.dimension} numbers, as "
            "many as in the first row."
        )


@contextlib.contextmanager
def _open_parquet(path: str, column: str) -> Iterator[pq.ParquetFile]:
    """Opens a file that has `column`; whatever pyarrow raises for it, then and while it is read, becomes a DataError."""
    if storage.is_local(path) and (problem := inputs.unfit(storage.local_path(path))):
        raise DataError(f"{path} {problem}; wanted a Parquet file. Check the path.")
    try:
        with storage.open_read(path) as source:
            # So a column is read page by page, else a row group at a time, which may be the whole file.
            file = pq.ParquetFile(source, buffer_size=1 << 22, pre_buffer=False, page_checksum_verification=True)
            names = file.schema_arrow.names
            if names.count(column) != 1:
                found = f"{names.count(column)} columns" if column in names else "no column"
                raise DataError(
                    f"{path} has {found} {column!r}; it has {inputs.shown(str(names))}. Name the right one in --columns."
                )
            yield file
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(
                f"{path} cannot be read ({error.strerror}); check the file, its permissions and the disk."
            ) from error
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path} cannot be read as Parquet ({inputs.shown(first)}); it is truncated, damaged or no Parquet file. Write "
            "it again."
        ) from error


def checked(vectors: Vectors) -> Iterator[np.ndarray]:
    """The blocks of all rows.

    Raises:
      DataError: after the last block, if a vector holds NaN or infinity, or is zero; names the first.
    """
    at = num_wrong = 0
    first = ""
    for block in vectors.blocks():
        finite = np.isfinite(block).all(axis=1)
        wrong = np.flatnonzero(~finite | ~block.any(axis=1))
        if len(wrong) and not first:
            row = int(wrong[0])
            first = f"{vectors.where(at + row)} " + ("is a zero vector" if finite[row] else "holds NaN or infinity")
        num_wrong += len(wrong)
        at += len(block)
        yield block
    if first:
        raise DataError(
            f"{first} ({num_wrong} such of {at} rows); wanted finite numbers, not all 0, or there is no cosine. "
            "Make these embeddings again, or leave those rows and their labels out."
        )


def float32(block: np.ndarray) -> np.ndarray:
    """[n, d] float16, float32 or float64 to float32; see `Vectors.blocks`."""
    if block.dtype.itemsize == 8:
        largest = np.maximum(block.max(axis=1), -block.min(axis=1))
        exponent = np.frexp(largest)[1]
        beyond = np.isfinite(largest) & (largest > 0) & ((largest > _MOST) | (exponent < _LOWEST))
        if beyond.any():
            # To the nearer end: lengths do count in the mean of a group, where a tiny vector stays a tiny one.
            shift = np.clip(exponent, _LOWEST, _HIGHEST) - exponent
            block = np.ldexp(block, np.where(beyond, shift, 0)[:, None])
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(block, np.float32)


def _parquet_files(path: str) -> list[str]:
    """The Parquet files that `path` names, in the order of their names: one, those of a folder, or of a pattern."""
    wanted = "wanted a .npy file, a .parquet file, or a folder of .parquet files"
    if not storage.exists(path):
        found = sorted(name for name in glob.glob(path) if os.path.isfile(name)) if storage.is_local(path) else []
        if not found:
            raise ConfigError(f"--embeddings={path}: there is no such file or folder; {wanted}.")
        return found
    if path.lower().endswith(".parquet") and not os.path.isdir(path):
        return [path]
    try:
        there = storage.list_dir(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be listed ({error.strerror or error}); {wanted}. Check its permissions and the disk."
        ) from error
    found = [storage.join(path, name) for name in there if name.lower().endswith(".parquet")]
    if not found:
        raise ConfigError(f"--embeddings={path}: no .parquet file here; {wanted}.")
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
    path = os.path.expanduser(storage.local_path(path))
    if CONTROLS.search(path):
        raise ConfigError(
            f"--embeddings={inputs.shown(path)}: the name holds control characters or broken UTF-8, which cannot be written "
            "beside the embeddings. Rename the file."
        )
    # A file whose name has brackets is no pattern.
    if not path.lower().endswith(".npy") or (glob.has_magic(path) and not os.path.isfile(path)):
        name = os.path.basename(path.rstrip("/"))
        return ParquetVectors(_parquet_files(path), name, "embedding" if column is None else column)
    if not storage.is_local(path):
        raise ConfigError(f"--embeddings={path}: a .npy file is mapped into memory; copy it to this machine first.")
    if not os.path.lexists(path):
        raise ConfigError(f"--embeddings={path}: there is no such file. Check the path.")
    if problem := inputs.unfit(path):
        raise DataError(f"{path} {problem}; wanted a .npy file. Check the path.")
    if column is not None:
        raise ConfigError(f"--columns names a column of embeddings, {column!r}, but {path} is a .npy file.")
    return NpyVectors(path)
