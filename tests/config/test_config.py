"""Which configs are accepted, the errors for wrong ones, and that every config in configs/ resolves."""

import pathlib
import runpy

import ml_collections
import numpy as np
import pytest

from redundancy import config as config_lib
from redundancy.data import open_dataset
from redundancy.runtime.errors import ConfigError

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
REQUIRED = ("fractions", "methods", "trials", "steps", "batch_size", "seed", "dataset")


def test_defaults_resolve_to_themselves():
    config = config_lib.resolve(config_lib.defaults())
    assert {name: config[name] for name in config_lib.FIELDS} == {
        name: field.default for name, field in config_lib.FIELDS.items()
    }


def test_a_plain_config_dict_is_completed():
    config = config_lib.resolve(ml_collections.ConfigDict({"steps": 5000, "lr_per_256": 1, "fractions": [0.5]}))
    assert (config.steps, config.lr_per_256, config.fractions, config.depth) == (5000, 1.0, (0.5,), 32)
    assert isinstance(config.lr_per_256, float)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (12, 12),
        ("cat", ("cat",)),
        ("sports car, cat", ("sports car", "cat")),
        (("a, b", "c"), ("a, b", "c")),
        (["cat"], ("cat",)),
        ((7, 8), ("7", "8")),
    ],
)
def test_a_field_of_a_number_or_names_takes_both(given, wanted):
    config = config_lib.defaults()
    config.report_classes = given
    resolved = config_lib.resolve(config)
    assert resolved.report_classes == wanted
    assert config_lib.resolve(config_lib.to_json(resolved)).report_classes == wanted


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stepz": 5}, 'Did you mean "steps"?'),
        ({"lr": 0.1}, 'Did you mean "lr_per_256"'),
        ({"steps": 2.5}, "a whole number"),
        ({"steps": 0}, "from 1 to"),
        ({"lr_per_256": 0}, "above 0"),
        ({"depth": 33}, "6n+2"),
        ({"widths": (16, 32)}, "three or four numbers"),
        ({"fractions": (0.9, 0.90001)}, "first four decimals"),
        ({"fractions": (0.0,)}, "from 0.0001"),
        ({"fractions": (1.2,)}, "to 1"),
        ({"methods": ("semantik",)}, "semantic, random"),
        ({"methods": ("random", "random")}, "different names"),
        ({"layers": ()}, "one or more"),
        ({"methods": ()}, "one or more"),
        ({"fractions": ()}, "one or more"),
        ({"steps": 10, "warmup_steps": 11}, "warmup_steps"),
        ({"steps": 1000, "warmup_steps": 600, "budget": "epochs"}, "0.5 of the set lasts 500 steps"),
        ({"batch_size": 64, "bn_group_size": 24}, "does not divide"),
        ({"holdout": 1.0}, "below 1"),
        ({"report_margin": 0.2}, "from 1e-05 to 0.1"),
        ({"mean": (0.1, 0.2)}, "one for all channels or three"),
        ({"report_classes": -1}, "a number from 0 to 100000, or different names of classes"),
        ({"report_classes": "cat,cat"}, "different names"),
        ({"report_classes": ("cat", "")}, "different names"),
        ({"report_classes": ()}, "different names"),
    ],
)
def test_an_error_in_a_config_names_the_field_and_what_is_wanted(given, said):
    with pytest.raises(ConfigError) as caught:
        config_lib.resolve(given)
    assert said in str(caught.value)
    assert next(iter(given)) in str(caught.value) or "config." in str(caught.value)


def test_numbers_of_numpy_are_numbers():
    given = {
        "steps": np.int64(5000), "lr_per_256": np.float32(0.5), "fractions": [np.float64(0.5)], "seed": np.uint8(3),
    }  # fmt: skip
    config = config_lib.resolve(given)
    assert (config.steps, config.lr_per_256, config.fractions, config.seed) == (5000, 0.5, (0.5,), 3)
    assert [type(config[name]) for name in ("steps", "lr_per_256", "seed")] == [int, float, int]
    assert config_lib.resolve(config_lib.to_json(config)) == config


def test_values_that_cannot_be_had_or_shown():
    placeholder = ml_collections.config_dict.required_placeholder(int)
    with pytest.raises(ConfigError, match=r"config\.steps has no value .*give it one"):
        config_lib.resolve(ml_collections.ConfigDict({"steps": placeholder}))

    class Unshown:
        def __repr__(self):
            raise RuntimeError

    for value in (Unshown(), 10**5000, [[]] * 1000, np.zeros((99, 99))):
        with pytest.raises(ConfigError, match=r"config\.steps is .* a (whole )?number") as caught:
            config_lib.resolve({"steps": value})
        assert len(str(caught.value)) < 500
        assert "\n" not in str(caught.value)


def test_the_largest_values_are_taken():
    largest = {"seed": 2**31 - 1, "steps": 2**31 - 1, "batch_size": 2**20, "image_size": 16_384, "trials": 10_000}
    assert config_lib.resolve({**largest, "fractions": (0.5,)}).seed == 2**31 - 1


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_shipped_config_resolves_and_documents_its_command(path):
    module = runpy.run_path(str(path))
    own = {"folder": ["images", "images:smoke"], "embeddings": [""], "imagenet": ["", "resnet50", "fake", "smoke"]}
    arguments = own.get(path.stem, ["", "quick", "smoke", *(["gpu"] if "cifar" in path.stem else [])])
    for argument in arguments:
        config = config_lib.resolve(module["get_config"](argument))
        assert all(name in config for name in REQUIRED)
    assert f"--config {path.stem}" in module["__doc__"]


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100", "fashion_mnist"])
def test_an_unknown_argument_names_the_nearest(name):
    with pytest.raises(ConfigError, match='"quick"'):
        runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]("quik")


def test_the_papers_cifar_recipe():
    config = runpy.run_path(str(CONFIGS / "cifar10.py"))["get_config"]()
    assert (config.depth, tuple(config.widths), config.steps, config.trials) == (32, (16, 32, 64), 100_000, 10)
    assert (config.batch_size, config.lr_per_256, config.warmup_steps) == (128, 0.2, 2500)
    assert (config.momentum, config.nesterov, config.l2) == (0.9, False, 1e-4)
    assert (config.augmentation, config.pad) == ("crop_flip", 4)


def test_names_may_come_as_one_text():
    config = config_lib.resolve({"layers": "start,end", "methods": ("random, semantic",)})
    assert (config.layers, config.methods) == (("start", "end"), ("random", "semantic"))


def test_differing_names_changed_and_missing_fields():
    config = config_lib.to_json(config_lib.resolve({"fractions": (0.9, 0.25), "seed": 3}))
    assert config_lib.differing(config, config_lib.to_json(config_lib.resolve(config))) == []
    assert config_lib.differing({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b", "c"]


def test_a_config_without_a_data_set():
    config = config_lib.resolve(runpy.run_path(str(CONFIGS / "embeddings.py"))["get_config"]())
    with pytest.raises(ConfigError, match="this config has no data set, and train needs one"):
        config_lib.need_dataset(config, "train")
    with pytest.raises(ConfigError, match="no data set"):
        open_dataset(config)
    with pytest.raises(ConfigError, match=r"no argument 'quick'\. Arguments: none"):
        runpy.run_path(str(CONFIGS / "embeddings.py"))["get_config"]("quick")
