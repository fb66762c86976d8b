"""Embeddings and labels that callers hold in memory or have mapped, as the command `import` takes those of files."""

from typing import Any

import numpy as np
import pyarrow as pa

from redundancy.data import inputs
from redundancy.importing import columns
from redundancy.importing import labels as labels_lib
from redundancy.importing.vectors import Vectors, float32
from redundancy.runtime.errors import DataError

_WANTED = "wanted numbers [N, d], N and d at least 1"


def to_numpy(name: str, values: Any) -> np.ndarray:
    """An array of any library as NumPy's, without a copy where the library allows it.

    Args:
      name: of the argument, for messages.
      values: array of NumPy (also mapped into memory), JAX or PyTorch, on any device; data frame; or lists.

    Raises:
      DataError: it is sparse, masked, or lists of different lengths.
    """
    if hasattr(values, "toarray"):
        raise DataError(f"{name} is a sparse matrix; wanted a dense one: {name}.toarray().")
    if np.ma.is_masked(values):
        raise DataError(f"{name} has masked values; wanted a value in each place. Fill them, or leave those rows out.")
    if hasattr(values, "detach"):  # PyTorch's
        values = values.detach().cpu()
        if "bfloat16" in str(values.dtype):  # which NumPy lacks
            values = values.float()
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # lists of different lengths; tensors that are no dense array
        raise DataError(f"{name} is no array ({inputs.shown(str(error))}); wanted rows of one length.") from error


class ArrayVectors(Vectors):
    """The rows of an array; one that is mapped into memory is read where rows are asked for."""

    def __init__(self, name: str, values: Any):
        """Raises DataError if the values are no numbers [N, d], TypeError if they are objects that are no numbers."""
        array = to_numpy(name, values)
        if array.dtype == object and array.ndim == 1 and len(array) and all(np.ndim(row) == 1 for row in array):
            array = _stacked(name, array)  # a column of vectors, of a data frame or a table
        if array.dtype == object:
            array = _numbers(name, array)
        kind, shape = array.dtype, list(array.shape)
        if kind.kind == "c":
            raise DataError(f"Complex data not supported: {name} is {kind} {shape}; {_WANTED}.")
        if array.ndim != 2 or not (kind.kind in "fiub" or kind.name.startswith(("bfloat16", "float8"))):
            raise DataError(f"{name} is {inputs.shown(str(kind))} {shape}; {_WANTED}.")
        if 0 in shape:
            what = "sample" if shape[0] == 0 else "feature"
            raise DataError(f"{name} has 0 {what}(s) (shape={array.shape}) while a minimum of 1 is required.")
        self.name, self._array = name, array
        self.num_rows, self.dimension = array.shape

    def blocks(self, start=0):
        for first in range(start, self.num_rows, self.block_rows):
            yield _floats(self._array[first : first + self.block_rows])

    def where(self, row):
        return f"{self.name}, row {row}"

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """The rows [n], ascending, as float32 [n, d]: a copy, and of these rows alone."""
        return _floats(self._array.take(rows, axis=0))


def _stacked(name: str, rows: np.ndarray) -> np.ndarray:
    try:
        return np.stack([np.asarray(row) for row in rows])
    except ValueError as error:
        raise DataError(f"{name} holds vectors of different lengths; {_WANTED}.") from error


def _numbers(name: str, array: np.ndarray) -> np.ndarray:
    try:
        return array.astype(np.float64)
    except TypeError as error:
        raise TypeError(f"{name} holds what is no number ({error}); {_WANTED}.") from error
    except ValueError as error:
        raise DataError(f"{name} holds what is no number ({inputs.shown(str(error))}); {_WANTED}.") from error


def _floats(block: np.ndarray) -> np.ndarray:
    kind = block.dtype
    if kind.kind != "f" or kind.itemsize > 8:
        block = block.astype(np.float64 if kind.kind in "fiub" else np.float32)
    return float32(block)


def _column(name: str, values: Any) -> np.ndarray:
    """Values as an array; those of a list keep their types, of which NumPy would make texts."""
    if isinstance(values, list | tuple) and not any(
        np.ndim(value) for value in values if not isinstance(value, str | bytes | int | float)
    ):
        array = np.empty(len(values), object)
        array[:] = values
        return array
    array = to_numpy(name, values)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def encode(name: str, values: Any, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels as numbers of the sorted different ones.

    Args:
      name: of the argument, for messages.
      values: [num_rows] whole numbers from 0, or texts; None is one class.
      num_rows: how many are wanted.

    Returns:
      labels [num_rows] int32, and the different ones [K], int64 (uint64 where one is above 2**63 - 1) or texts.

    Raises:
      DataError: labels are missing, negative, of another type, or not `num_rows`.
    """
    if values is None:
        return np.zeros(num_rows, np.int32), np.zeros(1, np.int64)
    array = _column(name, values)
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.dtype.kind in "OT" and array.ndim == 1:
        try:
            found = pa.array(array.tolist(), from_pandas=True)
        except (pa.ArrowException, OverflowError) as error:
            raise DataError(
                f"{name} holds different things ({inputs.shown(str(error))}); wanted whole numbers from 0 or names."
            ) from error
    else:
        found = columns.from_array(name, array)
    checked = labels_lib.check_labels(columns.checked(name, found, num_rows, "label"))
    texts = isinstance(checked.values[0], str)
    labels, names = labels_lib.encode(checked, None, "names" if texts else "")
    if texts:
        return labels, np.array(names)
    numbers = [*map(int, names)]
    return labels, np.array(numbers, np.uint64 if numbers[-1] >= 2**63 else np.int64)
