"""Complete linkage of one class: the merges, lowest first. Knows nothing of files, classes and fractions."""

import contextlib
import dataclasses
import os

import numpy as np
from scipy.cluster import hierarchy

from redundancy.errors import DataError
from redundancy.selection import dissimilarity

_BLOCK_ROWS = 256


@dataclasses.dataclass(frozen=True)
class Merges:
    """The first merges of a class of n images, in SciPy's numbering: row i makes cluster n + i, images are 0…n-1.

    Attributes:
      left: [m] int64, the lower of the two clusters' numbers.
      right: [m] int64, the higher.
      height: [m] float64, never falling: the greatest dissimilarity within the made cluster.
      size: [m] int64, images in the made cluster.
    """

    left: np.ndarray
    right: np.ndarray
    height: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.left)


def _available_memory() -> int:
    """Bytes this process can still get; all of the machine's where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(n: int, dimension: int) -> None:
    """Says before the work whether a class of `n` images can be linked.

    Raises:
      DataError: its dissimilarities do not fit in the memory that is available.
    """
    # SciPy works on a copy of the condensed matrix.
    needed = 2 * 8 * (n * (n - 1) // 2) + 8 * n * (dimension + _BLOCK_ROWS)
    available = _available_memory()
    if needed > available:
        raise DataError(
            f"A class of {n} images needs {needed / 2**30:.1f} GiB of memory for the dissimilarities of its pairs, "
            f"and {available / 2**30:.1f} GiB are available. Link on a machine with more memory, or split the class."
        )


def _condensed(embeddings: np.ndarray) -> np.ndarray:
    """Dissimilarities of all pairs i < j in SciPy's order: [n, d] to [n (n - 1) / 2] float64."""
    units = dissimilarity.unit_vectors(embeddings)
    n = len(units)
    out = np.empty(n * (n - 1) // 2, np.float64)
    at = 0
    for start in range(0, n - 1, _BLOCK_ROWS):
        block = dissimilarity.between_all(units[start : start + _BLOCK_ROWS], units[start:])
        for row in range(min(_BLOCK_ROWS, n - 1 - start)):
            length = n - 1 - start - row
            out[at : at + length] = block[row, row + 1 :]
            at += length
    return out


def complete_linkage(embeddings: np.ndarray, num_merges: int) -> Merges:
    """The first merges of agglomerative clustering with complete linkage (the paper's section 3.2).

    The merges are SciPy's on dissimilarities that have the same bits on every machine and any number of threads (see
    `dissimilarity`), so they are too. Where dissimilarities tie, SciPy's order decides.

    Args:
      embeddings: [n, d] float32, finite and no row zero.
      num_merges: 0…n-1, how many merges are wanted; n - num_merges clusters remain.

    Raises:
      DataError: the pairs of so many images do not fit in memory.
    """
    n, dimension = embeddings.shape
    if not 0 <= num_merges <= max(0, n - 1):
        raise ValueError(f"num_merges is {num_merges} for {n} images; wanted 0…{max(0, n - 1)}")
    if num_merges == 0:
        return Merges(*(np.empty(0, dtype) for dtype in (np.int64, np.int64, np.float64, np.int64)))
    check_memory(n, dimension)
    rows = hierarchy.linkage(_condensed(embeddings), method="complete")[:num_merges]
    left, right, height, size = rows.T
    return Merges(left.astype(np.int64), right.astype(np.int64), height.copy(), size.astype(np.int64))
