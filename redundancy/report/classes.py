"""One class on the page: its groups at every fraction, their heights, and which of them get pictures.

Pure: arrays in, arrays out. An image is its row in the class, 0…n-1 in ascending position, as in the class's merges.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from redundancy.linkage import cut, dissimilarity
from redundancy.linkage.complete import Merges
from redundancy.report import gallery

_BLOCK_ELEMENTS = 1 << 22
# For each group picked from another fraction, this many are picked from the shown fraction.
_MAIN_SHARE = 5


@dataclasses.dataclass(frozen=True)
class Cut:
    """The redundant groups (two images or more) of a class at one fraction.

    Attributes:
      fraction: kept share of the whole data set.
      kept: images of the class that are kept.
      rows: [m] int64, the images of one group after the other; in each group the kept one first, then by dissimilarity.
      sizes: [g] int64, images of each group.
      distances: [m] float64, dissimilarities to the kept image.
      heights: [g] float64, of the merge that made the group: the greatest dissimilarity within it. NaN if not known.
    """

    fraction: float
    kept: int
    rows: np.ndarray
    sizes: np.ndarray
    distances: np.ndarray
    heights: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """[g] int64, first row of each group in `rows`."""
        return np.cumsum(self.sizes) - self.sizes

    @property
    def spread(self) -> np.ndarray:
        """[g] float64, greatest dissimilarity to the kept image."""
        return np.maximum.reduceat(self.distances, self.starts) if len(self.sizes) else np.zeros(0)

    def reordered(self, order: np.ndarray) -> "Cut":
        """The same groups in another order."""
        sizes = self.sizes[order]
        starts = np.cumsum(sizes) - sizes
        taken = np.repeat(self.starts[order] - starts, sizes) + np.arange(int(sizes.sum()))
        return dataclasses.replace(
            self, rows=self.rows[taken], sizes=sizes, distances=self.distances[taken], heights=self.heights[order]
        )


def group_heights(merges: Merges, n: int, groups: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Heights of groups that are clusters of a class's merges.

    Args:
      merges: of the class.
      n: images of the class.
      groups: [g] int64, one image of each group.
      sizes: [g] int64, images of each; at least two.

    Returns:
      [g] float64; NaN if no cluster of that size holds the image, because the groups come from other merges.
    """
    parent = np.full(n + len(merges), -1, np.int64)
    parent[merges.left] = parent[merges.right] = np.arange(n, n + len(merges))
    found, count = groups.copy(), np.ones(len(groups), np.int64)
    while (climbing := (count < sizes) & (parent[found] >= 0)).any():
        found[climbing] = parent[found[climbing]]
        count[climbing] = merges.size[found[climbing] - n]
    heights, right = np.full(len(found), np.nan), count == sizes
    heights[right] = merges.height[found[right] - n]
    return heights


def make_cut(fraction: float, group: np.ndarray, kept: np.ndarray, distances: np.ndarray, merges: Merges | None) -> Cut:
    """The redundant groups of a class.

    Args:
      fraction: kept share of the data set.
      group: [n] int64.
      kept: [n] bool, one of each group.
      distances: [n] float64, dissimilarity to the group's kept image.
      merges: of the class, or None.
    """
    n = len(group)
    found = gallery.make_groups(np.arange(n), np.zeros(n, np.int64), group, kept, distances)
    several = found.sizes > 1
    taken, sizes = np.repeat(several, found.sizes), found.sizes[several]
    heights = np.full(len(sizes), np.nan)
    if merges is not None and len(sizes):
        heights = group_heights(merges, n, found.positions[found.starts[several]], sizes)
    return Cut(fraction, int(kept.sum()), found.positions[taken], sizes, found.dissimilarity[taken], heights)


def _candidates(of: Cut, seed: int) -> list[int]:
    """The groups in the order in which they get pictures: in turn the largest, the widest, the tightest and a random one of
    the remaining groups."""
    count, spread = len(of.sizes), of.spread
    orders = (
        np.lexsort((spread, -of.sizes)),
        np.lexsort((-of.sizes, -spread)),
        np.lexsort((-of.sizes, spread)),
        np.random.default_rng(np.random.SeedSequence((seed, count))).permutation(count),
    )
    return list(dict.fromkeys(np.stack(orders, axis=1).reshape(-1).tolist()))


def choose_pictures(
    cuts: Sequence[Cut], main: int, most_images: int, most_groups: int, shown: int, seed: int
) -> list[int]:
    """Rows of the images that get a picture, the most wanted first.

    Args:
      cuts: of the class.
      main: index of the fraction that is shown first.
      most_images: rows at most.
      most_groups: groups shown of each cut at most; 0 is as many as fit.
      shown: images shown of one group at most.
      seed: of the random part of the choice.
    """
    queues = [iter(_candidates(of, seed)[: most_groups or None]) for of in cuts]
    starts = [of.starts for of in cuts]  # a property that sums
    chosen: dict[int, None] = {}
    turns = [main] * _MAIN_SHARE + [index for index in range(len(cuts)) if index != main]
    left = set(range(len(cuts)))
    while left:
        for index in turns:
            group = next(queues[index], None)
            if group is None:
                left.discard(index)
                continue
            first = starts[index][group]
            rows = cuts[index].rows[first : first + min(int(cuts[index].sizes[group]), shown)].tolist()
            new = [row for row in rows if row not in chosen]
            if len(chosen) + len(new) > most_images:
                return list(chosen)
            chosen.update(dict.fromkeys(new))
    return list(chosen)


def pictured_first(of: Cut, pictures: np.ndarray, most_groups: int, shown: int, seed: int) -> tuple[Cut, int]:
    """The cut, reordered so that groups whose shown images all have pictures come first, and the number of these groups.

    Args:
      of: the cut.
      pictures: [n] bool, rows with a picture.
      most_groups, shown, seed: as for `choose_pictures`.
    """
    if not len(of.sizes):
        return of, 0
    within = np.arange(len(of.rows)) - np.repeat(of.starts, of.sizes)
    lacking = np.add.reduceat((~pictures[of.rows] & (within < shown)).astype(np.int64), of.starts)
    ordered = _candidates(of, seed)
    first = [group for group in ordered if not lacking[group]][: most_groups or None]
    return of.reordered(np.array(list(dict.fromkeys(first + ordered)), np.int64)), len(first)


def summary(cuts: Sequence[Cut]) -> dict[str, list]:
    """What the list of classes says of a class, a value for each cut; None where there is no group, or no height.

    Returns:
      kept images and groups; largest, images of the largest group; mean, the mean dissimilarity of dropped images to the
      kept one, averaged over groups; height, the greatest of a group.
    """
    found: dict[str, list] = dict(kept=[], groups=[], largest=[], mean=[], height=[])
    for of in cuts:
        there = len(of.sizes) > 0
        sums = np.add.reduceat(of.distances, of.starts) if there else np.zeros(0)
        known = there and bool(np.isfinite(of.heights).any())
        values = dict(
            kept=of.kept,
            groups=len(of.sizes),
            largest=int(of.sizes.max(initial=0)),
            mean=float(f"{(sums / (of.sizes - 1)).mean():.4g}") if there else None,
            height=float(f"{np.nanmax(of.heights):.4g}") if known else None,
        )
        for name, value in values.items():
            found[name].append(value)
    return found


def nearest_outside(embeddings: np.ndarray, kept: np.ndarray, rows: np.ndarray, sizes: np.ndarray):
    """For each of p groups, the image outside the group, in the same class, that is nearest to the kept image.

    Args:
      embeddings: [n, d] float32 of the class.
      kept: [p] int64, row of each group's kept image.
      rows: [m] int64, the groups' rows, side by side.
      sizes: [p] int64, rows of each group.

    Returns:
      [p] int64 rows (ties go to the lowest row) and [p] float64 1 - cos to the kept image; n and NaN if the group is the
      whole class.
    """
    n, dimension = embeddings.shape
    centres = dissimilarity.normalized(embeddings[kept])
    outside, distance = np.full(len(kept), n, np.int64), np.full(len(kept), np.inf)
    group = np.repeat(np.arange(len(kept)), sizes)
    step = max(1, _BLOCK_ELEMENTS // max(len(kept), dimension))
    for first in range(0, n, step):
        block = 1 - centres @ dissimilarity.normalized(embeddings[first : first + step]).T
        inside = (first <= rows) & (rows < first + step)
        block[group[inside], rows[inside] - first] = np.inf
        best = block.argmin(axis=1)
        value = block[np.arange(len(best)), best]
        nearer = value < distance
        outside[nearer], distance[nearer] = first + best[nearer], value[nearer]
    return outside, np.where(np.isfinite(distance), np.maximum(distance, 0.0), np.nan)


def make_details(of: Cut, count: int, n: int, embeddings: np.ndarray | None, rule: str) -> dict[str, np.ndarray]:
    """Numbers shown beside the first p = `count` groups of a cut; all NaN, or n, if there are no embeddings.

    Args:
      of: the cut.
      count: groups wanted.
      n: images of the class.
      embeddings: [n, d] float32 of the class, or None.
      rule: which image of a group is kept, see `cut.representatives`.

    Returns:
      outside [p] int64 and outside_distance [p] float64, see `nearest_outside`; own and second [p] float64, the numbers
      that the rule compared (lower is better) for the kept image and for the next best one.
    """
    outside, distance = np.full(count, n, np.int64), np.full(count, np.nan)
    own = second = distance
    if embeddings is not None and count:
        sizes, starts = of.sizes[:count], of.starts[:count]
        rows = of.rows[: int(sizes.sum())]
        outside, distance = nearest_outside(embeddings, of.rows[starts], rows, sizes)
        scores = cut.scores(embeddings[rows], starts, sizes, rule)
        own = scores[starts]
        scores[starts] = -np.inf
        second = np.maximum.reduceat(scores, starts)
        second = np.where(second >= own - cut.TIE, own, second)
        if rule == "medoid":
            own, second = -own / (sizes - 1), -second / (sizes - 1)
        elif rule == "minimax":
            own, second = -own, -second
        else:
            own, second = 1 - own, 1 - second
        own, second = np.maximum(own, 0.0), np.maximum(second, 0.0)
    return dict(outside=outside, outside_distance=distance, own=own, second=second)
