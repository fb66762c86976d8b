"""Looks at a sweep before its end: bounds, plans and rounds."""

import numpy as np
import pytest
from scipy import special, stats

from redundancy.report import looks, words
from redundancy.report.statistics import LEVEL

# Bounds of the spending function that resembles O'Brien and Fleming's, one-sided at 2.5 %, looks evenly spaced, as gsDesign
# (sfLDOF) and ldbounds give them.
KNOWN = {
    1: (1.9600,),
    2: (2.9626, 1.9686),
    3: (3.7103, 2.5114, 1.9930),
    5: (4.8769, 3.3570, 2.6803, 2.2898, 2.0310),
}


@pytest.mark.parametrize("count", KNOWN)
def test_bounds_are_the_published_ones(count):
    found = -special.ndtri(looks.levels(range(1, count + 1)))
    assert found == pytest.approx(KNOWN[count], abs=2e-4)


@pytest.mark.parametrize("trials", [(4, 8, 12, 16, 20), (2, 3, 4), (3, 50), (97, 99, 100), tuple(range(1, 11))])
def test_what_is_spent_is_the_level(trials):
    # Of sums of normal steps, in 400,000 simulated sweeps.
    rng, shares = np.random.default_rng(0), np.array(trials) / trials[-1]
    steps = rng.normal(size=(400_000, len(trials))) * np.sqrt(np.diff(shares, prepend=0.0))
    beyond = steps.cumsum(1) / np.sqrt(shares) > -special.ndtri(looks.levels(trials))
    stopped = np.logical_or.accumulate(beyond, axis=1).mean(0)
    assert stopped == pytest.approx(looks.spent(shares), abs=1e-3)
    assert looks.spent(1.0) == pytest.approx(LEVEL)
    assert looks.spent(0.5) == pytest.approx(2 * stats.norm.sf(stats.norm.isf(LEVEL / 2) / np.sqrt(0.5)))


def test_looks_are_planned_evenly():
    assert looks.planned(4, 20, 5) == [4, 8, 12, 16, 20]
    assert looks.planned(4, 20, 1) == [20]
    assert looks.planned(2, 5, 10) == [2, 3, 4, 5]
    assert looks.planned(5, 5, 3) == [5]
    assert looks.planned(9_990, 10_000, 10) == [10_000]
    assert looks.planned(3, 10, 3) == [3, 6, 10]


def test_a_round_has_as_many_trials_as_the_width_takes_and_doubles_at_most():
    assert looks.next_trials(8, 0.0012, 0.001, most=40) == 12  # 8 * 1.44
    assert looks.next_trials(8, 0.0050, 0.001, most=40) == 16
    assert looks.next_trials(8, 0.001001, 0.001, most=40) == 9
    assert looks.next_trials(8, 0.0050, 0.001, most=10) == 10
    assert looks.next_trials(3, float("inf"), 0.001, most=40) == 6
    assert looks.next_trials(8, 0.0010, 0.001, most=40) is None
    assert looks.next_trials(40, 0.0050, 0.001, most=40) is None


def test_the_level_of_a_page():
    of_width = {"until": "0.1", "most": 40, "planned": [], "taken": [{"trials": 4}, {"trials": 7}]}
    of_verdict = {"until": "verdict", "most": 12, "planned": [4, 8, 12], "taken": [{"trials": 4}, {"trials": 8}]}
    assert looks.level(None, 7) == LEVEL == pytest.approx(0.025)
    assert looks.level(of_width, 7) == pytest.approx(0.0125)
    levels = [looks.level(of_verdict, trials) for trials in (2, 4, 7, 8, 12, 50)]
    assert levels == [looks.of_plan([4, 8, 12])[at] for at in (0, 0, 0, 1, 2, 2)]
    assert looks.of_plan([12]) == pytest.approx([LEVEL])
    said = words.looks(of_width, 7, 0.0125)
    assert "at most 0.1 points to each side, or there were 40 trials; looks were taken after 4 and 7 trials" in said
    assert "Student’s at 97.5% and 1.25%: after looks they hold at 95% and 2.5%" in said
    said = words.looks(of_verdict, 8, levels[3])
    assert "looks were planned after 4, 8 and 12 trials, and looks were taken after 4 and 8 trials" in said
    assert "at this one tests are at 0.484% and intervals at 99.03%, which over all looks hold at 2.5% and 95%." in said
    assert "not those of a look" not in said
    assert "But these 9 trials are not those of a look" in words.looks(of_verdict, 9, levels[3])
