"""Finds the splits and classes of a folder of images: ROOT/train/CLASS/*.jpg, ROOT/CLASS/*.jpg, and usual variants.

All images below a class folder belong to the class. Reads file names and lists of labels, but no images.
"""

import os
from collections.abc import Collection, Sequence

import numpy as np
from absl import logging

from redundancy.data import listing, split_names
from redundancy.data.images import EXTENSIONS
from redundancy.data.inputs import shown, similar_names, unfit
from redundancy.data.listing import Found
from redundancy.runtime.errors import DataError

_ENDINGS = ", ".join(EXTENSIONS[:9])
WANTED = (
    "ROOT/train/CLASS/*.jpg (and test/, validation/ or val/), or ROOT/CLASS/*.jpg; images end in "
    f"{_ENDINGS} and the like"
)


def find_splits(root: str, named: Sequence[str]) -> dict[str, str]:
    """Maps each stored split to its folder; only 'train' if the classes lie directly in `root`.

    Args:
      root: the data set's folder.
      named: config.train_split and config.test_split, which may name any folder.

    Raises:
      DataError: there are no folders, or they look like splits but none is recognised as the one for training.
    """
    names = listing.folders(root)
    if not names:
        loose = listing.beside(root, "").images
        raise DataError(
            f"{root} holds no folders{f' but {len(loose)} loose image files' if loose else ''}; wanted a folder of images "
            f"laid out as {WANTED}. Put the images of each class into a folder named after it."
        )
    train = _train_folder(root, names, named[0])
    if train is None:
        _check_wrapped(root, root)
        return {"train": root}
    known = {train, "train", *named} - {"auto"}
    found = {name: os.path.join(root, name) for name in names if name in known or _may_test(name)}
    if others := [name for name in names if name not in found]:
        logging.warning(
            "%s: beside %s/, the folders %s are not read; splits are %s.",
            root, train, shown(", ".join(others)), split_names.KNOWN,
        )  # fmt: skip
    _check_wrapped(root, found[train])
    return found


def _may_test(name: str) -> bool:
    return split_names.role(name) in (split_names.TEST, split_names.VALIDATION)


def _train_folder(root: str, names: Sequence[str], given: str) -> str | None:
    """The folder of the training split; None if the folders of `root` are classes."""
    if "train" in names or given in names:
        return given if given in names else "train"
    trains = split_names.of_role(split_names.TRAIN, names)
    tests = [name for name in names if _may_test(name)]

    def is_flat(name):
        return listing.has_images(os.path.join(root, name))

    if trains and (tests or not all(map(is_flat, trains))):
        named = split_names.resolve(given, trains)
        if named in trains:
            return named
        raise DataError(
            f"{root}: the folders {shown(', '.join(trains))} may each be the split for training. Say which with "
            f"--config.train_split, for example --config.train_split={shown(trains[0])}, or rename it to train."
        )
    like = [name for name in names if split_names.looks_like_split(name) and not is_flat(name)]
    if len(names) > 1 and all(map(_may_test, names)):
        like = names
    if like and not trains:
        raise DataError(
            f"{root}: the {'folder' if len(like) == 1 else 'folders'} {shown(', '.join(like))} "
            f"{'looks like a split' if len(like) == 1 else 'look like splits'}, but none is named as the one for training. "
            f"Names of splits that are known: {split_names.KNOWN}. Rename the folders, or name them with "
            "--config.train_split and --config.test_split."
        )
    return None


def _check_wrapped(root: str, folder: str) -> None:
    """Raises DataError if `folder` holds a single folder that holds only folders, which are probably the classes."""
    path, inner = folder, listing.folders(folder)
    while len(inner) == 1:
        path = os.path.join(path, inner[0])
        inner = [] if listing.has_images(path) else listing.folders(path)
    if path != folder and len(inner) > 1:
        todo = f"Give {shown(path)} as the data set" if folder == root else f"Move them up to {shown(folder)}"
        raise DataError(
            f"{shown(folder)} holds one folder, {shown(os.path.relpath(path, folder))}, without images but with the "
            f"{len(inner)} folders {shown(', '.join(inner[:5]))}{', …' if len(inner) > 5 else ''}; wanted {WANTED}. "
            f"{todo}; or, if it is one class, move its images into one folder."
        )


def _check_inner(folder: str, inner: Collection[str]) -> None:
    """Raises DataError if the folders in a class folder are splits."""
    trains, tests = split_names.of_role(split_names.TRAIN, inner), sorted(filter(_may_test, inner))
    if trains and tests:
        raise DataError(
            f"{shown(folder)} holds the folders {shown(trains[0])} and {shown(tests[0])}, which look like splits inside of a "
            f"class; wanted {WANTED}. Move the images of each split to ROOT/SPLIT/CLASS."
        )


def class_folders(folder: str) -> tuple[str, ...]:
    """The classes of the training split; raises DataError if it has none."""
    if names := tuple(listing.folders(folder)):
        return names
    raise DataError(
        f"{folder} holds no class folders; wanted {WANTED}. A folder named train is always the split, never a class."
    )


def candidates(names: Sequence[str], train: str) -> list[str]:
    """The splits that may be used for measuring, in the order in which 'auto' tries them."""
    found = [name for role in (split_names.TEST, split_names.VALIDATION) for name in split_names.of_role(role, names)]
    return [name for name in found if name != train]


def without_labels(folder: str, class_names: Sequence[str]) -> str:
    """A text that says why the images of a split have no labels; '' if they have labels, even wrong ones."""
    names = listing.folders(folder)
    alike = any({*names} & {*group} - {*class_names} for group in similar_names([*class_names, *names]))
    if _annotations(folder) or {*names} & {*class_names} or alike:
        return ""
    number = len(listing.beside(folder, "").images)
    number += sum(len(listing.below(folder, name).images) for name in names)
    there = f"none of its folders ({shown(', '.join(names[:3]))}) is a class" if names else "it has no class folders"
    return f"{shown(folder)}: the {number} images have no labels, since {there} of the split for training"


def list_train(root: str, folder: str, class_names: Sequence[str]) -> tuple[Found, np.ndarray]:
    """Files of a split with class folders, in the order of positions: by class, then by path.

    Returns:
      the files found, and the label of each image: int64 [n].

    Raises:
      DataError: a class is not in `class_names`, or a class folder has no images.
    """
    relative = os.path.relpath(folder, root) if folder != root else ""
    everything, labels = listing.beside(folder, relative), []
    _leave_out(everything, "lies outside of the class folders")
    names = listing.folders(folder)
    if extra := sorted({*names} - {*class_names}):
        like = [group for group in similar_names([*class_names, *extra]) if extra[0] in group]
        hint = f" It is most likely {like[0][0]!a}." if like else ""
        raise DataError(
            f"{shown(os.path.join(folder, extra[0]))}: the class '{shown(extra[0])}' is not in the train split; wanted the "
            f"same class names in every split.{hint} Rename the folder, or add training images."
        )
    nested, inner = [], []
    for label, name in enumerate(class_names):
        if name not in names:
            continue
        found = listing.below(root, os.path.join(relative, name))
        if not found.images:
            others = [*found.unread, *found.others]
            raise DataError(
                f"{os.path.join(folder, name)}: no image in this class folder ({listing.kinds(others) or 'no files'}); "
                f"wanted files that end in {_ENDINGS} and the like. Add images, or remove the folder."
            )
        start = len(os.path.join(relative, name, ""))
        deeper = [file for file in found.images if os.sep in file[start:]]
        inner.append({file[start:].split(os.sep)[0] for file in deeper})
        _check_inner(os.path.join(folder, name), inner[-1])
        nested += deeper
        labels += [label] * len(found.images)
        everything.add(found)
    if nested:
        if len(inner) > 1 and len(inner[0]) > 1 and all(each == inner[0] for each in inner):
            logging.warning(
                "%s: the classes %s hold the same folders, %s. If those are the classes, name the splits with --config.train_split and "
                "--config.test_split.", shown(folder), shown(", ".join(class_names[:5])), shown(", ".join(sorted(inner[0])[:5])),
            )  # fmt: skip
        logging.info(
            "%s: %d images lie in subfolders of class folders, and count as of that class, for example %s.",
            shown(folder), len(nested), shown(nested[0]),
        )  # fmt: skip
    return everything, np.array(labels, np.int64)


def list_test(root: str, folder: str, class_names: Sequence[str]) -> tuple[Found, np.ndarray, list[str]]:
    """As `list_train`, for the split for measuring, which may have a list of labels instead; also returns the list's path.

    Raises:
      DataError: as `list_train`; or images have no labels, or the list does not match the images.
    """
    path = _annotations(folder)
    if path and not {*listing.folders(folder)} & {*class_names}:
        return (*_list_annotated(root, folder, path, class_names), [os.path.relpath(path, root)])
    return (*list_train(root, folder, class_names), [])


def _annotations(folder: str) -> str | None:
    """The path of a split's list of labels, such as Tiny ImageNet's val/val_annotations.txt, if it has no class folders."""
    names = [entry.name for entry in listing.files(folder) if entry.name.lower().endswith("_annotations.txt")]
    return os.path.join(folder, names[0]) if len(names) == 1 else None


def _list_annotated(root: str, folder: str, path: str, class_names: Sequence[str]) -> tuple[Found, np.ndarray]:
    if problem := unfit(path):
        raise DataError(f"{shown(path)} {problem}; wanted a list of labels. Check the file.")
    label_of = {name: label for label, name in enumerate(class_names)}
    labels: dict[str, int] = {}
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            image, _, rest = line.rstrip("\r\n").partition("\t")
            name = rest.split("\t")[0]
            if name not in label_of:
                raise DataError(
                    f"{shown(path)}: line {number} is '{shown(line.strip()[:100])}'; wanted FILE, a tab, and a class of the "
                    "split for training. Correct the line, or remove the file and put the images into class folders."
                )
            labels[image] = label_of[name]
    found = listing.below(root, os.path.relpath(folder, root))
    found.others.remove(os.path.relpath(path, root))
    without = [file for file in found.images if os.path.basename(file) not in labels]
    gone = labels.keys() - {os.path.basename(file) for file in [*found.images, *found.unread]}
    if without or gone or not found.images:
        wrong = f"{len(without)} of {len(found.images)} images have no line" if without or not gone else ""
        wrong = wrong or f"{len(gone)} of its {len(labels)} images are not there"
        raise DataError(
            f"{shown(path)}: {wrong}, for example {shown(min(without or gone, default='none'))}; wanted a line for each image. "
            "Restore the file and the images, or name another split with --config.test_split."
        )
    return found, np.array([labels[os.path.basename(file)] for file in found.images], np.int64)


def _leave_out(found: Found, reason: str) -> None:
    """Moves images to those that are not read; other files beside class folders do not belong to the data set."""
    found.unread |= dict.fromkeys(found.images, reason)
    found.images, found.others = [], []
