"""Dissimilarity of images: one minus the cosine of the angle between their embeddings (the paper's section 3.2).

The value of a pair has the same bits for any number of threads, any block size, either order of the two images, any
matrix-product routine, and either way of computing it (integers in `decide`, float64 products in `between_all`). Knows nothing
of files and classes.
"""

import dataclasses

import numpy as np

from redundancy.runtime.compiled import compiled

# Unit vectors are rounded to multiples of 2**-26. So the terms of a dot product are multiples of 2**-52, and every partial
# sum is below 2 and exact in float64, in any order. Rounding moves a vector by at most sqrt(d) 2**-27 and changes a
# dissimilarity D by at most 2**-26 sqrt(2 d D), 3e-7 for 2,048 numbers and D = 0.1; typically by 6e-9 sqrt(2 D).
_GRID = 2.0**26
# Sums of squares are taken in this many interleaved parts: the same order on every machine, and suitable for SIMD.
_LANES = 8


@dataclasses.dataclass(frozen=True)
class Units:
    """Unit vectors of n embeddings on the grid, whose dot products are exact.

    Attributes:
      grid: [n, d] int32, the unit vectors in multiples of 2**-26.
      excess: [n] float64, half the squared length minus 1/2: what the rounding of the vector adds to its dissimilarities.
    """

    grid: np.ndarray
    excess: np.ndarray

    def __len__(self) -> int:
        return len(self.grid)

    def take(self, rows: np.ndarray) -> "Units":
        """The units of these rows, in the given order."""
        return Units(self.grid[rows], self.excess[rows])


@compiled
def _round_rows(embeddings, grid, excess):
    n, dimension = embeddings.shape
    whole = dimension - dimension % _LANES
    squares = np.empty(_LANES)
    for row in range(n):
        vector = embeddings[row]
        squares[:] = 0.0
        for start in range(0, whole, _LANES):
            for lane in range(_LANES):
                value = np.float64(vector[start + lane])
                squares[lane] += value * value
        for column in range(whole, dimension):
            value = np.float64(vector[column])
            squares[column - whole] += value * value
        total = 0.0
        for lane in range(_LANES):
            total += squares[lane]
        length = np.sqrt(total)
        square = np.int64(0)
        for column in range(dimension):
            # First divided, then scaled by a power of two, as in `unit_vectors`.
            value = np.int64(np.rint(np.float64(vector[column]) / length * _GRID))
            grid[row, column] = value
            square += value * value
        excess[row] = (square * 2.0**-52 - 1.0) / 2.0


def units(embeddings: np.ndarray) -> Units:
    """Embeddings scaled to length 1 and rounded to a grid on which dot products are exact.

    Args:
      embeddings: [n, d] float32, finite and no row zero; lengths may range from the smallest denormal number to the largest.
    """
    embeddings = np.ascontiguousarray(embeddings, np.float32)
    n, dimension = embeddings.shape
    grid, excess = np.empty((n, dimension), np.int32), np.empty(n)
    _round_rows(embeddings, grid, excess)
    return Units(grid, excess)


def normalized(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings scaled to length 1, unrounded: [n, d] float, no row zero, to [n, d] float64."""
    vectors = embeddings.astype(np.float64)
    vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    return vectors


def unit_vectors(embeddings: np.ndarray) -> np.ndarray:
    """The vectors of `units` as floats.

    Args:
      embeddings: [n, d] float32, finite and no row zero.

    Returns:
      [n, d] float64, multiples of 2**-26, of length 1 up to that rounding.
    """
    return units(embeddings).grid * (1 / _GRID)


@compiled(inline="always")
def _pair(grid, excess, first, second):
    """Dissimilarity of the rows `first` and `second` of `Units`, for use in compiled loops."""
    one, other = grid[first], grid[second]
    total = np.int64(0)
    for column in range(len(one)):
        total += np.int64(one[column]) * np.int64(other[column])
    return (1.0 - total * 2.0**-52) + (excess[first] + excess[second])


@compiled
def decide(i, j, above, threshold, grid, excess, value):
    """Moves the pairs (i, j) with above < dissimilarity ≤ threshold to the front, in their order.

    Args:
      i, j: [c] int32, overwritten.
      above, threshold: range of dissimilarities to keep, without `above` itself.
      grid, excess: see `Units`.
      value: [c] float64, filled.

    Returns:
      How many are kept.
    """
    kept = 0
    for number in range(len(i)):
        exact = _pair(grid, excess, np.int64(i[number]), np.int64(j[number]))
        if above < exact <= threshold:
            i[kept], j[kept], value[kept] = i[number], j[number], exact
            kept += 1
    return kept


def _excess(vectors: np.ndarray) -> np.ndarray:
    """`Units.excess` of vectors as floats: [..., d] to [...]."""
    return (np.einsum("...d,...d->...", vectors, vectors) - 1.0) / 2.0


def between_all(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Dissimilarity of every row of `first` to every row of `second`.

    It is half the squared distance of the rounded unit vectors, that is 1 - cos plus a term for their lengths. It is never
    negative, and exactly 0 only for duplicates.

    Args:
      first: [..., a, d] float64 from `unit_vectors`.
      second: [..., b, d] float64 from `unit_vectors`.

    Returns:
      [..., a, b] float64 in 0…2.
    """
    out = np.matmul(first, np.swapaxes(second, -1, -2))
    np.subtract(1.0, out, out=out)
    out += _excess(first)[..., :, None] + _excess(second)[..., None, :]
    return out


def between_rows(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Dissimilarity of each row of `first` to the same row of `second`: [n, d] and [n, d] to [n] float64."""
    return (1.0 - np.einsum("nd,nd->n", first, second)) + (_excess(first) + _excess(second))
