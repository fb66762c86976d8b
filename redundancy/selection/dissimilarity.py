"""Dissimilarity of images: one minus the cosine of the angle between their embeddings (the paper's section 3.2).

The value of a pair has the same bits whatever the number of BLAS threads, the block size, the order of the two or
the machine's matrix-product routine. Knows nothing of files and classes.
"""

import numpy as np

# Unit vectors are rounded to multiples of 2**-26, so the products in a dot product are multiples of 2**-52 and every
# partial sum, being below 2, is exact in float64 in whatever order it is taken. The rounding is about that of the
# float32 embeddings themselves: it moves a dissimilarity by less than 1e-8, and far less for near images.
_GRID = 2.0**26


def normalized(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings scaled to length 1, unrounded: [n, d] float, no row zero, to [n, d] float64."""
    vectors = embeddings.astype(np.float64)
    vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    return vectors


def unit_vectors(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings scaled to length 1 and rounded to a grid on which dot products are exact.

    Args:
      embeddings: [n, d] float, finite and no row zero.

    Returns:
      [n, d] float64, multiples of 2**-26, of length 1 up to that rounding.
    """
    vectors = normalized(embeddings)
    vectors *= _GRID
    np.rint(vectors, out=vectors)
    vectors /= _GRID
    return vectors


def _excess(units: np.ndarray) -> np.ndarray:
    """What half the squared length has over 1/2, the rounding's share in each dissimilarity. [..., d] to [...]."""
    return (np.einsum("...d,...d->...", units, units) - 1.0) / 2.0


def between_all(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Dissimilarity of every row of `first` to every row of `second`.

    It is half the squared distance of the rounded unit vectors, 1 - cos plus a term for their lengths: never
    negative, and exactly 0 for duplicates.

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
