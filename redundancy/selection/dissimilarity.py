"""Dissimilarity of images: one minus the cosine of the angle between their embeddings (the paper's section 3.2).

The value of a pair has the same bits whatever the number of threads, the block size, the order of the two, the
machine's matrix-product routine or the way it is computed (integers in `between_pairs`, float64 products in
`between_all`). Knows nothing of files and classes.
"""

import dataclasses

import numba
import numpy as np

# Unit vectors are rounded to multiples of 2**-26, so the products in a dot product are multiples of 2**-52 and every
# partial sum, being below 2, is exact in float64 in whatever order it is taken. The rounding is about that of the
# float32 embeddings themselves: it moves a dissimilarity by less than 1e-8, and far less for near images.
_GRID = 2.0**26
# Sums of squares are taken in this many interleaved parts: one order on every machine, and one that SIMD can follow.
_LANES = 8


@dataclasses.dataclass(frozen=True)
class Units:
    """Unit vectors of n embeddings on the grid, whose dot products are exact.

    Attributes:
      grid: [n, d] int32, the unit vectors in multiples of 2**-26.
      excess: [n] float64, what half the squared length has over 1/2: the rounding's share in each dissimilarity.
    """

    grid: np.ndarray
    excess: np.ndarray

    def __len__(self) -> int:
        return len(self.grid)

    def take(self, rows: np.ndarray) -> "Units":
        """The units of some rows, in their order."""
        return Units(self.grid[rows], self.excess[rows])


@numba.njit(nogil=True, cache=True)
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
            # Divided first and scaled after, the scale being a power of two: as in `unit_vectors`.
            value = np.int64(np.rint(np.float64(vector[column]) / length * _GRID))
            grid[row, column] = value
            square += value * value
        excess[row] = (square * 2.0**-52 - 1.0) / 2.0


def units(embeddings: np.ndarray) -> Units:
    """Embeddings scaled to length 1 and rounded to a grid on which dot products are exact.

    Args:
      embeddings: [n, d] float32, finite and no row zero; of any length from the least denormal number to the largest.
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


@numba.njit(nogil=True, cache=True, inline="always")
def pair(grid, excess, first, second):
    """Dissimilarity of the rows `first` and `second` of `Units`, for use in compiled loops."""
    one, other = grid[first], grid[second]
    total = np.int64(0)
    for column in range(len(one)):
        total += np.int64(one[column]) * np.int64(other[column])
    return (1.0 - total * 2.0**-52) + (excess[first] + excess[second])


@numba.njit(nogil=True, cache=True)
def _between_pairs(grid, excess, first, second, out):
    for row in range(len(first)):
        out[row] = pair(grid, excess, first[row], second[row])


def between_pairs(of: Units, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Dissimilarity of the rows first[k] and second[k]: [m] int and [m] int to [m] float64 in 0…2."""
    out = np.empty(len(first))
    _between_pairs(of.grid, of.excess, np.asarray(first, np.int64), np.asarray(second, np.int64), out)
    return out


def _excess(vectors: np.ndarray) -> np.ndarray:
    """`Units.excess` of vectors as floats: [..., d] to [...]."""
    return (np.einsum("...d,...d->...", vectors, vectors) - 1.0) / 2.0


def between_all(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Dissimilarity of every row of `first` to every row of `second`.

    It is half the squared distance of the rounded unit vectors, 1 - cos plus a term for their lengths: never
    negative, and exactly 0 for duplicates alone.

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
