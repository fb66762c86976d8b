"""Our exact complete linkage and its peers, each starting from embeddings; and the comparison of their partitions.

Each function imports the package that it measures, so that a child process loads no other.
"""

import concurrent.futures
from collections.abc import Sequence
from typing import Any

import numpy as np

KEPT = 0.9
_STRIP = 256
_QUERIES = 1_000


def merges_wanted(n: int, kept: float) -> int:
    """Merges that leave round(kept n) groups of n images."""
    return n - round(kept * n)


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1: [n, d] float32."""
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def ours(embeddings: np.ndarray, kept: float) -> np.ndarray:
    """Partition by `redundancy.selection`: [n, d] float32 to [n] int64."""
    from redundancy.linkage import complete, cut

    n = len(embeddings)
    made = merges_wanted(n, kept)
    return cut.groups(complete.complete_linkage(embeddings, made), n, n - made)


def ours_at_once(classes: Sequence[np.ndarray], kept: float) -> list[np.ndarray]:
    """Partitions of several classes, as many at once as there are cores, as in the stage link."""
    if len(classes) == 1:
        return [ours(classes[0], kept)]
    import threadpoolctl

    from redundancy.runtime import machine

    with threadpoolctl.threadpool_limits(1, "blas"), concurrent.futures.ThreadPoolExecutor(machine.cores()) as pool:
        return list(pool.map(lambda embeddings: ours(embeddings, kept), classes))


def scikit_learn(embeddings: np.ndarray, kept: float) -> np.ndarray:
    """Partition by scikit-learn, as in the paper: [n, d] float32 to [n] int64."""
    from sklearn.cluster import AgglomerativeClustering

    n = len(embeddings)
    model = AgglomerativeClustering(n_clusters=n - merges_wanted(n, kept), metric="cosine", linkage="complete")
    return model.fit(embeddings).labels_


def _condensed(embeddings: np.ndarray) -> np.ndarray:
    """1 - cos of all pairs i < j in SciPy's order: float32 matrix products, [n (n - 1) / 2] float64."""
    rows = unit_rows(embeddings)
    n = len(rows)
    # float64 directly: SciPy and fastcluster would convert it and hold both arrays.
    out = np.empty(n * (n - 1) // 2)
    at = 0
    for start in range(0, n - 1, _STRIP):
        product = rows[start : start + _STRIP] @ rows[start:].T
        for row in range(min(_STRIP, n - 1 - start)):
            length = n - 1 - start - row
            np.subtract(1.0, product[row, row + 1 :], out=out[at : at + length])
            at += length
    return out


def scipy(embeddings: np.ndarray, kept: float) -> np.ndarray:
    """All merges by SciPy, which cannot stop earlier: [n, d] float32 to [n - 1, 4] float64."""
    from scipy.cluster import hierarchy

    return hierarchy.linkage(_condensed(embeddings), method="complete")


def fastcluster(embeddings: np.ndarray, kept: float) -> np.ndarray:
    """All merges by fastcluster: [n, d] float32 to [n - 1, 4] float64."""
    import fastcluster

    # fastcluster always copies the matrix once, and with preserve_input=True twice.
    return fastcluster.linkage(_condensed(embeddings), method="complete", preserve_input=False)


PEERS = {"scikit-learn": scikit_learn, "SciPy": scipy, "fastcluster": fastcluster}
# All three work on a copy of the matrix.
PEERS_BYTES_PER_PAIR = 16


def partition(result: np.ndarray, kept: float) -> np.ndarray:
    """Labels [n] from the result of one of the functions above, which is labels already or all merges."""
    if result.ndim == 1:
        return result
    return partition_of_tree(result[:, :2], kept)


def partition_of_tree(children: np.ndarray, kept: float) -> np.ndarray:
    """Labels after the first merges of a tree: [n - 1, 2] in SciPy's or scikit-learn's numbering to [n] int64."""
    from redundancy.linkage import cut
    from redundancy.linkage.complete import Merges

    n = len(children) + 1
    pairs = np.sort(children.astype(np.int64), axis=1)
    unused = np.zeros(n - 1)
    merges = Merges(pairs[:, 0], pairs[:, 1], unused, unused.astype(np.int64))
    return cut.groups(merges, n, n - merges_wanted(n, kept))


def canonical(labels: np.ndarray) -> np.ndarray:
    """Labels renumbered in the order of the groups' lowest members: [n] to [n] int64."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def agreement(ours: list[np.ndarray], peers: list[np.ndarray]) -> dict[str, Any]:
    """How far partitions of the same images agree.

    Args:
      ours, peers: labels [n] of each class.

    Returns:
      partitions: number of compared partitions; identical: how many are equal up to the groups' numbers; same_group:
      share of all images whose group has the same members in both.
    """
    identical = same = 0
    for one, other in zip(ours, peers, strict=True):
        one, other = canonical(one), canonical(other)
        identical += np.array_equal(one, other)
        both = canonical(one * (other.max() + 1) + other)
        sizes = [np.bincount(labels)[labels] for labels in (one, other, both)]
        same += np.count_nonzero((sizes[0] == sizes[2]) & (sizes[1] == sizes[2]))
    images = sum(map(len, ours))
    return {"partitions": len(ours), "identical": int(identical), "same_group": same / images}


def within(embeddings: np.ndarray, threshold: float) -> int:
    """Number of pairs up to a dissimilarity, by `redundancy.linkage.pairs`."""
    from redundancy.linkage import dissimilarity, pairs

    return len(pairs.within(dissimilarity.units(embeddings), threshold))


def products(rows: np.ndarray, tile: tuple[int, int]) -> None:
    """Only the products of rows i ≤ j: float32 matrix products, tile by tile into the same memory.

    Args:
      rows: [n, d] float32.
      tile: rows and columns of one product.
    """
    n = len(rows)
    height, width = min(tile[0], n), min(tile[1], n)
    memory = np.empty(height * width, np.float32)
    for top in range(0, n, height):
        block = rows[top : top + height]
        for left in range(top, n, width):
            other = rows[left : left + width]
            np.matmul(block, other.T, out=memory[: len(block) * len(other)].reshape(len(block), len(other)))


def sgemm(embeddings: np.ndarray, tile: list[int]) -> None:
    """`products` from embeddings, for a child process."""
    products(unit_rows(embeddings), (tile[0], tile[1]))


def threshold_of(rows: np.ndarray, pairs: float) -> float:
    """Dissimilarity that about `pairs` pairs of the unit rows [n, d] do not exceed, from a random sample of rows."""
    n = len(rows)
    some = np.random.default_rng(0).choice(n, min(n, 1_000), replace=False)
    found = 1 - rows[some] @ rows.T
    found[np.arange(len(some)), some] = np.inf
    at = min(found.size - len(some) - 1, round(pairs * 2 * len(some) / n))
    return float(np.partition(found, at, axis=None)[at])


def wrong_pairs(embeddings: np.ndarray, found: Any, threshold: float, num_rows: int = 100) -> int:
    """Number of pairs of some random rows with all others that `pairs.within` missed or found wrongly.

    Args:
      embeddings: [n, d] float32.
      found: `Pairs` up to the threshold.
      threshold: pairs within 1e-7 of it may be found or not.
      num_rows: number of random rows.
    """
    exact = unit_rows(embeddings.astype(np.float64))
    wrong = 0
    for row in np.random.default_rng(1).choice(len(exact), min(num_rows, len(exact)), replace=False):
        values = 1 - exact @ exact[row]
        values[row] = np.inf
        others = np.concatenate([found.j[found.i == row], found.i[found.j == row]])
        times = np.bincount(others, minlength=len(exact))
        wrong += np.count_nonzero((times != (values <= threshold)) & (np.abs(values - threshold) > 1e-7))
    return int(wrong)


def linker(embedded: np.ndarray) -> tuple[Any, float]:
    """The linkage of a class, about to begin, and the threshold up to which near pairs are searched first.

    Of a few hundred images the linkage computes all pairs instead; the search is measured all the same.
    """
    from redundancy.linkage import complete, dissimilarity, thresholds

    wanted = merges_wanted(len(embedded), KEPT)
    begun, target = (
        complete.Linker(dissimilarity.units(embedded), wanted),
        thresholds.first_target(len(embedded), wanted),
    )
    return begun, thresholds.Threshold(begun.centred, target).at(target, begun.threshold)


def by_boxes(linker: Any, threshold: float) -> tuple[int, float]:
    """Number of pairs, and the share of the pairs of leaves that are looked at; the boxes are made here."""
    import jax

    from redundancy.linkage import boxes, panels, walk
    from redundancy.runtime.machine import cores

    made, work = boxes.make(linker.centred, cores()), walk.Work()
    if jax.local_devices()[0].platform != "cpu":
        return len(panels.within(linker.units, made, threshold)), walk.leaf_pairs_left(made, threshold)
    found = walk.within(linker.units, made, threshold, threads=cores(), work=work)
    return len(found), work.leaves / (made.num_leaves * (made.num_leaves + 1) / 2)


def by_blocks(linker: Any, threshold: float) -> int:
    """Number of pairs."""
    from redundancy.linkage import pairs

    return len(pairs.within(linker.units, threshold, centred=linker.centred))


def by_faiss(rows: np.ndarray, threshold: float) -> int:
    """Number of pairs by faiss: each is found twice, and each row finds itself."""
    import faiss

    index, found = faiss.IndexFlatIP(rows.shape[1]), 0
    index.add(rows)
    for start in range(0, len(rows), _QUERIES):
        limits, _, _ = index.range_search(rows[start : start + _QUERIES], 1 - threshold)
        found += int(limits[-1])
    return (found - len(rows)) // 2


def near_pairs(embedded: np.ndarray, boxed: bool = True) -> None:
    """A search for pairs from embeddings on, for a child process."""
    prepared, threshold = linker(embedded)
    if threshold is not None:  # else the class is tiny
        (by_boxes if boxed else by_blocks)(prepared, threshold)
