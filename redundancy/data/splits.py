"""Which stored split plays which role, and what is wrong with their labels.

Pure: names and label arrays in, splits out. Never reads images.
"""

from collections.abc import Callable, Sequence

import numpy as np

from redundancy.data import order
from redundancy.data.dataset import Split
from redundancy.runtime.errors import ConfigError, DataError, nearest

# Which images are held out is part of the data set, not of a trial: config.seed must not change it.
HOLDOUT_SEED = 20_190_611


def choose(
    train_split: str,
    test_split: str,
    names: Sequence[str],
    has: Callable[[str], bool] | None = None,
    overlap: Callable[[str, str], bool] = str.__eq__,
) -> tuple[str, str | None]:
    """The stored splits for training and for measuring; None where the latter is to be held out.

    Args:
      train_split, test_split: as in the config.
      names: the stored splits.
      has: whether something names a stored split or a part of one; by default membership in `names`.
      overlap: whether two splits share images; by default whether they are the same.

    Raises:
      ConfigError: a split that is not there, or measuring on images that are trained on.
    """
    has = has or names.__contains__
    if not has(train_split):
        raise _unknown("train_split", train_split, names)
    if test_split == "auto":
        usual = (name for name in ("test", "validation", "val") if name in names)
        return train_split, next((name for name in usual if not overlap(train_split, name)), None)
    if test_split and not has(test_split):
        raise _unknown("test_split", test_split, names)
    if test_split and overlap(train_split, test_split):
        raise ConfigError(
            f"config.test_split is {test_split!r}, which shares images with config.train_split, {train_split!r}: "
            "accuracy would be measured on images that are trained on. Name another split, or '' to hold a share out."
        )
    return train_split, test_split or None


def _unknown(field: str, name: str, names: Sequence[str]) -> ConfigError:
    extra = " ('auto' finds one, '' holds one out)" if field == "test_split" else ""
    return ConfigError(
        f"config.{field} is {name!r}, which the data set does not have.{nearest(name.split('[')[0], names)} "
        f"Its splits: {', '.join(sorted(names))}{extra}."
    )


def hold_out(labels: np.ndarray, share: float) -> np.ndarray:
    """Which examples are held out: `share` of each class, rounded, but never a whole class.

    Args:
      labels: int32 [n].
      share: above 0 and below 1.

    Returns:
      bool [n], always the same for the same labels.

    Raises:
      DataError: nothing can be held out, since no class has an image to spare.
    """
    held = np.zeros(len(labels), bool)
    by_class = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[by_class], return_index=True)
    for label, members in zip(classes.tolist(), np.split(by_class, starts[1:]), strict=True):
        count = min(int(share * len(members) + 0.5), len(members) - 1)
        held[members[order.permutation(len(members), (HOLDOUT_SEED, label), 0)[:count]]] = True
    if not held.any():
        raise DataError(
            f"config.holdout is {share}: of {len(labels)} images in {len(classes)} classes that holds out none for "
            "measuring; raise config.holdout, add images, or name a split in config.test_split."
        )
    return held


def make(
    where: str,
    class_names: Sequence[str],
    train: tuple[str, np.ndarray],
    test: tuple[str, np.ndarray] | None,
    holdout: float,
) -> tuple[Split, Split]:
    """The two splits, checked.

    Args:
      where: the data set, for error messages.
      class_names: names of the classes.
      train: the stored split's name and its labels, integers [n].
      test: the same, or None to hold out `holdout` of each class of the train split.
      holdout: share held out.

    Raises:
      DataError: no images, labels outside the classes, a class without a training image, nothing to hold out.
    """
    labels = _checked(where, "train_split", *train, class_names)
    empty = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
    if len(empty):
        names = ", ".join(repr(class_names[i]) for i in empty[:10])
        raise DataError(
            f"{where}: {len(empty)} of {len(class_names)} classes without an image in the split {train[0]!r}: {names}"
            f"{', …' if len(empty) > 10 else ''}. Wanted: at least one training image of each class."
        )
    positions = np.arange(len(labels))
    if test is None:
        held = hold_out(labels, holdout)
        parts = (("train", positions[~held]), ("test", positions[held]))
        return tuple(Split(name, train[0], len(labels), kept, labels[kept]) for name, kept in parts)
    test_labels = _checked(where, "test_split", *test, class_names)
    return (
        Split("train", train[0], len(labels), positions, labels),
        Split("test", test[0], len(test_labels), np.arange(len(test_labels)), test_labels),
    )


def _checked(where: str, field: str, name: str, labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    if not len(labels):
        raise DataError(f"{where}: the split {name!r} (config.{field}) has no images; wanted at least one.")
    if (labels == -1).all():
        raise DataError(
            f"{where}: the split {name!r} has no labels (all are -1); set config.{field} to a labelled split"
            + (", or to '' to hold out a part of the train split." if field == "test_split" else ".")
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(wrong):
        raise DataError(
            f"{where}: {len(wrong)} labels of the split {name!r} (config.{field}) are outside 0 to "
            f"{len(class_names) - 1}, the first at position {wrong[0]}: {labels[wrong[0]]}. Wanted: a label of one of "
            f"the {len(class_names)} classes for each image."
        )
    return labels.astype(np.int32)
