"""Which subsets are no worse than the full set, and the largest share that can be dropped. Pure: numbers in and out.

A subset is *no worse* where its mean test accuracy lies less than a margin below the full set's. That is a hypothesis
of non-inferiority: a large p-value of the usual test of "no difference" would not show it, since few trials make any
p-value large (ICH E9, 1998, section 3.3.2; FDA, Non-Inferiority Clinical Trials to Establish Effectiveness, 2016).

**Each fraction.** Student's t test on the differences of paired trials; one-sided, H0: mean difference <= -margin, at
level (1 - CONFIDENCE) / 2 = 2.5 %. So it says "no worse" exactly where the two-sided 95 % interval lies above -margin,
as ICH E9 (section 5.5) and EMA's guideline on the margin (EMEA/CPMP/EWP/2158/99, 2005) have it. "Worse" is the mirror
image, H0: mean difference >= -margin. One pair, or pairs that all differ by the same, have no test: nothing is claimed
then.

**Over fractions.** Fixed sequences. "No worse" is tested from the largest kept fraction downwards, and the first that
fails ends it; "worse" from the smallest kept fraction upwards, likewise. No level is divided: the question is the
largest share down to which all is well, a claim about a fraction is made only after those about all larger ones, and
the first false claim takes a false rejection at one fraction that the truth, not the data, singles out. So the
family-wise error of each direction is at most 2.5 %, for any correlation between fractions (they share the full set's
runs) and whether or not accuracy falls monotonically (Maurer, Hothorn and Lehmacher 1995; Hsu and Berger 1999, JASA
94:468, "Stepwise confidence intervals without multiplicity adjustment for dose-response and toxicity studies"). Holm's
procedure would divide the level by the number of fractions at its first step, where the 2 to 10 trials that trainings
cost leave no power to spare: with 3 pairs and 6 fractions its t quantile is 10.9 where the sequence has 4.3. The price:
a fraction that fails hides all smaller ones, the adjusted p-value of each being the largest up to it.

**The interval of the largest droppable share.** Truth: the largest of the tried shares such that it and every smaller
one lose less than the margin; 0 where even the smallest loses more. Lower end: the last "no worse". Upper end: the last
share before those found "worse". Each end is wrong in at most 2.5 % of experiments, so both hold in 95 % at least. It
comes down to 95 % where two neighbouring shares have all their luck in common; in simulations it covers 97 to 100 %.

Tests of other methods and layers are families of their own: nothing corrects for picking the best of them afterwards.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

from redundancy.report.statistics import CONFIDENCE, FULL, Difference, Summary

# Of each of the two one-sided tests.
LEVEL = (1 - CONFIDENCE) / 2
POWER = 0.8
# More trials than a config may ask for are not worth a number.
MOST_TRIALS = 10_000
NO_WORSE, WORSE, CANNOT_TELL = "no worse", "worse", "cannot tell"


@dataclasses.dataclass(frozen=True)
class NonInferiority:
    """The comparison of one method, layer and fraction with the full set.

    Attributes:
      method, layer, fraction: of the subset.
      difference: to the full set, paired by trial; its interval is of this fraction alone.
      margin: loss up to which the subset counts as no worse.
      p: of the one-sided test that the difference is above -margin; NaN without a spread.
      p_adjusted: the same over the fractions from the largest kept one down to this; 1 where one of them has no test.
      p_worse_adjusted: of the test that the difference is below -margin, over this and all smaller fractions.
      verdict: NO_WORSE, WORSE or CANNOT_TELL, at `LEVEL` by the adjusted p-values.
      trials_needed: pairs with which this fraction and the undecided larger ones would each be found no worse with
        probability `POWER`, were their true mean and spread the observed; None where the verdict is reached, an
        estimate is at or beyond the margin, no spread is known, or it would take more than MOST_TRIALS.
    """

    method: str
    layer: str
    fraction: float
    difference: Difference
    margin: float
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
        """How many trials more than there are `trials_needed` is."""
        return None if self.trials_needed is None else max(1, self.trials_needed - self.difference.pairs)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The largest share that one method and layer can drop with no loss above the margin, among the shares tried.

    Attributes:
      method, layer: how it was chosen what is dropped.
      margin: loss that is put up with.
      confidence: of the interval.
      tests: of all fractions below 1 that have a pair with the full set, largest kept first.
      share: the estimate: this and all smaller shares have a mean difference above -margin; 0.0 is none.
      low, high: the interval; `low` is what these trials show; shares above `high` are shown to lose more than the
        margin.
    """

    method: str
    layer: str
    margin: float
    confidence: float
    tests: tuple[NonInferiority, ...]
    share: float
    low: float
    high: float

    @property
    def most(self) -> float:
        """The largest share that was tried; 0.0 where none can be compared."""
        return self.tests[-1].share if self.tests else 0.0

    @property
    def undecided(self) -> NonInferiority | None:
        """The smallest share tried that these trials cannot tell of."""
        return next((test for test in self.tests if test.verdict == CANNOT_TELL), None)


def dropped(fraction: float) -> float:
    """1 - fraction, to the four decimals that artifacts carry."""
    return round(1 - fraction, 4)


def p_no_worse(mean: np.ndarray, std: np.ndarray, pairs: np.ndarray | int, margin: float) -> np.ndarray:
    """p-values of the one-sided t test of mean difference > -margin; that of the mirrored test is 1 - p.

    Args:
      mean, std: [...] of the differences; std NaN where there is no spread.
      pairs: their number, broadcast to the others.

    Returns:
      [...]; NaN where std is.
    """
    pairs = np.asarray(pairs)
    return special.stdtr(np.maximum(pairs - 1, 1), -(mean + margin) * np.sqrt(pairs) / std)


def adjust(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values of a fixed sequence: the largest so far; a test that cannot be made ends the sequence.

    Args:
      p: [..., M] in the order of testing.
    """
    return np.maximum.accumulate(np.where(np.isnan(p), 1.0, p), axis=-1)


def decide(
    mean: np.ndarray, std: np.ndarray, pairs: np.ndarray | int, margin: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p-values of M fractions, the largest kept first.

    Args:
      mean, std: [..., M] of the differences to the full set.
      pairs: their number, broadcast to the others.

    Returns:
      p, p_adjusted and p_worse_adjusted, each [..., M].
    """
    p = p_no_worse(mean, std, pairs, margin)
    p_worse = p_no_worse(-mean, std, pairs, -margin)
    return p, adjust(p), np.flip(adjust(np.flip(p_worse, -1)), -1)


def droppable(
    shares: np.ndarray, mean: np.ndarray, p_adjusted: np.ndarray, p_worse_adjusted: np.ndarray, margin: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate, lower and upper end of the largest droppable share, each [...].

    Args:
      shares: [M] dropped, rising.
      mean, p_adjusted, p_worse_adjusted: [..., M], as for and from `decide`.
    """
    steps = np.concatenate([[0.0], shares])
    fits = np.logical_and.accumulate(mean > -margin, axis=-1).sum(-1)
    shown = (p_adjusted <= LEVEL).sum(-1)
    excluded = (p_worse_adjusted <= LEVEL).sum(-1)
    return steps[fits], steps[shown], steps[len(shares) - excluded]


def power(mean: float, std: float, pairs: int, margin: float) -> float:
    """Probability that one fraction's test finds "no worse", for true mean and standard deviation of the differences.

    By the noncentral t distribution, as for every one-sample t test (Julious 2010, Sample Sizes for Clinical Trials).
    """
    critical = special.stdtrit(pairs - 1, 1 - LEVEL)
    return float(1 - special.nctdtr(pairs - 1, (mean + margin) / std * np.sqrt(pairs), critical))


def trials_needed(mean: float, std: float, margin: float) -> int | None:
    """The least number of pairs with `power` of at least POWER.

    It takes the observed mean and spread for the true ones. Of few pairs both are rough: the spread of 3 pairs is known
    to a factor of 0.5 to 6, of 5 to 0.6 to 2.9, of 10 to 0.7 to 1.8 (95 % intervals), and the number goes with its square.

    Returns:
      None where the mean is at or beyond the margin, std is NaN, or MOST_TRIALS are too few.
    """
    if not (std > 0 and mean > -margin) or power(mean, std, MOST_TRIALS, margin) < POWER:
        return None
    few, enough = 1, MOST_TRIALS
    while enough - few > 1:
        middle = (few + enough) // 2
        if power(mean, std, middle, margin) < POWER:
            few = middle
        else:
            enough = middle
    return enough


def _tests(summaries: Sequence[Summary], margin: float) -> list[NonInferiority]:
    """Of the summaries of one method and layer, largest kept first, each with a difference to the full set."""
    differences = [item.to_full for item in summaries]
    mean, std, pairs = (np.array([getattr(item, name) for item in differences]) for name in ("mean", "std", "pairs"))
    p, p_adjusted, p_worse_adjusted = decide(mean, std, pairs, margin)
    tests, most_needed = [], 0
    for index, item in enumerate(summaries):
        needed = None
        if p_adjusted[index] <= LEVEL:
            verdict = NO_WORSE
        elif p_worse_adjusted[index] <= LEVEL:
            verdict = WORSE
        else:
            verdict = CANNOT_TELL
            own = trials_needed(float(mean[index]), float(std[index]), margin)
            most_needed = None if own is None or most_needed is None else max(own, most_needed)
            needed = most_needed
        tests.append(
            NonInferiority(
                method=item.method,
                layer=item.layer,
                fraction=item.fraction,
                difference=item.to_full,
                margin=margin,
                p=float(p[index]),
                p_adjusted=float(p_adjusted[index]),
                p_worse_adjusted=float(p_worse_adjusted[index]),
                verdict=verdict,
                trials_needed=needed,
            )
        )
    return tests


def answers(summaries: Sequence[Summary], margin: float) -> list[Answer]:
    """One answer of each method and layer that dropped something, in the order of the summaries.

    Args:
      summaries: of statistics.summarise.
      margin: loss, as a share of 1, up to which a subset counts as no worse.
    """
    series: dict[tuple[str, str], list[Summary]] = {}
    for item in summaries:
        if item.method != FULL and dropped(item.fraction) > 0:
            series.setdefault((item.method, item.layer), []).append(item)
    found = []
    for (method, layer), members in series.items():
        paired = sorted((item for item in members if item.to_full), key=lambda item: -item.fraction)
        tests = _tests(paired, margin)
        share = low = high = 0.0
        if tests:
            columns = (
                [test.share for test in tests],
                [test.difference.mean for test in tests],
                [test.p_adjusted for test in tests],
                [test.p_worse_adjusted for test in tests],
            )
            share, low, high = map(float, droppable(*map(np.array, columns), margin))
        found.append(Answer(method, layer, margin, CONFIDENCE, tuple(tests), share, low, high))
    return found
