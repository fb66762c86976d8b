"""Orders of the images of one class, computed from their embeddings: the first k are kept, for any k.

Arrays in, arrays out. docs/methods.md names the authors of each, and variants of the same name. Ties go to the lowest row.
"""

import heapq

import numpy as np

from redundancy.linkage.dissimilarity import normalized, unit_vectors
from redundancy.runtime.compiled import compiled

_DENSE = 10_000  # for up to this many images all similarities are held in memory, 0.8 GB
_TILE = 1024


@compiled(fastmath={"reassoc", "contract"})
def _farthest_first(vectors, k, first):
    n, dimension = vectors.shape
    order = np.empty(k, np.int64)
    rows, near = np.arange(n), np.full(n, np.inf)
    taken = first  # index into `rows`, which holds the rows not chosen yet
    left = n
    for step in range(k):
        order[step] = rows[taken]
        centre = vectors[rows[taken]]
        left -= 1
        # Rows stay ascending, so that of several equally far rows the first is the lowest.
        for at in range(taken, left):
            rows[at], near[at] = rows[at + 1], near[at + 1]
        taken, farthest = 0, -1.0
        for at in range(left):
            vector, square = vectors[rows[at]], 0.0
            for column in range(dimension):
                step_to = vector[column] - centre[column]
                square += step_to * step_to
            near[at] = min(near[at], square)
            if near[at] > farthest:
                taken, farthest = at, near[at]
    return order


def k_center(embeddings: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Farthest-first traversal: each next image is the one farthest from all before it (Sener and Savarese 2018).

    Distances are Euclidean. The first image is drawn at random.

    Args:
      embeddings: [n, d] float32.
      k: images wanted, 1…n.
      rng: draws the first image.

    Returns:
      [k] int64, rows in the order in which they are chosen.
    """
    return _farthest_first(embeddings.astype(np.float64), k, int(rng.integers(len(embeddings))))


@compiled(fastmath={"reassoc", "contract"})
def _herd(vectors, mean, k):
    n, dimension = vectors.shape
    order, rows, half = np.empty(k, np.int64), np.arange(n), np.empty(n)
    for row in range(n):
        half[row] = (vectors[row] * vectors[row]).sum() / 2
    wanted = mean.copy()  # (t + 1) times the mean, minus the sum of the chosen rows
    left = n
    for step in range(k):
        best, taken = -np.inf, 0
        for at in range(left):
            vector, product = vectors[rows[at]], 0.0
            for column in range(dimension):
                product += vector[column] * wanted[column]
            if product - half[rows[at]] > best:
                best, taken = product - half[rows[at]], at
        order[step] = rows[taken]
        wanted += mean - vectors[rows[taken]]
        left -= 1
        for at in range(taken, left):
            rows[at] = rows[at + 1]
    return order


def herding(embeddings: np.ndarray, k: int) -> np.ndarray:
    """Each next image brings the mean of those chosen nearest to the mean of the class (Welling 2009; Rebuffi et al. 2017).

    Args, Returns: as `k_center`.
    """
    vectors = embeddings.astype(np.float64)
    return _herd(vectors, vectors.mean(axis=0), k)


@compiled(fastmath={"reassoc", "contract"})
def _gain(similarities, nearest):
    """The gain of a row: how much it adds to the sum of the nearest similarities. It never grows when `nearest` does."""
    gain = 0.0
    for at in range(len(nearest)):
        gain += max(similarities[at] - nearest[at], 0.0)
    return gain


def facility_location(embeddings: np.ndarray, k: int) -> np.ndarray:
    """Greedy maximum of the sum over all images of the similarity to the nearest chosen one (Wei et al. 2015).

    The similarity is (1 + cos) / 2. Uses lazy greedy (Minoux 1978): gains never grow, so an image whose recomputed gain is
    still the highest is the next one.

    Args, Returns: as `k_center`. With more than 10,000 images, similarities are recomputed when needed.
    """
    units = normalized(embeddings)
    n = len(units)
    whole = (1 + units @ units.T) / 2 if n <= _DENSE else None

    def similarities(row: int) -> np.ndarray:
        return whole[row] if whole is not None else (1 + units @ units[row]) / 2

    # An upper bound of each first gain. Gains are recomputed before a row is chosen, so all are rounded alike.
    first = (n + units @ units.sum(axis=0)) / 2 * (1 + 1e-9)
    heap = [(-gain, row, -1) for row, gain in enumerate(first.tolist())]
    heapq.heapify(heap)
    order, nearest = [], np.zeros(n)
    while len(order) < k:
        _, row, known = heapq.heappop(heap)
        of_row = similarities(row)
        if known == len(order):
            order.append(row)
            nearest = np.maximum(nearest, of_row)
        else:
            heapq.heappush(heap, (-_gain(of_row, nearest), row, len(order)))
    return np.array(order, np.int64)


def nearest_before(units: np.ndarray) -> np.ndarray:
    """Cosine of each row to the nearest row before it, -inf for the first: [n, d] unit vectors to [n]."""
    nearest = np.full(len(units), -np.inf, units.dtype)
    above = np.triu(np.full((_TILE, _TILE), -np.inf, units.dtype))
    for start in range(0, len(units), _TILE):
        rows = units[start : start + _TILE]
        for before in range(0, start, _TILE):
            np.maximum(nearest[start : start + _TILE], (rows @ units[before : before + _TILE].T).max(axis=1),
                       out=nearest[start : start + _TILE])  # fmt: skip
        own = rows @ rows.T + above[: len(rows), : len(rows)]
        np.maximum(nearest[start : start + _TILE], own.max(axis=1), out=nearest[start : start + _TILE])
    return nearest


def semdedup(embeddings: np.ndarray, k: int) -> np.ndarray:
    """SemDeDup (Abbas et al. 2023) with classes in place of clusters: near duplicates of an earlier image are dropped first.

    Images are sorted by their cosine to the class's centroid, the farthest first ("keep hard"). An image is dropped if its
    cosine to any image before it, dropped or not, is above a threshold; here the threshold is the one that keeps k images.

    Args, Returns: as `k_center`.
    """
    units = unit_vectors(embeddings)
    far_first = np.argsort(units @ units.mean(axis=0), kind="stable")
    return far_first[np.argsort(nearest_before(units[far_first].astype(np.float32)), kind="stable")][:k]


def _to_prototype(embeddings: np.ndarray) -> np.ndarray:
    """Cosine of each row to the mean of the unit vectors, times the length of that mean: [n, d] float32 to [n] float64."""
    units = normalized(embeddings)
    return units @ units.mean(axis=0)


def prototypes(embeddings: np.ndarray, k: int) -> np.ndarray:
    """Sorts images by their dissimilarity to the class's prototype, the mean of its unit vectors, the farthest first.

    Sorscher et al. (2022) call these supervised prototypes; images far from the prototype are hard.

    Args, Returns: as `k_center`.
    """
    return np.argsort(_to_prototype(embeddings), kind="stable")[:k]


def prototypes_easy(embeddings: np.ndarray, k: int) -> np.ndarray:
    """As `prototypes`, but the nearest first, as Sorscher et al. (2022) recommend for small data sets."""
    return np.argsort(-_to_prototype(embeddings), kind="stable")[:k]


def moderate(embeddings: np.ndarray, k: int) -> np.ndarray:
    """Ranks images by distance to the class's median and sorts them by nearness to the middle rank (Xia et al. 2023).

    Args, Returns: as `k_center`.
    """
    vectors = embeddings.astype(np.float64)
    ranking = np.argsort(np.linalg.norm(vectors - np.median(vectors, axis=0), axis=1), kind="stable")
    return ranking[np.argsort(np.abs(np.arange(len(ranking)) - (len(ranking) - 1) / 2), kind="stable")][:k]


def by_score(score: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Rows of scores [n], the highest first; ties are in the order of the rows or, with `rng`, in random order."""
    if rng is None:
        return np.argsort(-score, kind="stable")
    return np.lexsort((rng.permutation(len(score)), -score))
