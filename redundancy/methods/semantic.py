"""The method semantic: one image of each group of the class's merge tree (the paper's section 3.2)."""

import numpy as np

from redundancy.linkage import cut
from redundancy.linkage.complete import Merges


def semantic_subset(
    merges: Merges, embeddings: np.ndarray, k: int, rule: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts one class into redundant groups and keeps one image of each (the paper's section 3.2).

    Args:
      merges: at least the first n - k merges of the class.
      embeddings: [n, d] float32.
      k: images to keep.
      rule: which image of a group is kept, see `cut.representatives`.

    Returns:
      kept [n] bool; group [n] int64 in 0…k-1; dissimilarity [n] float64 to the kept image of the group.
    """
    group = cut.groups(merges, len(embeddings), k)
    representatives = cut.representatives(embeddings, group, rule)
    kept = np.zeros(len(embeddings), bool)
    kept[representatives] = True
    return kept, group, cut.dissimilarity_to(embeddings, representatives[group])
