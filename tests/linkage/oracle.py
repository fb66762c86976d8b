"""What the linkage must give, by two slow ways that share nothing with it but the dissimilarities."""

import itertools

import numpy as np
from scipy.cluster import hierarchy

from redundancy.linkage import complete, dissimilarity


def ordered_pairs(embeddings):
    """All pairs in the total order: i, j, dissimilarity."""
    units = dissimilarity.unit_vectors(embeddings)
    i, j = np.triu_indices(len(units), 1)
    value = dissimilarity.between_all(units, units)[i, j]
    order = np.lexsort((j, i, value))
    return i[order], j[order], value[order]


def by_scipy(embeddings) -> complete.Merges:
    """SciPy's linkage of the pairs' places in the total order, in which nothing ties."""
    n = len(embeddings)
    i, j, value = ordered_pairs(embeddings)
    place = np.zeros((n, n))
    place[i, j] = np.arange(len(i))
    rows = hierarchy.linkage(place[np.triu_indices(n, 1)], method="complete")
    left, right, last, size = rows.T.astype(np.int64)
    return complete.Merges(left, right, value[last], size)


def by_definition(embeddings) -> complete.Merges:
    """Merges, again and again, the two clusters whose last pair in the total order comes first."""
    n = len(embeddings)
    key = {(i, j): (value, i, j) for i, j, value in zip(*(x.tolist() for x in ordered_pairs(embeddings)), strict=True)}
    clusters = {image: [image] for image in range(n)}
    rows = []
    for number in range(n, 2 * n - 1):
        (value, _, _), left, right = min(
            (max(key[min(i, j), max(i, j)] for i in clusters[one] for j in clusters[other]), one, other)
            for one, other in itertools.combinations(sorted(clusters), 2)
        )
        clusters[number] = clusters.pop(left) + clusters.pop(right)
        rows.append((left, right, value, len(clusters[number])))
    left, right, height, size = np.array(rows).reshape(-1, 4).T
    return complete.Merges(left.astype(np.int64), right.astype(np.int64), height, size.astype(np.int64))


def assert_same(found: complete.Merges, expected: complete.Merges) -> None:
    """`found` is the beginning of `expected`, bit for bit; so the partitions agree at every number of groups."""
    for name in ("left", "right", "height", "size"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)[: len(found)]), name
