"""Short float32 rows whose products bound dissimilarities from below; `pairs` uses them to propose pairs.

The class mean is subtracted from the unit vectors. If that is faster, they are also projected onto a few directions. A
projection never increases a distance, so no pair within the threshold is lost; with embeddings of a trained network, few
other pairs are proposed. Every bound holds for any rounding of the products. Knows nothing of files and classes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from redundancy.linkage.devices import on_host
from redundancy.linkage.dissimilarity import Units
from redundancy.runtime.compiled import compiled

_ROUNDING = 2.0**-24
_BLOCK, _LARGE_BLOCK = 256, 2048
_SAMPLE = 256
_DIRECTIONS = (16, 32, 64, 128)
# Costs in nanoseconds on one core: per pair of rows and per number; per product in a projection; per exact value and number.
_PAIR, _PAIR_NUMBER, _NUMBER, EXACT, EXACT_NUMBER = 0.35, 0.025, 0.025, 40.0, 0.6
_WORTH = 0.8
# (a + b)² ≤ (1 + SHARE) a² + (1 + 1 / SHARE) b².
SHARE = 2.0**-7


@jax.jit
def _compiled_product(rows, columns):
    return jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)


def _product(rows, columns):
    """Products of rows [a, p] and [b, p], float32. They are samples, too small to be worth compiling for an accelerator."""
    with on_host():
        return _compiled_product(rows, columns)


@compiled
def _fill_centred(grid, rows, half):
    n, dimension = grid.shape
    mean = np.zeros(dimension, np.int64)
    for row in range(n):
        for column in range(dimension):
            mean[column] += np.int64(grid[row, column])
    for column in range(dimension):
        mean[column] //= n
    for row in range(n):
        total = 0.0
        for column in range(dimension):
            value = np.float32(np.float64(np.int64(grid[row, column]) - mean[column]) * 2.0**-26)
            rows[row, column] = value
            total += np.float64(value) * np.float64(value)
        half[row] = total / 2


@dataclasses.dataclass(frozen=True)
class Rows:
    """n short rows. Those of images i and j with dissimilarity ≤ t have |x - y|² / 2 ≤ widen t + loose[i] + loose[j].

    Attributes:
      rows: [n, p] float32.
      half: [n] float64, half the squared lengths of `rows`.
      widen: factor on the threshold.
      loose: [n] float64.
    """

    rows: np.ndarray
    half: np.ndarray
    widen: float
    loose: np.ndarray

    def limits(self, threshold: float) -> np.ndarray:
        """Limits [n] float32 for testing pairs: one within the threshold has a float32 product ≥ limits[i] + limits[j].

        |x - y|² / 2 = |x|² / 2 + |y|² / 2 - xy, and rounding moves xy by less than p 2**-24 |x| |y|, which is below
        p 2**-24 (|x|² + |y|²) / 2; twice as much is allowed for, and a little for the limits' own rounding.
        """
        wide = self.widen * threshold
        slack = 2 * (self.rows.shape[1] + 64) * _ROUNDING
        limits = (1 - slack) * self.half - wide / 2 - self.loose - 2.0**-21 * (self.half + wide + self.loose)
        return limits.astype(np.float32)

    def between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """|x - y|² / 2 up to rounding, [a, b] float32, for the rows numbered `first` [a] and `second` [b]."""
        product = np.asarray(_product(self.rows[first], self.rows[second]))
        return (self.half[first].astype(np.float32)[:, None] + self.half[second].astype(np.float32)) - product


def centred(units: Units) -> Rows:
    """Unit vectors minus their mean. The differences are short, and so the rounding errors of their float32 products are small.

    So nearly equal images are distinguished as well as any others. The rows have as many numbers as the unit vectors.
    """
    rows, half = np.empty(units.grid.shape, np.float32), np.empty(len(units))
    _fill_centred(units.grid, rows, half)
    # A row's own rounding is below 2**-24 of its length.
    return Rows(rows, half, 1.0, 4 * _ROUNDING * half)


@compiled(fastmath=True)
def _gram_schmidt(rows):
    """Orthonormal directions of the rows, [p, d] float32; 0 if a row adds none."""
    directions = rows.copy()
    num, dimension = rows.shape
    for one in range(num):
        before, after = np.float32(0), np.float32(0)
        for column in range(dimension):
            before += rows[one, column] * rows[one, column]
            after += directions[one, column] * directions[one, column]
        if after > np.float32(1e-4) * before:
            directions[one] /= np.sqrt(after)
        else:
            directions[one] = 0
            continue
        for other in range(one + 1, num):
            product = np.float32(0)
            for column in range(dimension):
                product += directions[one, column] * directions[other, column]
            for column in range(dimension):
                directions[other, column] -= product * directions[one, column]
    return directions


def growth(directions: np.ndarray) -> float:
    """Bounds the relative growth of a vector's squared length when it is projected onto directions [p, d], orthonormal or 0."""
    wide = directions.astype(np.float64)
    return float(np.linalg.norm(wide @ wide.T - np.diag(directions.any(axis=1).astype(np.float64))))


def _in_directions(rows: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Products of rows and directions, in blocks of one shape: [n, d] and [p, d] to [n, p] float32."""
    out = np.empty((len(rows), len(directions)), np.float32)
    block = _BLOCK if len(rows) < 2 * _LARGE_BLOCK else _LARGE_BLOCK
    for start in range(0, len(rows), block):
        some = rows[start : start + block]
        if len(some) < block:
            some = np.concatenate([some, np.zeros((block - len(some), rows.shape[1]), np.float32)])
        out[start : start + block] = np.asarray(_product(some, directions))[: len(rows) - start]
    return out


def projected_rows(whole: Rows, rows: np.ndarray, some: np.ndarray | slice, growth: float) -> Rows:
    """Makes `Rows` of `rows`, which are the rows `some` of `whole`, projected onto a few directions with this `growth`.

    Each number of `rows` is a float32 product of two vectors [d], summed in any order.
    """
    num, dimension = rows.shape[1], whole.rows.shape[1]
    half = np.einsum("np,np->n", rows, rows, dtype=np.float64) / 2
    # Each of the p products has an error below d 2**-24 times the row's length, so a row has one below sqrt(p) times that.
    error = (2 * dimension * _ROUNDING) ** 2 * num * 2 * whole.half[some]
    loose = (1 + SHARE) * (1 + growth) * whole.loose[some] + (1 + 1 / SHARE) * error
    return Rows(rows, half, (1 + SHARE) * (1 + growth) * whole.widen, loose)


def _share_proposed(rows: Rows, threshold: float) -> float:
    """Fraction of the pairs of these rows that would be proposed."""
    n, limits = len(rows.rows), rows.limits(threshold)
    near = np.asarray(_product(rows.rows, rows.rows)) >= limits[:, None] + limits
    return (np.count_nonzero(near) - np.count_nonzero(np.diagonal(near))) / (n * (n - 1))


@dataclasses.dataclass(frozen=True)
class Shortening:
    """The fastest form of the rows for finding the near pairs of a class by products of all blocks.

    Attributes:
      directions: [p, d] float32, onto which rows are projected; None if they are not.
      growth: see `growth`.
      nanoseconds: estimated time on one core.
    """

    directions: np.ndarray | None
    growth: float
    nanoseconds: float

    def of(self, whole: Rows) -> Rows:
        """The rows in this form."""
        if self.directions is None:
            return whole
        return projected_rows(whole, _in_directions(whole.rows, self.directions), slice(None), self.growth)


def shortening(whole: Rows, threshold: float) -> Shortening:
    """Projects onto the directions of a few of the images, if a sample shows that this is faster."""
    n, dimension = whole.rows.shape
    num_pairs = n * n / 2
    as_they_are = Shortening(None, 0.0, num_pairs * (_PAIR + dimension * _PAIR_NUMBER))
    choices = [num for num in _DIRECTIONS if 2 * num <= dimension and 16 * num <= n]
    if not choices or n < 2 * _SAMPLE:
        return as_they_are
    most = choices[-1]
    # Large enough for some of its pairs to be near, whatever the size of the class.
    num_sample = min(2048, max(_SAMPLE, 1 << round(np.log2(2 * n**0.5))))
    sample = np.random.default_rng(n).choice(n, most + num_sample, replace=False, shuffle=False)
    directions = _gram_schmidt(whole.rows[sample[:most]])
    grown = growth(directions)
    if grown > SHARE:
        return as_they_are
    # The images that gave the directions lie in their span, so they do not represent the others.
    others = sample[most:]
    of_others = _in_directions(whole.rows[others], directions)
    cost = {}
    for num in choices:
        share = _share_proposed(projected_rows(whole, of_others[:, :num], others, grown), threshold)
        exact = share * num_pairs * (EXACT + dimension * EXACT_NUMBER)
        cost[num] = num_pairs * (_PAIR + num * _PAIR_NUMBER) + n * dimension * num * _NUMBER + exact
    num = min(cost, key=cost.get)
    if cost[num] >= _WORTH * as_they_are.nanoseconds:
        return as_they_are
    return Shortening(directions[:num], grown, cost[num])
