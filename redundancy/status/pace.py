"""The rate of work, computed from the times at which pieces ended, without pauses. Knows nothing of files."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_PAUSE = 3.0  # an interval longer than the usual one by this factor is a pause, or compilation
_RARE = 10.0  # the factor relative to the mean of all others, for intervals that naturally differ
_TOGETHER = 2.0  # seconds within which pieces count as ended at the same time


def of_lines(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Steps per second of one training, from lines of metrics with `step` and `time`; None if there are too few."""
    intervals = [
        (later["time"] - earlier["time"], later["step"] - earlier["step"])
        for earlier, later in itertools.pairwise(lines)
    ]
    intervals = [(seconds, steps) for seconds, steps in intervals if seconds > 0 and steps > 0]
    if not intervals:
        return None
    usual = statistics.median_low(sorted(seconds / steps for seconds, steps in intervals))
    counted = [(seconds, steps) for seconds, steps in intervals if seconds / steps <= _PAUSE * usual]
    return sum(steps for _, steps in counted) / sum(seconds for seconds, _ in counted)


def of_ends(ends: Sequence[tuple[float, float]]) -> float | None:
    """Amount of work per second, from the times at which pieces ended; None if there are too few.

    Args:
      ends: end time in seconds and amount of each piece, in any order. The earliest piece only marks the start.
    """
    together: list[list[float]] = []
    for time, amount in sorted(ends):
        if together and time - together[-1][0] <= _TOGETHER and len(ends) > 2:
            together[-1][1] += amount
        else:
            together.append([time, amount])
    if len(together) < 2:  # all ended at the same time, so they are not combined
        together = [[time, amount] for time, amount in sorted(ends)]
    intervals = [(later[0] - earlier[0], later[1]) for earlier, later in itertools.pairwise(together)]
    intervals = sorted((seconds, amount) for seconds, amount in intervals if seconds > 0)
    while len(intervals) > 2 and intervals[-1][0] > _RARE * statistics.mean(each[0] for each in intervals[:-1]):
        intervals.pop()
    seconds = sum(each for each, _ in intervals)
    return sum(amount for _, amount in intervals) / seconds if seconds else None
