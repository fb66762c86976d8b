"""Recipes: the learning rate and the number of steps in each config."""

import pathlib
import runpy

import pytest

from redundancy import config as config_lib
from redundancy.runtime.errors import ConfigError
from redundancy.training.learning_rate import learning_rate, peak_learning_rate
from redundancy.training.pretrain import train
from redundancy.workdir import Workdir
from redundancy.workdir.table import Schedule, check, full_schedule, subset_schedule

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
def test_recipes_of_the_papers(name, arg, images, steps, warmup, peak):
    config = recipe(name, arg)
    full = full_schedule(config, images)
    assert full == Schedule(steps, warmup)
    assert peak_learning_rate(config) == pytest.approx(peak)
    for at, expected in ((0, 0), (warmup / 2, peak / 2), (warmup, peak), ((warmup + steps) / 2, peak / 2), (steps, 0)):
        assert learning_rate(at, steps, peak, warmup) == pytest.approx(expected, abs=1e-6)


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


def test_a_warm_up_may_be_the_whole_training():
    assert full_schedule(recipe("digits", epochs=1.0, warmup_steps=21), 1347) == Schedule(21, 21)
    assert float(learning_rate(20, 21, 1.0, 21)) == pytest.approx(20 / 21)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"epochs": 1.0, "warmup_steps": 22}, r"config\.warmup_steps is 22.*1347 images.*config\.epochs 1 .* lasts 21"),
        ({"steps": 60, "warmup_epochs": 3.0}, r"config\.warmup_epochs is 3, which is 63 steps.*config\.steps 60 "),
    ],
)
def test_a_warm_up_longer_than_the_training_is_an_error(fields, said):
    with pytest.raises(ConfigError, match=said):
        full_schedule(recipe("digits", **fields), 1347)


def test_a_warm_up_longer_than_a_subsets_training_is_an_error():
    config = recipe("digits", epochs=10.0, warmup_steps=100, budget="epochs", fractions=(0.9, 0.4))
    assert subset_schedule(config, 1347, 0.9) == Schedule(189, 100)
    with pytest.raises(ConfigError, match=r"warmup_steps is 100.*0\.4 of 1347 images lasts 84 steps"):
        check(config, 1347)
    for fields in ({"budget": "steps"}, {"warmup_epochs": 4.0}, {"fractions": (0.9, 0.5)}):
        check(recipe("digits", **{**config_lib.to_json(config), **fields}), 1347)


def test_the_stage_train_tells_it_before_any_work(tmp_path):
    fields = {"dataset": "generated:2:1280:4", "image_size": 8, "budget": "epochs", "fractions": (0.5,)}
    with pytest.raises(ConfigError, match=r"0\.5 of 1280 images lasts 20 steps"):
        train(recipe("digits", epochs=2.0, warmup_steps=40, **fields), Workdir(str(tmp_path)))
    assert not list(tmp_path.iterdir())
