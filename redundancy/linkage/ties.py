"""Which pair comes first where dissimilarities are equal: the one with the lower i, then the one with the lower j.

So pairs have one total order, (dissimilarity, i, j), and a linkage has one result on every machine. Two clusters are as far
apart as the last of their pairs in that order; `complete`, `counting` and `chain` keep to it. Which image of a group is kept
where several are equally good is for `cut` to say: the first.
"""

import numpy as np


def total_order(dissimilarity: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """[m] int64, the places of pairs in their total order, of [m] each."""
    order = np.argsort(dissimilarity)
    value = dissimilarity[order]
    same = value[1:] == value[:-1]
    if same.any():
        # Most values occur once: only runs of equal ones are looked at again.
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        some = order[tied]
        order[tied] = some[np.lexsort((j[some], i[some], value[tied]))]
    return order
