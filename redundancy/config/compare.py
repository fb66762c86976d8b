"""Configs side by side: as JSON, which fields differ, and the identity of a config's trainings."""

import json
from collections.abc import Mapping
from typing import Any

from redundancy.config.convert import defaults
from redundancy.config.field import Affects
from redundancy.config.fields import FIELDS


def to_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as JSON types (tuples become lists), fields in the order of FIELDS."""
    return json.loads(json.dumps({name: config[name] for name in FIELDS}))


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Names of the fields whose values differ between two configs in JSON form, those missing in one included."""
    absent = object()
    return [name for name in sorted({*first, *second}) if first.get(name, absent) != second.get(name, absent)]


# An identity always has these fields. A field that was added later is left out at its default, so that the identity is the
# one of before. Nothing is ever added here.
_ALWAYS = {
    "dataset", "train_split", "test_split", "holdout", "image_size", "mean", "std", "augmentation", "pad", "crop_area",
    "crop_aspect", "eval_crop", "form", "depth", "widths", "dtype", "kernel_init", "classifier_init", "classifier_bias",
    "zero_init_residual", "bn_group_size", "bn_momentum", "batch_size", "lr_per_256", "micro_batch", "label_smoothing",
    "momentum", "nesterov", "l2", "seed",
}  # fmt: skip


def left_out() -> dict[str, Any]:
    """What an identity means by fields that it leaves out: their defaults."""
    default = to_json(defaults())
    of_trainings = [name for name, field in FIELDS.items() if Affects.IDENTITY in field.affects]
    return {f"config.{name}": default[name] for name in of_trainings if name not in _ALWAYS}


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's share of the identity of its trainings, in JSON form."""
    config, absent = to_json(config), left_out()
    fields = {f"config.{name}": config[name] for name, field in FIELDS.items() if Affects.IDENTITY in field.affects}
    return {name: value for name, value in fields.items() if name not in absent or value != absent[name]}
