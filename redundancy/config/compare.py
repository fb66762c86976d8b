"""Compares configs: in JSON form, by differing fields, and by the identity of their trainings."""

import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from redundancy.config.convert import defaults
from redundancy.config.field import Affects
from redundancy.config.sections import FIELDS


def to_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config in JSON form (tuples become lists), with fields in the order of FIELDS."""
    return json.loads(json.dumps({name: config[name] for name in FIELDS}))


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Names of the fields whose values differ between two configs in JSON form, or that only one of them has."""
    absent = object()
    return [name for name in sorted({*first, *second}) if first.get(name, absent) != second.get(name, absent)]


def known_as(config: Mapping[str, Any], dataset: str, name: str | None) -> ml_collections.FrozenConfigDict:
    """The config of a workdir, extended by the path and name of the data set at the time when its artifacts were made.

    Args:
      config: resolved; config.dataset is the present path.
      dataset: the value of config.dataset in the identities of the workdir's trainings.
      name: the name in the recorded fingerprint of the data set; None without a fingerprint.

    Returns:
      the config; `identity` and `dataset_name` use the added values, and `to_json` leaves them out.
    """
    return ml_collections.FrozenConfigDict({**config, "known_as": {"dataset": dataset, "name": name}})


def dataset_name(config: Mapping[str, Any], name: str) -> str:
    """The name, in fingerprints, of a data set that is named after its path: the workdir's name for it, or `name`."""
    known = config.get("known_as")
    return name if known is None else known["name"] or name


# An identity always has these fields. Fields that were added later are left out if they have their default, so that identities
# of earlier versions remain valid. Never add a field here.
_ALWAYS = {
    "dataset", "train_split", "test_split", "holdout", "image_size", "mean", "std", "augmentation", "pad", "crop_area",
    "crop_aspect", "eval_crop", "form", "depth", "widths", "dtype", "kernel_init", "classifier_init", "classifier_bias",
    "zero_init_residual", "bn_group_size", "bn_momentum", "batch_size", "lr_per_256", "micro_batch", "label_smoothing",
    "momentum", "nesterov", "l2", "seed",
}  # fmt: skip


def left_out() -> dict[str, Any]:
    """The fields that an identity leaves out if they have their defaults, with these defaults."""
    default = to_json(defaults())
    of_trainings = [name for name, field in FIELDS.items() if Affects.IDENTITY in field.affects]
    return {f"config.{name}": default[name] for name in of_trainings if name not in _ALWAYS}


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a training's identity that comes from the config, in JSON form."""
    known, config, absent = config.get("known_as"), to_json(config), left_out()
    if known is not None:
        config["dataset"] = known["dataset"]
    fields = {f"config.{name}": config[name] for name, field in FIELDS.items() if Affects.IDENTITY in field.affects}
    return {name: value for name, value in fields.items() if name not in absent or value != absent[name]}
