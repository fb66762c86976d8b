"""When a sweep that goes on in rounds may end, and at which level its numbers are read then. Pure: numbers in and out.

Whoever looks several times and stops when the numbers please errs more often than one look does. docs/statistics.md gives
the measured rates.

**Until a width.** Trials are added until every interval is narrow enough. The spread seen at such a stop is a little too
small, so that Student's intervals at 95 % would cover 89 to 94 %. Those at 97.5 % cover 95 %: `WIDTH_LEVEL` is their
level on each side.

**Until a verdict.** Looks are planned before the first one. The probability of a false verdict is spent over them by the
function of Lan and DeMets (1983) that resembles the bounds of O'Brien and Fleming (1979): hardly anything at early looks,
all that is left at the last. Each look has a level, at which its tests are done; intervals of that level hold for all looks
at once (Jennison and Turnbull 1989).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, special

from redundancy.report.statistics import LEVEL

WIDTH_LEVEL = LEVEL / 2
# Several t tests at the levels of tests with a known spread err up to 1.15 times as often: as much less is spent.
STUDENT = 0.86
_MOST_NODES = 1000
_LEAST = 1e-300  # probability that counts as none


def planned(least: int, most: int, count: int) -> list[int]:
    """Numbers of trials at which to look, evenly from `least` to `most`, 2 % of `most` apart; only `most` if it is one."""
    found = [most]
    for each in reversed(np.linspace(least, most, count)[:-1].tolist() if count > 1 else []):
        if found[0] - round(each) >= max(1, most / 50):
            found.insert(0, round(each))
    return found


def spent(share: float | np.ndarray, level: float = LEVEL):
    """Probability of a false verdict that may be spent until this share of the trials is there, one-sided."""
    return 2 * special.ndtr(special.ndtri(level / 2) / np.sqrt(share))


def levels(trials: Sequence[int], level: float = LEVEL) -> list[float]:
    """The one-sided level of each look's test, such that a test of all looks errs with probability `level`.

    By the recursive integration of Armitage, McPherson and Rowe (1969), for means of normal numbers of known spread.

    Args:
      trials: at each look, rising; the last number is the most.
      level: of all looks together.
    """
    shares = np.array(trials) / trials[-1]
    budget = np.diff(spent(shares, level), prepend=0.0)
    bounds, points, density = [-special.ndtri(max(budget[0], _LEAST))], np.zeros(1), np.ones(1)
    for look in range(1, len(shares)):
        before, step = shares[look - 1], math.sqrt(shares[look] - shares[look - 1])
        # Where the sum of the first looks may lie if none of them has stopped, and how likely that is.
        low, high = -9 * math.sqrt(before), min(bounds[-1], 9) * math.sqrt(before)
        nodes, weights = np.polynomial.legendre.leggauss(min(_MOST_NODES, max(100, math.ceil(4 * (high - low) / step))))
        here = low + (nodes + 1) / 2 * (high - low)
        moved = math.sqrt(before - (shares[look - 2] if look > 1 else 0.0))
        arrived = np.exp(-(((here[:, None] - points) / moved) ** 2) / 2) / (moved * math.sqrt(2 * math.pi))
        points, density = here, (arrived @ density) * weights * (high - low) / 2

        bounds.append(
            optimize.brentq(_beyond, -9.0, 39.0, (points, density, math.sqrt(shares[look]), step, budget[look]))
        )
    return [float(each) for each in special.ndtr(-np.array(bounds))]


def of_plan(planned: Sequence[int]) -> list[float]:
    """The one-sided level of Student's t test at each look, such that all together err with probability LEVEL at most."""
    return levels(planned, LEVEL * (STUDENT if len(planned) > 1 else 1))


def _beyond(bound: float, points: np.ndarray, density: np.ndarray, root: float, step: float, budget: float) -> float:
    """Probability that a look is the first beyond its bound, less its budget."""
    return density @ special.ndtr((points - bound * root) / step) - budget


def next_trials(trials: int, half: float, wanted: float, most: int) -> int | None:
    """Trials of the next round of a sweep that goes on until a width.

    Args:
      trials: that there are.
      half: half the width of the widest interval; infinite if one has none.
      wanted: half the width that is wanted.
      most: trials.

    Returns:
      as many as the width would take if the spread stayed, at most twice as many as there are; None if the sweep ends.
    """
    if half <= wanted or trials >= most:
        return None
    needed = trials * (half / wanted) ** 2
    return min(most, 2 * trials, max(trials + 1, math.ceil(needed)) if math.isfinite(needed) else most)


def level(record: Mapping[str, Any] | None, trials: int) -> float:
    """The one-sided level of tests and intervals for so many trials.

    Args:
      record: of the looks at the sweep, see workdir/rounds.py; None if it has no rounds.
      trials: that are shown. Between two looks of a plan the level is that of the first.
    """
    if record is None:
        return LEVEL
    if not record["planned"]:
        return WIDTH_LEVEL
    look = sum(each <= trials for each in record["planned"])
    return of_plan(record["planned"])[max(0, look - 1)]
