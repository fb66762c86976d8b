"""Which subsets are no worse than the full set, and the largest share that can be dropped. Pure: numbers in and out.

A subset is *no worse* if its mean test accuracy lies less than a margin below the full set's: a hypothesis of
non-inferiority. docs/statistics.md gives the reasons, the references and the measured error rates.

**Each fraction.** A one-sided t test on paired differences, H0: mean difference <= -margin, at level
LEVEL, or that of a look (looks.py): "no worse" means that the two-sided interval lies above -margin. "Worse" is the mirror image. One
pair, or pairs that all differ by the same, have no test: nothing is claimed.

**Over fractions.** Fixed sequences (Maurer, Hothorn and Lehmacher 1995; Hsu and Berger 1999): "no worse" is tested from
the largest kept fraction downwards, "worse" from the smallest upwards, and the first failure ends each. A false claim
takes a false rejection at the one fraction that the truth singles out, so each direction errs in 2.5 % at most, however
the fractions are correlated. The price: a fraction that fails hides those after it.

**The largest droppable share.** Truth: the largest share tried such that it and every smaller one lose less than the
margin; 0 if even the smallest loses more. The interval goes from the last "no worse" to the last share before those
found "worse". Each method and layer is a family of its own.
"""

import bisect
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import special

from redundancy.report.statistics import FULL, LEVEL, Difference, Summary

POWER = 0.8
MOST_TRIALS = 10_000  # the most that a config may ask for
NO_WORSE, WORSE, CANNOT_TELL = "no worse", "worse", "cannot tell"


@dataclasses.dataclass(frozen=True)
class NonInferiority:
    """The comparison of one fraction with the full set.

    Attributes:
      fraction: kept.
      difference: to the full set, paired by trial; its interval is of this fraction alone.
      p: of the test that the difference is above -margin; NaN without a spread.
      p_adjusted: the same over the fractions from the largest kept one to this; 1 if one of them has no test.
      p_worse_adjusted: of the test that the difference is below -margin, over this and all smaller fractions.
      verdict: NO_WORSE, WORSE or CANNOT_TELL, at the level by the adjusted p-values.
      trials_needed: pairs with which this and the undecided larger fractions would each be found no worse with
        probability `POWER`, see `trials_needed`; None if the verdict is reached or no number would do.
    """

    fraction: float
    difference: Difference
    p: float
    p_adjusted: float
    p_worse_adjusted: float
    verdict: str
    trials_needed: int | None

    @property
    def share(self) -> float:
        """Share of the training set that was dropped."""
        return dropped(self.fraction)

    @property
    def trials_more(self) -> int | None:
        """Trials needed beyond those that exist."""
        return None if self.trials_needed is None else max(1, self.trials_needed - self.difference.pairs)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The largest share that one method and layer can drop with no loss above the margin, among the shares tried.

    Attributes:
      method, layer, margin: the question.
      tests: of all fractions below 1 that have a pair with the full set, largest kept first.
      share: the estimate: this and all smaller shares have a mean difference above -margin; 0.0 is none.
      low, high: its interval at `CONFIDENCE`: `low` is shown; shares above `high` are shown to lose more.
    """

    method: str
    layer: str
    margin: float
    tests: tuple[NonInferiority, ...]
    share: float
    low: float
    high: float

    @property
    def most(self) -> float:
        """The largest share that was tried."""
        return self.tests[-1].share

    @property
    def undecided(self) -> NonInferiority | None:
        """The smallest share that these trials do not decide."""
        return next((test for test in self.tests if test.verdict == CANNOT_TELL), None)


def dropped(fraction: float) -> float:
    """1 - fraction, to the four decimals that artifacts carry."""
    return round(1 - fraction, 4)


def _adjust(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values of a fixed sequence [..., M]: the largest so far; a missing test ends the sequence."""
    return np.maximum.accumulate(np.where(np.isnan(p), 1.0, p), axis=-1)


def decide(
    mean: np.ndarray, std: np.ndarray, pairs: np.ndarray | int, margin: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p-values of M fractions, the largest kept first.

    Args:
      mean, std: [..., M] of the differences to the full set; std NaN without a spread.
      pairs: their number, broadcast to the others.

    Returns:
      p (NaN if std is), p_adjusted and p_worse_adjusted, each [..., M].
    """
    pairs = np.asarray(pairs)
    t, freedom = (mean + margin) * np.sqrt(pairs) / std, np.maximum(pairs - 1, 1)
    p, p_worse = special.stdtr(freedom, -t), special.stdtr(freedom, t)
    return p, _adjust(p), np.flip(_adjust(np.flip(p_worse, -1)), -1)


def droppable(
    shares: np.ndarray,
    mean: np.ndarray,
    p_adjusted: np.ndarray,
    p_worse_adjusted: np.ndarray,
    margin: float,
    level: float = LEVEL,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate, lower and upper end of the largest droppable share, each [...].

    Args:
      shares: [M] dropped, rising.
      mean, p_adjusted, p_worse_adjusted: [..., M], as for and from `decide`.
    """
    steps = np.concatenate([[0.0], shares])
    fits = np.logical_and.accumulate(mean > -margin, axis=-1).sum(-1)
    shown = (p_adjusted <= level).sum(-1)
    excluded = (p_worse_adjusted <= level).sum(-1)
    return steps[fits], steps[shown], steps[len(shares) - excluded]


def power(mean: float, std: float, pairs: int, margin: float, level: float = LEVEL) -> float:
    """Probability that one fraction's test finds "no worse", for true mean and standard deviation of the differences.

    By the noncentral t distribution, as for every one-sample t test (Julious 2010, Sample Sizes for Clinical Trials).
    """
    critical = special.stdtrit(pairs - 1, 1 - level)
    return float(1 - special.nctdtr(pairs - 1, (mean + margin) / std * np.sqrt(pairs), critical))


def trials_needed(mean: float, std: float, margin: float, level: float = LEVEL) -> int | None:
    """The least number of pairs with `power` of at least POWER, if the observed mean and spread are the true ones.

    Returns:
      None if the mean is at or beyond the margin, std is NaN, or MOST_TRIALS are too few.
    """
    if not (std > 0 and mean > -margin) or power(mean, std, MOST_TRIALS, margin, level) < POWER:
        return None
    # SciPy's noncentral t is NaN for some numbers of pairs with a power near 1.
    return bisect.bisect_left(
        range(MOST_TRIALS), True, lo=2, key=lambda pairs: not power(mean, std, pairs, margin, level) < POWER
    )


def _tests(
    summaries: Sequence[Summary], p_values: Sequence[np.ndarray], margin: float, level: float
) -> Iterator[NonInferiority]:
    """The tests of one method and layer, largest kept first, with what `decide` returned."""
    most_needed = 0
    for item, p, adjusted, worse in zip(summaries, *(each.tolist() for each in p_values), strict=True):
        verdict = NO_WORSE if adjusted <= level else WORSE if worse <= level else CANNOT_TELL
        needed = None
        if verdict == CANNOT_TELL:
            own = trials_needed(item.to_full.mean, item.to_full.std, margin, level)
            needed = most_needed = None if None in (own, most_needed) else max(own, most_needed)
        yield NonInferiority(item.fraction, item.to_full, p, adjusted, worse, verdict, needed)


def answers(summaries: Sequence[Summary], margin: float, level: float = LEVEL) -> list[Answer]:
    """One answer for each method and layer that dropped something, in the order of the summaries.

    Args:
      summaries: as statistics.summarise returns them.
      margin: loss, as a share of 1, up to which a subset counts as no worse.
      level: one-sided, of each test; that of the summaries' intervals.
    """
    series: dict[tuple[str, str], list[Summary]] = {}
    for item in summaries:
        if item.method != FULL and dropped(item.fraction) > 0:
            series.setdefault((item.method, item.layer), []).append(item)
    found = []
    for (method, layer), members in series.items():
        paired = sorted((item for item in members if item.to_full), key=lambda item: -item.fraction)
        mean, std, pairs = (
            np.array([getattr(item.to_full, name) for item in paired]) for name in ("mean", "std", "pairs")
        )
        p_values = decide(mean, std, pairs, margin)
        shares = np.array([dropped(item.fraction) for item in paired])
        ends = map(float, droppable(shares, mean, *p_values[1:], margin, level))
        found.append(Answer(method, layer, margin, tuple(_tests(paired, p_values, margin, level)), *ends))
    return found
