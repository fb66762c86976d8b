"""Checks and converts embeddings and labels in memory or memory-mapped, as the command `import` does for those in files."""

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
    """Converts an array of any library to NumPy, without a copy if possible.

    Args:
      name: name of the argument, for messages.
      values: array of NumPy (or memory-mapped), JAX or PyTorch, on any device; data frame; or lists.

    Raises:
      DataError: the array is sparse or masked, or lists have different lengths.
    """
    if hasattr(values, "toarray"):
        raise DataError(f"{name} is a sparse matrix; wanted a dense one: {name}.toarray().")
    if np.ma.is_masked(values):
        raise DataError(f"{name} has masked values; wanted a value in each place. Fill them, or leave those rows out.")
    if hasattr(values, "detach"):  # a PyTorch tensor
        values = values.detach().cpu()
        if "bfloat16" in str(values.dtype):  # a type that NumPy does not have
            values = values.float()
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # lists of different lengths, or sparse tensors
        raise DataError(f"{name} is no array ({inputs.shown(str(error))}); wanted rows of one length.") from error


class ArrayVectors(Vectors):
    """The rows of an array. A memory-mapped array is read only as far as rows are requested."""

    def __init__(self, name: str, values: Any):
        """Raises DataError if the values are not numbers [N, d], TypeError if they are objects other than numbers."""
        array = to_numpy(name, values)
        if array.dtype == object and array.ndim == 1 and len(array) and all(np.ndim(row) == 1 for row in array):
            array = _stacked(name, array)  # a column of vectors from a data frame or a table
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
        """A copy of the rows numbered [n], ascending, as float32 [n, d]."""
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
    """Values as an array. Elements of a list keep their types, while NumPy would convert mixed ones to texts."""
    if isinstance(values, list | tuple) and not any(
        np.ndim(value) for value in values if not isinstance(value, str | bytes | int | float)
    ):
        array = np.empty(len(values), object)
        array[:] = values
        return array
    array = to_numpy(name, values)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def encode(name: str, values: Any, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Converts labels to indices into their sorted different values.

    Args:
      name: name of the argument, for messages.
      values: [num_rows] non-negative integers, or texts; None is one class.
      num_rows: expected number of labels.

    Returns:
      labels [num_rows] int32, and the different values [K], int64 (uint64 if one is above 2**63 - 1) or texts.

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
