"""Chooses the stored splits for training and measuring, and checks their labels. Never reads images."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from redundancy.data import order
from redundancy.data.dataset import Split
from redundancy.runtime.errors import ConfigError, DataError, nearest

# The choice of held-out images belongs to the data set, not to a trial, so it must not depend on config.seed.
HOLDOUT_SEED = 20_190_611


def choose(
    train_split: str,
    test_split: str,
    names: Sequence[str],
    has: Callable[[str], bool] | None = None,
    overlap: Callable[[str, str], bool] = str.__eq__,
) -> tuple[str, str | None]:
    """The stored splits for training and for measuring; None for the latter if images are to be held out.

    Args:
      train_split, test_split: as in the config.
      names: the stored splits.
      has: function that tells whether a text names a stored split or a part of one; by default, membership in `names`.
      overlap: function that tells whether two splits share images; by default, whether they are the same.

    Raises:
      ConfigError: there is no such split, or measuring would use training images.
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
    """Chooses the held-out examples: `share` of each class, rounded, but never a whole class.

    Args:
      labels: int32 [n].
      share: above 0 and below 1.

    Returns:
      bool [n], True for held-out examples; depends only on the arguments.

    Raises:
      DataError: nothing can be held out, since no class has more than one image.
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
    stored: Mapping[str, np.ndarray],
    train: str,
    test: str | None,
    holdout: float,
) -> tuple[Split, Split]:
    """Makes and checks the two splits.

    Args:
      where: the data set, for error messages.
      class_names: names of the classes.
      stored: stored split -> labels, integers [n].
      train: the stored split for training.
      test: the stored split for measuring, or None to hold out `holdout` of each class of the training split.
      holdout: share to hold out.

    Raises:
      DataError: no images, labels outside of the classes, a class without training images, or nothing to hold out.
    """
    labels = _checked(where, "train_split", train, stored[train], class_names)
    empty = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
    if len(empty):
        names = ", ".join(repr(class_names[i]) for i in empty[:10])
        raise DataError(
            f"{where}: {len(empty)} of {len(class_names)} classes without an image in the split {train!r}: {names}"
            f"{', …' if len(empty) > 10 else ''}. Wanted: at least one training image of each class."
        )
    positions = np.arange(len(labels))
    if test is None:
        held = hold_out(labels, holdout)
        parts = (("train", positions[~held]), ("test", positions[held]))
        return tuple(Split(name, train, len(labels), kept, labels[kept]) for name, kept in parts)
    test_labels = _checked(where, "test_split", test, stored[test], class_names)
    return (
        Split("train", train, len(labels), positions, labels),
        Split("test", test, len(test_labels), np.arange(len(test_labels)), test_labels),
    )


def fingerprint(parts: tuple[Split, Split], holdout: float, lengths: Mapping[str, list[int]] | None = None) -> dict:
    """The part of a fingerprint about splits. `lengths` has the shard lengths of stored splits; by default one shard each."""
    train, test = parts
    lengths = lengths or {part.stored: [part.num_stored] for part in parts}
    found = {"split": train.stored, "shard_lengths": lengths[train.stored]}
    if train.stored == test.stored:
        return found | {"holdout": holdout}
    return found | {"test_split": test.stored, "test_shard_lengths": lengths[test.stored]}


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
