"""How many of the nearest pairs to compute, up to which dissimilarity they lie, and when computing all pairs is faster."""

import numpy as np

from redundancy.linkage.bounds import Rows

SMALL = 256  # up to this many images, computing all pairs is always faster
BELOW_ALL, ABOVE_ALL = -1.0, 2.5  # dissimilarities are 0…2
# Costs in nanoseconds on one core, without the search for near pairs: per counted pair and per number of it; per pair, and number,
# if all pairs are computed; and the fixed cost of counting.
_COUNTED, _COUNTED_NUMBER, _ANY, _ANY_NUMBER, _COUNTING = 200.0, 0.5, 9.0, 0.045, 2.5e6
_SAMPLE_PAIRS = 1 << 22
_SAMPLE_HITS = 256


def first_target(n: int, num_merges: int) -> int:
    """How many of the nearest pairs to begin with: enough for most classes, and few beside all n² / 2.

    With embeddings of trained networks, keeping 90 % takes about 0.4 pairs per image, 50 % about 15, 10 % about 400. This
    returns at least twice as many, as long as 30 % or more are kept.
    """
    share = num_merges / n
    return int(n * (3 + 20 * share**2 + 1000 * share**5))


def dense_is_quicker(n: int, dimension: int, num_pairs: int) -> bool:
    """Whether linking n images from all pairs is faster than finding and counting the nearest `num_pairs`."""
    every = n * (n - 1) // 2
    counting = _COUNTING + min(num_pairs, every) * (_COUNTED + dimension * _COUNTED_NUMBER)
    return every * (_ANY + dimension * _ANY_NUMBER) < counting


class Threshold:
    """Dissimilarities of a sample of pairs, from which the number of pairs within a threshold is estimated.

    The same class gives the same sample on every machine.
    """

    def __init__(self, centred: Rows, target: int):
        """Draws a sample so large that it contains enough of the `target` nearest pairs."""
        n = len(centred.rows)
        self._num_pairs = n * (n - 1) // 2
        wanted = min(_SAMPLE_PAIRS, _SAMPLE_HITS * self._num_pairs // max(target, 1))
        # A power of two, so that classes of all sizes share a few compiled programs.
        side = 1 << int(np.log2(min(n, max(SMALL, wanted**0.5))))
        generator = np.random.default_rng(n)
        first, second = (generator.choice(n, side, replace=False, shuffle=False) for _ in range(2))
        self._values = centred.between(first, second)[first[:, None] != second]

    def at(self, target: int, above: float) -> float:
        """A threshold within which there are about `target` pairs, and in any case more than within `above`."""
        if target >= self._num_pairs:
            return ABOVE_ALL
        number = int(target / self._num_pairs * len(self._values))
        if number >= len(self._values):
            return ABOVE_ALL
        self._values.partition(number)
        found = max(0.0, float(self._values[number]))
        return found if found > above else float(self._values[self._values > above].min(initial=ABOVE_ALL))


def next_target(num_pairs: int, num_merges: int, wanted: int) -> int:
    """How many of the nearest pairs to take next, if `num_pairs` gave `num_merges` of the `wanted` merges."""
    # The number of merges grows slowly, about with the square root of the number of pairs.
    growth = (wanted / max(num_merges, wanted / 16, 1)) ** 2.5
    return int(num_pairs * min(64, max(2, 1.5 * growth)))
