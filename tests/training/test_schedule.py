"""Recipes: how the learning rate goes in each config, as numbers and as drawn."""

import pathlib
import runpy

import numpy as np
import pytest

from redundancy import config as config_lib
from redundancy.report.schedules import draw
from redundancy.training.schedule import (
    Schedule,
    full_schedule,
    learning_rate,
    peak_learning_rate,
    subset_schedule,
)

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
IMAGENET, CIFAR = 1_281_167, 50_000


def recipe(name, arg="", **fields):
    given = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](arg)
    given.update(fields)
    return config_lib.resolve(given)


@pytest.mark.parametrize(
    ("name", "arg", "images", "steps", "warmup", "peak"),
    [
        ("cifar10", "", CIFAR, 100_000, 2500, 0.1),
        ("cifar100", "", CIFAR, 100_000, 2500, 0.1),
        ("imagenet", "", IMAGENET, 120_000, 5000, 0.4),
        ("imagenet", "resnet50", IMAGENET, 112_603, 6256, 0.4),
    ],
)
def test_recipes_of_the_papers_as_drawn(name, arg, images, steps, warmup, peak):
    config = recipe(name, arg)
    schedule = full_schedule(config, images)
    assert schedule == Schedule(steps, warmup)
    assert peak_learning_rate(config) == pytest.approx(peak)
    (line,) = draw({name: (schedule, peak_learning_rate(config))}).axes[0].lines
    share, rate = line.get_data()
    top = warmup / steps
    for at, expected in ((0, 0), (top / 2, peak / 2), (top, peak), ((1 + top) / 2, peak / 2), (1, 0)):
        assert np.interp(at, share, rate) == pytest.approx(expected, abs=0.01 * peak)
    assert rate.max() <= peak * (1 + 1e-6)


def test_the_learning_rate_is_proportional_to_the_batch():
    peaks = [peak_learning_rate(recipe("imagenet", batch_size=batch)) for batch in (256, 1024, 8192)]
    assert peaks == pytest.approx([0.1, 0.4, 3.2])


def test_subsets_take_the_same_steps_or_the_same_epochs():
    steps, epochs = (recipe("imagenet", "resnet50", budget=budget) for budget in ("steps", "epochs"))
    full = full_schedule(steps, IMAGENET)
    assert subset_schedule(steps, IMAGENET, 0.9) == full
    assert subset_schedule(epochs, IMAGENET, 0.5) == Schedule(56_302, 3128)
    # A warm-up in steps stays as it is.
    assert subset_schedule(recipe("imagenet", budget="epochs"), IMAGENET, 0.5) == Schedule(60_000, 5000)


def test_a_warm_up_longer_than_the_training_is_all_of_it():
    config = recipe("digits", epochs=1.0, warmup_steps=10_000)
    assert full_schedule(config, 1347) == Schedule(21, 21)
    assert float(learning_rate(20, 21, 1.0, 21)) == pytest.approx(20 / 21)
