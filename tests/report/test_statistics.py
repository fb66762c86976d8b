"""Statistics against numbers worked by hand, NumPy and SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from redundancy.report import statistics, words
from redundancy.report.statistics import Difference, Run


def runs(method, fraction, accuracies, layer="end"):
    return [
        Run(method, layer, fraction, round(1000 * fraction), trial, accuracy, 400)
        for trial, accuracy in accuracies.items()
    ]


FULL = runs("full", 1.0, {0: 0.97, 1: 0.98, 2: 0.96})


def test_mean_std_and_paired_interval():
    summaries = statistics.summarise(FULL + runs("semantic", 0.9, {0: 0.96, 1: 0.975, 2: 0.945}))
    full, semantic = summaries
    assert (full.method, full.trials, full.to_full, full.to_random) == ("full", 3, None, None)
    assert full.mean == pytest.approx(0.97)
    assert full.std == pytest.approx(0.01)
    # Differences -0.010, -0.005, -0.015: mean -0.010, standard error 0.005 / sqrt(3), t(0.975, 2) = 4.302653.
    assert semantic.to_full.mean == pytest.approx(-0.010)
    half = 4.302652729911275 * 0.005 / math.sqrt(3)
    assert (semantic.to_full.low, semantic.to_full.high) == pytest.approx((-0.010 - half, -0.010 + half))
    assert semantic.to_full.pairs == 3


def test_interval_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.9, 0.01, (2, 7))
    found = statistics.paired_difference(dict(enumerate(first)), dict(enumerate(second)))
    wanted = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.sign == int(np.sign(wanted.low) if wanted.low * wanted.high > 0 else 0)


def test_pairs_are_by_trial_not_by_order():
    late_first = runs("semantic", 0.9, {2: 0.96, 0: 0.97})
    item = statistics.find(statistics.summarise(FULL + late_first), "semantic", 0.9)
    assert item.to_full.mean == pytest.approx(0)
    assert item.to_full.pairs == 2


def test_difference_to_random_is_of_the_same_fraction():
    summaries = statistics.summarise(
        FULL
        + runs("semantic", 0.9, {0: 0.96, 1: 0.97, 2: 0.95})
        + runs("semantic", 0.5, {0: 0.9, 1: 0.9, 2: 0.9}, "start")
        + runs("random", 0.9, {0: 0.95, 1: 0.95, 2: 0.94})
    )
    assert statistics.find(summaries, "semantic", 0.9).to_random.mean == pytest.approx((0.01 + 0.02 + 0.01) / 3)
    assert statistics.find(summaries, "semantic", 0.5, "start").to_random is None
    assert statistics.find(summaries, "semantic", 0.5, "end") is None
    assert statistics.find(summaries, "random", 0.9).to_random is None


def test_order_is_full_set_then_series_with_falling_fractions():
    mixed = runs("random", 0.5, {0: 0.9}) + runs("semantic", 0.9, {0: 0.9}) + runs("random", 0.9, {0: 0.9}) + FULL
    found = [(item.method, item.fraction) for item in statistics.summarise(mixed)]
    assert found == [("full", 1.0), ("random", 0.9), ("random", 0.5), ("semantic", 0.9)]


@pytest.mark.parametrize(
    "accuracies", [{0: 0.96}, {0: 0.96, 1: 0.97, 2: 0.95}], ids=["one pair", "all pairs differ by the same"]
)
def test_no_interval_where_none_can_be_estimated(accuracies):
    item = statistics.summarise(FULL + runs("semantic", 0.9, accuracies))[1]
    assert item.to_full.mean == pytest.approx(-0.01)
    assert not item.to_full.has_interval
    assert item.to_full.sign == 0
    assert math.isnan(item.std) == (len(accuracies) == 1)


def test_results_are_read_by_column_name():
    text = (
        "run,method,layer,fraction,size,trial,seed,steps,test_accuracy,test_correct,test_size,test_loss\n"
        "semantic-start-0.9000-trial1,semantic,start,0.9000,1293,1,0,600,0.9722222222222222,350,360,0.1\n"
    )
    assert statistics.parse_results(text) == [Run("semantic", "start", 0.9, 1293, 1, 350 / 360, 360)]


def answer(semantic, random=None, full=FULL, fraction=0.9):
    rows = full + runs("semantic", fraction, semantic) + (runs("random", fraction, random) if random else [])
    return words.answer(statistics.summarise(rows), "digits", fraction, "end", 400)


def test_answer_says_when_trials_cannot_tell():
    sentence, verdict = answer({0: 0.96, 1: 0.985, 2: 0.955}, {0: 0.95, 1: 0.95, 2: 0.95})
    assert sentence.startswith(
        "Dropping 10% of digits, chosen by semantic clustering, changed mean test accuracy by −0.3"
    )
    assert "3 paired trials" in sentence
    assert "a random 10%" in sentence
    assert "cannot tell" in verdict


def test_answer_names_a_loss_beyond_chance():
    assert "The loss with semantic clustering is more than chance" in answer({0: 0.87, 1: 0.881, 2: 0.859})[1]


def test_answer_never_claims_no_loss():
    for accuracies in ({0: 0.97}, {0: 0.97, 1: 0.98}, {0: 0.97, 1: 0.981, 2: 0.961}, {0: 0.975, 1: 0.98, 2: 0.96}):
        assert "no loss" not in " ".join(answer(accuracies)).lower()


def test_answer_with_one_trial_has_no_interval():
    sentence, verdict = answer({0: 0.96}, full=FULL[:1])
    assert "no interval" in sentence
    assert "cannot tell" in verdict


def test_answer_where_nothing_was_dropped():
    assert "Nothing of digits was dropped" in words.answer(statistics.summarise(FULL), "digits", 1.0, "end", 400)[0]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.9, "90%"), (1 - 0.9, "10%"), (0.125, "12.5%"), (1.0, "100%"), (0.0001, "0.01%"), (1 - 0.95, "5%")],
)
def test_percent(share, text):
    assert words.percent(share) == text


def test_numbers_in_words():
    assert words.points(-0.0021) == "−0.21"
    assert words.points(0.0021) == "+0.21"
    assert words.points(-0.00001) == "0.00"
    assert words.small(0.012345) == "0.0123"
    assert words.small(0.0000123) == "1.23e−5"
    assert words.small(math.nan) == "–"
    assert words.plural(1, "class") == "1 class"
    assert words.plural(1200, "class") == "1,200 classes"
    assert words.interval(Difference(0.0, -0.01, 0.012, 3)) == "−1.00 to +1.20"
