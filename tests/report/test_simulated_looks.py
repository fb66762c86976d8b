"""Coverage and error of sweeps that end because of what looks show, in simulated sweeps whose truth is known."""

import math

import numpy as np
import pytest

from redundancy.report import looks, noninferiority, statistics
from redundancy.report.statistics import LEVEL

pytestmark = pytest.mark.soak
SWEEPS = 10_000
MARGIN, SPREAD = 0.002, 0.002  # of the paired differences
CHANCE = 4 * math.sqrt(0.05 * 0.95 / SWEEPS)  # four standard errors of a rate of 5 %


def until_a_verdict(mean: float, least: int, most: int, count: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """The verdicts [SWEEPS] (1 no worse, -1 worse, 0 cannot tell) of one fraction, and the trials they took."""
    differences = rng.normal(mean, SPREAD, (SWEEPS, most))
    planned = looks.planned(least, most, count)
    verdict, took = np.zeros(SWEEPS, int), np.full(SWEEPS, most)
    for trials, level in zip(planned, looks.of_plan(planned), strict=True):
        open_ = np.flatnonzero(verdict == 0)
        means, spreads, *_ = statistics.estimate(differences[open_, :trials])
        _, no_worse, worse = noninferiority.decide(means[:, None], spreads[:, None], trials, MARGIN)
        verdict[open_] = (no_worse[:, 0] <= level).astype(int) - (worse[:, 0] <= level)
        took[open_[verdict[open_] != 0]] = trials
    return verdict, took


@pytest.mark.parametrize(("least", "most"), [(2, 6), (2, 20), (4, 10), (10, 50)])
def test_a_verdict_is_wrong_as_often_as_stated_with_one_to_ten_looks(least, most, capsys):
    rng, rows = np.random.default_rng(0), []
    for count in range(1, 11):
        verdict, _ = until_a_verdict(-MARGIN, least, most, count, rng)  # a true loss, of the margin
        too_good, too_bad = (verdict == 1).mean(), (verdict == -1).mean()
        assert too_good <= LEVEL + CHANCE, count
        assert too_bad <= LEVEL + CHANCE, count
        assert too_good + too_bad <= 2 * LEVEL + CHANCE, count
        none, fewer = until_a_verdict(0.0, least, most, count, rng)  # no loss
        large, fewest = until_a_verdict(-2 * MARGIN, least, most, count, rng)  # a loss of twice the margin
        assert (none == -1).mean() <= LEVEL
        assert (large == 1).mean() <= LEVEL
        rows.append((count, too_good, too_bad, (none == 1).mean(), fewer.mean(), (large == -1).mean(), fewest.mean()))
    one = rows[0]
    assert all(row[3] > one[3] - 0.1 and row[5] > one[5] - 0.1 for row in rows), "looks cost little power"
    with capsys.disabled():
        print(
            f"\nfrom {least} to {most} trials; looks, at the margin: no worse, worse; no loss: found, trials; twice: found, trials"
        )
        for count, *rates in rows:
            print(f"{count:3} " + " ".join(f"{100 * rate:6.2f}" if rate <= 1 else f"{rate:6.1f}" for rate in rates))


def until_a_width(least: int, wanted: float, most: int, level: float, rng) -> tuple[float, float]:
    """Share of intervals that hold the truth, 0, and mean trials."""
    differences = rng.normal(0.0, SPREAD, (SWEEPS, most))
    trials, covered, took = np.full(SWEEPS, least), np.zeros(SWEEPS, bool), np.zeros(SWEEPS, int)
    going = np.ones(SWEEPS, bool)
    while going.any():
        count = trials[going].min()
        at = np.flatnonzero(going & (trials == count))
        _, _, low, high = statistics.estimate(differences[at, :count], level)
        for sweep, each_low, each_high in zip(at, low, high, strict=True):
            following = looks.next_trials(int(count), (each_high - each_low) / 2, wanted, most)
            if following is None:
                going[sweep], covered[sweep], took[sweep] = False, each_low <= 0 <= each_high, count
            else:
                trials[sweep] = following
    return covered.mean(), took.mean()


@pytest.mark.parametrize("least", [4, 5, 10])
def test_an_interval_covers_the_truth_after_looks_until_a_width(least, capsys):
    rng, rows = np.random.default_rng(1), []
    for needed in (6, 12, 25, 50):  # trials that the width would take, if the spread were known
        wanted = 1.96 * SPREAD / math.sqrt(needed)
        plain, _ = until_a_width(least, wanted, 200, LEVEL, rng)
        coverage, took = until_a_width(least, wanted, 200, looks.WIDTH_LEVEL, rng)
        assert coverage >= statistics.CONFIDENCE - CHANCE, needed
        rows.append((needed, plain, coverage, took))
    assert min(row[1] for row in rows) < statistics.CONFIDENCE - CHANCE, (
        "without the correction the same simulation errs"
    )
    with capsys.disabled():
        print(f"\nfrom {least} trials; needed, covered at 95 %, at 97.5 %, trials")
        for needed, plain, coverage, took in rows:
            print(f"{needed:3} {100 * plain:6.2f} {100 * coverage:6.2f} {took:6.1f}")
