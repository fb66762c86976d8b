"""Statistics against numbers worked by hand, NumPy and SciPy."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from redundancy.report import noninferiority, statistics, words
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
def test_no_interval_if_none_can_be_estimated(accuracies):
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


@pytest.mark.parametrize(
    "accuracies", [{0: 0.97}, {0: 0.97, 1: 0.98}, {0: 0.97, 1: 0.981, 2: 0.961}, {0: 0.975, 1: 0.98, 2: 0.96}]
)
def test_answer_never_claims_no_loss(accuracies):
    assert "no loss" not in " ".join(answer(accuracies)).lower()


def test_answers_of_a_loss_of_one_trial_and_of_nothing_dropped():
    assert "The loss with semantic clustering is more than chance" in answer({0: 0.87, 1: 0.881, 2: 0.859})[1]
    sentence, verdict = answer({0: 0.96}, full=FULL[:1])
    assert "no interval" in sentence
    assert "cannot tell" in verdict
    assert "Nothing of digits was dropped" in words.answer(statistics.summarise(FULL), "digits", 1.0, "end", 400)[0]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        *((words.percent(share), text) for share, text in ((0.9, "90%"), (1 - 0.9, "10%"), (0.125, "12.5%"))),
        *((words.percent(share), text) for share, text in ((1.0, "100%"), (0.0001, "0.01%"), (1 - 0.95, "5%"))),
        *((words.points(value), text) for value, text in ((-0.0021, "−0.21"), (0.0021, "+0.21"), (-0.00001, "0.00"))),
        *(
            (words.small(x), text)
            for x, text in ((0.012345, "0.0123"), (0.0000123, "1.23e−5"), (8.1e-15, "0"), (math.nan, "–"))
        ),
        *((words.plural(count, "class"), text) for count, text in ((1, "1 class"), (1200, "1,200 classes"))),
        *((words.p_value(p), text) for p, text in ((1e-9, "<0.001"), (0.0042, "0.004"), (0.25, "0.25"))),
        *((words.p_value(p), text) for p, text in ((0.9999, ">0.99"), (1.0, "1"), (math.nan, "–"))),
        *((words.trials(n), f"about {text}") for n, text in ((1, "1"), (14, "14"), (141, "150"), (1234, "1,300"))),
        *((words.margin(x), text) for x, text in ((0.002, "0.2 points"), (0.01, "1 point"), (0.0005, "0.05 points"))),
        (words.interval(Difference(0.0, -0.01, 0.012, 3)), "−1.00 to +1.20"),
    ],
)
def test_numbers_in_words(word, text):
    assert word == text


def answers(fractions, full=FULL, margin=0.002, method="semantic"):
    """The answer on {fraction: accuracies by trial}."""
    rows = [run for fraction, accuracies in fractions.items() for run in runs(method, fraction, accuracies)]
    found = noninferiority.answers(statistics.summarise([*full, *rows]), margin)
    return next((item for item in found if item.method == method), None)


def less(*losses, full=FULL):
    """Accuracies by trial that lose so much against the full set's."""
    return {run.trial: run.accuracy - loss for run, loss in zip(full, losses, strict=False)}


NONE, LITTLE, UNSURE, MUCH = less(0, 1e-4, -1e-4), less(1e-3, 1.1e-3, 9e-4), less(0, 0.003, 0), less(0.02, 0.021, 0.022)


def verdicts(answer):
    return [test.verdict for test in answer.tests]


def test_non_inferiority_is_scipys_one_sided_t_test():
    rng = np.random.default_rng(1)
    full, part = rng.normal(0.9, 0.003, (2, 6))
    answer = answers({0.9: dict(enumerate(part))}, runs("full", 1.0, dict(enumerate(full))))
    wanted = stats.ttest_1samp(part - full, -0.002, alternative="greater")
    assert answer.tests[0].p == pytest.approx(wanted.pvalue)
    assert answer.tests[0].p_worse_adjusted == pytest.approx(1 - wanted.pvalue)


def test_verdict_is_that_of_the_interval_against_the_margin():
    """95 % two-sided is 2.5 % one-sided."""
    part = less(0.001, 0.003, 0.002)
    low = answers({0.9: part}).tests[0].difference.low
    assert verdicts(answers({0.9: part}, margin=-low + 1e-6)) == ["no worse"]
    assert verdicts(answers({0.9: part}, margin=-low - 1e-6)) == ["cannot tell"]
    part = less(0.0301, 0.0303, 0.0302)
    high = answers({0.9: part}).tests[0].difference.high
    assert verdicts(answers({0.9: part}, margin=-high - 1e-6)) == ["worse"]
    assert verdicts(answers({0.9: part}, margin=-high + 1e-6)) == ["cannot tell"]


def test_fractions_are_tested_in_order_from_either_end():
    """What comes as 0.5, 0.95, 0.8, 0.9 is tested as 0.95, 0.9, 0.8, 0.5; a failure hides what follows."""
    answer = answers({0.5: MUCH, 0.95: NONE, 0.8: LITTLE, 0.9: UNSURE})
    assert [test.fraction for test in answer.tests] == [0.95, 0.9, 0.8, 0.5]
    assert verdicts(answer) == ["no worse", "cannot tell", "cannot tell", "worse"]
    first, second, third, last = answer.tests
    assert third.p < noninferiority.LEVEL < second.p
    assert [test.p_adjusted for test in answer.tests] == [first.p, second.p, second.p, last.p]
    assert third.p_worse_adjusted == 1 - third.p
    assert second.p_worse_adjusted == third.p_worse_adjusted > 1 - second.p
    assert (answer.low, answer.share, answer.high) == (0.05, 0.2, 0.2)
    assert answer.undecided is second


def test_a_loss_at_a_small_share_is_no_share_however_a_larger_one_fares():
    answer = answers({0.9: MUCH, 0.5: NONE})
    assert (answer.low, answer.share) == (0, 0)
    assert verdicts(answer) == ["cannot tell", "cannot tell"]


@pytest.mark.parametrize("part", [less(0), less(0.001, 0.001, 0.001)], ids=["one pair", "no spread"])
def test_nothing_is_claimed_without_a_spread(part):
    answer = answers({0.95: part, 0.9: NONE, 0.5: MUCH})
    assert verdicts(answer) == ["cannot tell", "cannot tell", "worse"]
    assert math.isnan(answer.tests[0].p)
    assert (answer.tests[0].p_adjusted, answer.tests[1].p_adjusted) == (1, 1)
    assert answer.tests[0].trials_needed is None
    assert (answer.low, answer.high) == (0, 0.1)
    assert verdicts(answers({0.9: NONE, 0.5: part})) == ["no worse", "cannot tell"]


def test_fractions_may_have_different_pairs():
    full = runs("full", 1.0, {0: 0.97, 1: 0.98, 2: 0.96, 3: 0.95})
    answer = answers({0.9: {0: 0.9701, 1: 0.9799}, 0.8: {1: 0.98, 2: 0.961, 3: 0.951, 7: 0.5}, 0.5: {9: 0.1}}, full)
    assert [test.difference.pairs for test in answer.tests] == [2, 3], "a fraction without a pair is not tested"
    for test in answer.tests:
        t = (test.difference.mean + 0.002) / test.difference.std * math.sqrt(test.difference.pairs)
        assert test.p == pytest.approx(stats.t.sf(t, test.difference.pairs - 1))


def test_layers_and_methods_are_families_of_their_own():
    rows = FULL + runs("semantic", 0.9, NONE) + runs("semantic", 0.9, MUCH, "start") + runs("random", 0.9, UNSURE)
    found = noninferiority.answers(statistics.summarise(rows + runs("random", 1.0, NONE)), 0.002)
    assert [(item.method, item.layer, *verdicts(item)) for item in found] == [
        ("semantic", "end", "no worse"),
        ("semantic", "start", "worse"),
        ("random", "end", "cannot tell"),
    ]


@pytest.mark.parametrize(("effect", "pairs"), [(0.1, 787), (0.25, 128), (0.5, 34), (1.0, 10), (2.0, 5), (4.0, 3)])
def test_trials_needed_are_those_of_statsmodels(effect, pairs):
    """TTestPower().solve_power(effect, alpha=0.025, power=0.8, alternative="larger"), rounded up."""
    assert noninferiority.trials_needed(0.003 * effect - 0.002, 0.003, 0.002) == pairs
    assert noninferiority.power(0.0, 1.0, 5, 1.0) == pytest.approx(0.4013202851995048)


def test_no_number_of_trials_if_none_is_enough():
    assert noninferiority.trials_needed(-0.002, 0.003, 0.002) is None
    assert noninferiority.trials_needed(-0.001, math.nan, 0.002) is None
    assert noninferiority.trials_needed(-0.00199, 0.003, 0.002) is None, "more than a config may ask for"
    assert noninferiority.trials_needed(0.1, 1e-6, 0.002) == 2


def test_trials_needed_do_not_depend_on_powers_that_scipy_cannot_compute():
    mean, std = -0.0011495508312346651, 0.00019106369800872035
    assert noninferiority.power(mean, std, 2, 0.002) < 0.4 < 0.9 < noninferiority.power(mean, std, 3, 0.002)
    assert noninferiority.trials_needed(mean, std, 0.002) == 3


def test_trials_needed_are_those_of_all_undecided_up_to_a_fraction():
    answer = answers(
        {0.95: less(0.001, 0.002, 0), 0.9: UNSURE, 0.8: less(0, 0, 0.0011), 0.7: less(0.002, 0.003, 0.004)}
    )
    own = [noninferiority.trials_needed(test.difference.mean, test.difference.std, 0.002) for test in answer.tests]
    assert own[0] < own[1] > own[2]
    assert own[3] is None
    assert [test.trials_needed for test in answer.tests] == [own[0], own[1], own[1], None]
    assert answer.tests[0].trials_more == own[0] - 3


CHOSEN = "chosen by semantic clustering"


@pytest.mark.parametrize(
    ("fractions", "sentence", "details"),
    [
        # All trials decide, and the estimate lies above what is shown.
        ({0.95: NONE, 0.9: UNSURE, 0.8: LITTLE, 0.5: MUCH},
         f"Of the shares of digits tried, the largest that can be dropped, {CHOSEN}, with no loss above 0.2 points of test "
         "accuracy is 20% [5, 20] at 95% confidence.",
         ["5% is shown; 20% is the estimate, not shown by itself.", "All shares tried above 20% lose more than that",
          r"For 10%, about \d+ more trials would do with 80% probability"]),
        # Every share can be dropped.
        ({0.9: NONE, 0.5: LITTLE}, f"50% of digits, the most tried, can be dropped, {CHOSEN}, with no loss", []),
        ({0.9: NONE}, "10% of digits can be dropped, chosen", []),
        # Every share loses.
        ({0.9: MUCH, 0.5: MUCH}, f"Dropping even 10% of digits, the least tried, {CHOSEN}, loses more", ["−2.10 points"]),
        ({0.9: MUCH}, f"Dropping 10% of digits, {CHOSEN}, loses more", []),
        # The trials do not decide.
        ({0.9: UNSURE, 0.5: MUCH},
         f"These 3 paired trials cannot tell whether any of the data set digits can be dropped, {CHOSEN}, with no loss above 0.2 points of "
         f"test accuracy; about {answers({0.9: UNSURE}).tests[0].trials_more} more trials would do, a rough guess from 3 pairs.",
         ["if its true mean and spread are those seen, a rough guess from 3 pairs"]),
        ({0.9: less(0.002, 0.003, 0.004)},
         f"These 3 paired trials cannot tell whether any of the data set digits can be dropped, {CHOSEN}, with no loss above 0.2 points of "
         "test accuracy.",
         ["the estimated loss, 0.30 points, is not below 0.2 points: more trials would sooner show a loss"]),
        ({0.9: less(0.001)}, "One paired trial cannot tell whether any", ["no spread to tell chance by"]),
        ({0.9: less(0, 0, 0)}, "", ["all 3 pairs differ alike"]),
        ({0.9: less(0.0019, 0.0009, 0.00315)}, "", ["more than 10,000 trials"]),
        # There is nothing to compare.
        ({0.9: {7: 0.9}}, f"No training on a part of digits, {CHOSEN}, can", []),
    ],
)  # fmt: skip
def test_share_in_words(fractions, sentence, details):
    said, detail = words.droppable(answers(fractions), "digits", 10_000)
    assert said == sentence if sentence.endswith(".") else said.startswith(sentence)
    assert all(re.search(each, detail) for each in details)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (3, "less than a minute"),
        (70, "about 1 minute"),
        (2100, "about 35 minutes"),
        (12_600, "about 3.5 hours"),
        (100_000, "about 28 hours"),
        (200_000, "about 2.3 days"),
        (5e8, "about 5,787 days"),
    ],
)
def test_times_in_words(seconds, said):
    assert words.time(seconds) == said


def test_more_trials_say_what_they_cost():
    answer = answers({0.9: UNSURE})
    count = answer.tests[0].trials_more
    for said in words.droppable(answer, "digits", 10_000, trial_s=600):
        assert f"about {count} more trials ({words.time(600 * count)} at this sweep’s rate) would do" in said


def test_share_in_words_names_random_layers_and_a_coarse_test_set():
    assert answers({}) is answers({1.0: NONE}) is None
    answer = answers({0.9: NONE}, method="random")
    assert "chosen at random" in words.droppable(answer, "digits", 10_000)[0]
    answer = answers({0.9: NONE}, full=[])
    assert words.droppable(answer, "digits", 10_000)[0].startswith("No training on a part of digits")
    answer = answers({0.9: NONE})
    assert "semantic clustering of layer end" in words.droppable(answer, "digits", 10_000, several_layers=True)[0]
    assert "One test image is 0.28 points, more than the margin." in words.droppable(answer, "digits", 360)[1]
    assert "One test image" not in words.droppable(answer, "digits", 500)[1]
