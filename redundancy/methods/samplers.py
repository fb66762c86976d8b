"""Choices that spread over the range of a score."""

import numpy as np

BINS = 50


def ccs(score: np.ndarray, k: int, cutoff: float, rng: np.random.Generator) -> np.ndarray:
    """Coverage-centric sampling (Zheng et al. 2023): drops the hardest images, then draws evenly over the range of difficulty.

    The hardest `cutoff` share is dropped, and the score range of the rest is divided into 50 bins of equal width. All bins get
    the same number of images. Bins are filled in ascending size, so that what a small bin lacks goes to larger ones.

    Args:
      score: [n] float64, high is hard; without NaN.
      k: images to keep, at most n minus the dropped images.
      cutoff: share of the hardest that is dropped first, from 0 to below 1.
      rng: draws within the bins.

    Returns:
      [n] bool.
    """
    n = len(score)
    rows = np.lexsort((rng.permutation(n), score))[: n - int(n * cutoff)]
    if k > len(rows):
        raise ValueError(f"{k} of {n} images cannot be kept when the hardest {cutoff:g} are dropped")
    left = score[rows] / 2  # so that no difference overflows
    finite = left[np.isfinite(left)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    left = np.clip(left, low, high)  # infinite scores go into the first or last bin
    number = np.zeros(len(left), int)
    if high > low:
        number = np.minimum(((left - low) / (high - low) * BINS).astype(int), BINS - 1)
    kept, wanted = np.zeros(n, bool), k
    members = sorted((rows[number == each] for each in np.unique(number)), key=len)
    for at, of_bin in enumerate(members):
        take = min(len(of_bin), wanted // (len(members) - at))
        kept[rng.permutation(of_bin)[:take]] = True
        wanted -= take
    return kept
