"""Breaks ties between pairs of equal dissimilarity: the pair with the lower i comes first, then the one with the lower j.

So pairs have a total order, (dissimilarity, i, j), and the linkage has the same result on every machine. The distance of two
clusters is that of their last pair in this order; `complete`, `counting` and `chain` follow it. If several images of a group
score equally, `cut` keeps the first.
"""

import numpy as np


def total_order(dissimilarity: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Indices [m] int64 that sort pairs, given by three arrays [m], into the total order."""
    order = np.argsort(dissimilarity)
    value = dissimilarity[order]
    same = value[1:] == value[:-1]
    if same.any():
        # Most values occur once, so only runs of equal values are sorted again.
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        some = order[tied]
        order[tied] = some[np.lexsort((j[some], i[some], value[tied]))]
    return order
