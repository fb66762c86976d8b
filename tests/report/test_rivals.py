"""The page's section on methods: corrected differences, overlaps, and images that methods disagree on."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from redundancy.report import rivals
from redundancy.report.stage import report
from redundancy.report.statistics import Run
from redundancy.selection.subset import Subset
from tests.report.synthetic import make_workdir, noise_images

METHODS = ("semantic", "random", "k_center", "herding", "moderate", "prototypes")


def run(method, fraction, trial, accuracy, layer="end"):
    return Run(method, layer, fraction, 10, trial, accuracy, 1000)


def test_differences_are_paired_and_share_their_error():
    rng = np.random.default_rng(0)
    accuracy = {
        (method, fraction): rng.normal(0.9, 0.01, 5)
        for method in ("semantic", "random", "k_center")
        for fraction in (0.9, 0.5)
    }
    runs = [run("full", 1.0, trial, 0.95) for trial in range(5)]
    runs += [run(*key, trial, value) for key, values in accuracy.items() for trial, value in enumerate(values)]
    runs += [run("semantic", 0.9, trial, 0.1, layer="start") for trial in range(5)]  # of another layer
    fractions, tables, count = rivals.tables(runs, "end", 0.025)
    assert fractions == [0.9, 0.5]
    assert [(table.reference, [name for name, _ in table.rows]) for table in tables] == [
        ("semantic", ["random", "k_center"]), ("random", ["semantic", "k_center"]),
    ]  # fmt: skip
    assert count == 6  # semantic and random stand in both tables
    cell = tables[1].rows[1][1][1]
    difference = accuracy["k_center", 0.5] - accuracy["random", 0.5]
    low, high = stats.t.interval(1 - 0.05 / 6, 4, difference.mean(), stats.sem(difference))
    assert (cell.mean, cell.low, cell.high) == pytest.approx((difference.mean(), low, high))
    opposite = tables[0].rows[0][1][0].mean + tables[1].rows[0][1][0].mean
    assert opposite == pytest.approx(0)


def test_all_intervals_cover_together_in_19_of_20_experiments():
    """400 made-up experiments of 4 methods that do not differ, 3 fractions, 5 trials: at most 5 % have a false difference."""
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(400):
        of_trial = rng.normal(0, 0.01, 5)
        runs = [
            run(method, fraction, trial, 0.9 + of_trial[trial] + rng.normal(0, 0.003))
            for method in ("semantic", "random", "k_center", "herding")
            for fraction in (0.9, 0.7, 0.5)
            for trial in range(5)
        ]
        _, tables, _ = rivals.tables(runs, "end", 0.025)
        wrong += any(cell.sign for table in tables for _, cells in table.rows for cell in cells)
    assert wrong <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)


def subset(kept, labels):
    n = len(kept)
    return Subset(np.arange(n) * 2, np.array(labels), np.full(n, -1), np.array(kept, bool), np.full(n, np.nan), {})


def test_overlap_of_all_and_of_classes():
    labels = [0] * 4 + [1] * 4
    one, other = subset([1, 1, 0, 0, 1, 1, 0, 0], labels), subset([1, 1, 0, 0, 0, 0, 1, 1], labels)
    found = rivals.overlaps({"semantic": one, "el2n": other})["el2n", "semantic"]
    assert (found.share, found.low, found.high) == (pytest.approx(2 / 6), 0, 1)
    assert rivals.by_chance(one) == pytest.approx(1 / 3)
    (row,) = rivals.disagreements({"semantic": one, "random": other, "el2n": other}, 0)
    assert (row["method"], row["other"]) == ("el2n", "semantic")
    assert (row["kept"], row["dropped"]) == ([12, 14], [8, 10])


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    images, labels = noise_images(60)
    fields = dict(methods=METHODS, fractions=(0.9, 0.5), trials=3, report_fraction=0.5)
    config, workdir = make_workdir(tmp_path_factory.mktemp("compared"), images, labels, **fields)
    report(config, workdir)
    return workdir


def test_the_page_has_tables_overlaps_and_images(compared, tmp_path):
    with open(f"{compared.report}/index.html") as file:
        page = file.read()
    assert "Methods side by side" in page
    for name in METHODS[2:]:
        assert len(re.findall(rf'<th scope="row">{name}</th>', page)) >= 5
        assert f"{name} and semantic" in page
    assert "by the same share of each class" in page
    assert "4 other methods" not in page  # five: random is one of them
    assert "5 other methods chose as many images" in page


def test_buttons_choose_the_lines_that_stand_out(opened, compared):
    report_page = opened(compared)
    page = report_page.page
    buttons = page.locator("#lines button")
    assert buttons.count() == len(METHODS)
    pressed = page.locator('#lines button[aria-pressed="true"]')
    assert pressed.count() == 3
    faint = page.locator(".plot .faint")
    before = faint.count()
    assert before > 0
    for at in range(pressed.count() - 1, -1, -1):
        pressed.nth(at).click()
    page.mouse.move(0, 0)
    page.locator("h1").click()
    page.wait_for_function("document.querySelectorAll('.plot .faint').length === 0")
    buttons.first.focus()
    page.wait_for_function("document.querySelectorAll('.plot .faint').length > 0")
    report_page.check()
    assert report_page.faults() == []
