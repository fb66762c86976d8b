"""Data sets laid out as folders of images, ROOT/train/CLASS/*.jpg or ROOT/CLASS/*.jpg. Never imports TensorFlow."""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import PIL
from absl import logging

from redundancy.config import dataset_name
from redundancy.data import images, layout, listing, split_names, splits
from redundancy.data.dataset import Dataset, final_shape
from redundancy.data.inputs import check_names, shown, unfit, warn_of_similar_names
from redundancy.data.listing import Found
from redundancy.data.remembered import remembered
from redundancy.runtime.errors import DataError
from redundancy.runtime.progress import Progress

_THREADS = min(32, os.cpu_count() or 1)
_LISTED = 10  # largest number of bad files that a message lists


class FolderDataset(Dataset):
    """Images that are decoded from files on request, in a few threads; always RGB."""

    def __init__(self, config, root: str, files: dict[str, list[str]], bad: Mapping[str, str], **kwargs):
        super().__init__(config, **kwargs)
        self._root, self._files = root, files
        self.skipped = tuple((shown(name), reason) for name, reason in bad.items())
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, "decode")

    @property
    def folder(self):
        return self._root

    def file_names(self, split, positions):
        part = self._part(split)
        names = self._files[part.stored]
        return [names[position] for position in self._checked(part, positions).tolist()]

    def _read(self, part, positions):
        return self._decode(part, positions, [(self._eval_crop,)] * len(positions))

    def _read_crops(self, part, positions, crop, draws):
        return self._decode(part, positions, [(1.0, crop, of_one) for of_one in draws])

    def _decode(self, part, positions, squares):
        names = self._files[part.stored]
        decoded = np.empty((len(positions), *self.image_shape), np.uint8)

        def fill(row):
            path = os.path.join(self._root, names[positions[row]])
            try:
                decoded[row] = images.decode(path, self._image_size, *squares[row])
            except Exception as error:
                raise DataError(
                    f"{shown(path)} {images.describe(error, path)}; it has changed since the data set was opened. "
                    "Restore it, or replace or remove it and begin again in another --workdir."
                ) from error

        for _ in self._pool.map(fill, range(len(positions))):
            pass
        return decoded


def open_folder(config) -> FolderDataset:
    """Opens the folder of images config.dataset. Every file is checked first, unless an earlier check is cached.

    Files that cannot be decoded, and image files of unsupported kinds, raise an error or, depending on config.bad_images, are
    left out before positions are assigned.

    Raises:
      ConfigError: there is no such split, or images differ in size and config.image_size is 0.
      DataError: there are no images, an empty class folder, a class only in the test split, a folder name that is not text,
        bad image files, or a class with only bad files; or the layout is probably not meant as it looks.
    """
    root = os.path.abspath(os.path.expanduser(config.dataset))
    folders = layout.find_splits(root, (config.train_split, config.test_split))
    train, test = _choose(config, folders)
    names = [name for name in (train, test) if name]
    class_names = layout.class_folders(folders[train])
    check_names(folders[train], class_names, "class folder")
    warn_of_similar_names(folders[train], class_names, "class folders")
    found = {train: layout.list_train(root, folders[train], class_names)}
    lists = []
    if test:
        *found[test], lists = layout.list_test(root, folders[test], class_names)
    left_out = _left_out(root, folders[train], [each for each, _ in found.values()], config.bad_images)
    files = {name: found[name][0].images for name in names}
    labels = {name: found[name][1] for name in names}
    every = [file for name in names for file in files[name]]
    sizes, bad = _check(root, every, names)
    if bad and config.bad_images == "stop":
        raise DataError(_described(root, bad, len(every)))
    if bad:
        _say_left_out(root, bad, len(every))
        for name in names:
            files[name], labels[name] = _without(root, bad, class_names, files[name], labels[name])
    parts = splits.make(root, class_names, labels, train, test, config.holdout)
    name = dataset_name(config, os.path.basename(root))
    fingerprint = {
        "name": name,
        "sha256": _sha256(root, [*(file for name in names for file in files[name]), *lists]),
    }
    fingerprint |= splits.fingerprint(parts, config.holdout)
    if bad:
        fingerprint["skipped"] = {"files": len(bad), "sha256": _sha256(root, bad)}
    (width, height), (right, bottom) = min(sizes), max(sizes)
    side = (height, width) if len(sizes) == 1 else (None, None)
    found = f"from {width} x {height} to {right} x {bottom} pixels"
    return FolderDataset(
        config,
        root,
        files,
        bad | left_out,
        name=name,
        class_names=class_names,
        image_shape=final_shape(root, (*side, 3), config.image_size, found),
        fingerprint=fingerprint,
        splits=parts,
    )


def _choose(config, folders: Mapping[str, str]) -> tuple[str, str | None]:
    """The splits for training and for measuring; None for the latter if images are to be held out.

    Raises:
      ConfigError: there is no such split.
      DataError: the split for measuring has no labels.
    """
    train, given = (split_names.resolve(name, [*folders]) for name in (config.train_split, config.test_split))
    if train not in folders or given in ("", train):
        return splits.choose(train, given, tuple(folders))
    class_names = layout.class_folders(folders[train])
    if given == "auto":
        for name in layout.candidates([*folders], train):
            if not (problem := layout.without_labels(folders[name], class_names)):
                return train, name
            logging.warning("%s. It is not used; another split is tried, or a share held out.", problem)
        return train, None
    if given in folders and (problem := layout.without_labels(folders[given], class_names)):
        raise DataError(
            f"{problem}. config.test_split is {config.test_split!r}; name a split with labels, or '' to hold out a share."
        )
    return splits.choose(train, given, tuple(folders))


def _left_out(root: str, folder: str, found: Sequence[Found], bad_images: str) -> dict[str, str]:
    """Image files that are left out, with reasons: those of unsupported kinds, and those outside of the class folders.

    Raises:
      DataError: there are such files, and config.bad_images is 'stop'.
    """
    left_out = {name: reason for each in found for name, reason in each.unread.items()}
    if folder != root:  # also files beside the splits
        loose = listing.beside(root, "")
        left_out |= dict.fromkeys([*loose.images, *loose.unread], "lies outside of the class folders")
    others = [name for each in found for name in each.others]
    if others:
        logging.warning(
            "%s: %d files are not images by their names and are ignored: %s; for example %s.",
            root, len(others), listing.kinds(others), shown(others[0]),
        )  # fmt: skip
    if left_out and bad_images == "stop":
        reasons: dict[str, list[str]] = {}
        for name, reason in left_out.items():
            reasons.setdefault(reason, []).append(name)
        lines = [
            f"{listing.kinds(names)}: each {reason}, for example {shown(names[0])}" for reason, names in reasons.items()
        ]
        todo = (
            "convert what is not read to PNG or JPEG, give each file its own kind's ending, move what lies outside into the "
            "folder of its class, or leave all of it out with --config.bad_images=skip"
        )
        head = f"{root}: {len(left_out)} image files would be left out"
        read = f"Read are {images.FORMAT_NAMES} in class folders"
        text = f"{head} ({lines[0]}); {todo}. {read}."
        raise DataError(text if len(lines) == 1 else "\n  ".join([f"{head}; {todo}. {read}:", *lines]))
    if left_out:
        _say_left_out(root, left_out, len(left_out) + sum(len(each.images) for each in found))
    return left_out


def _say_left_out(root: str, bad: Mapping[str, str], total: int) -> None:
    logging.warning("%s: %d of %d image files are left out, as config.bad_images says:", root, len(bad), total)
    for line in _listing(bad):
        logging.warning("  %s", line)


def _without(
    root: str, bad: Mapping[str, str], class_names: tuple[str, ...], files: list[str], labels: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """A split's files and labels without the bad ones; raises DataError if that leaves a class empty."""
    good = np.array([name not in bad for name in files], bool)
    none = np.setdiff1d(labels, labels[good])
    if len(none):
        of_class = np.flatnonzero(labels == none[0])
        first = files[of_class[0]]
        raise DataError(
            f"{shown(os.path.join(root, os.path.dirname(first)))}: none of the {len(of_class)} images of the class "
            f"{class_names[none[0]]!r} can be used, so that config.bad_images 'skip' leaves it empty; for example "
            f"{shown(os.path.basename(first))} {bad[first]}. Replace them, or remove the folder."
        )
    return [name for name, is_good in zip(files, good, strict=True) if is_good], labels[good]


def _check(root: str, every: list[str], split_names: list[str]) -> tuple[set[tuple[int, int]], dict[str, str]]:
    """Decodes all files, whatever config.bad_images says, and caches the result until files change.

    Args:
      root: the data set's folder.
      every: files, relative to `root`.
      split_names: names of the splits of the files.

    Returns:
      the sizes (width, height) of the good images; and the problem of each bad file, in the order of `every`.
    """
    bad = {name: problem for name in every if (problem := unfit(os.path.join(root, name)))}
    there = [name for name in every if name not in bad]
    identity = {
        "made": "sizes and faults of image files",
        "folder": root,
        "splits": split_names,
        "pillow": PIL.__version__,
        "formats": images.FORMAT_NAMES,
    }

    def make():  # the cache holds integers: here the bytes of a text
        return np.frombuffer(json.dumps(_check_files(root, there)).encode(), np.uint8)

    text = remembered(identity, [os.path.join(root, name) for name in there], make).astype(np.uint8).tobytes()
    sizes, faults = json.loads(text)
    bad |= {there[number]: problem for number, problem in faults}
    return {(width, height) for width, height in sizes}, {name: bad[name] for name in every if name in bad}


def _check_files(root: str, files: list[str]) -> tuple[list, list]:
    """The different sizes [width, height] of the good images, and [number of the file, problem] of the bad files."""
    sizes, faults = set(), []
    with (
        Progress("check images", len(files), "images") as progress,
        concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
    ):
        checked = pool.map(lambda name: images.check(os.path.join(root, name)), files)
        for number, (size, problem) in enumerate(checked):
            progress.advance()
            if problem:
                faults.append([number, problem])
            else:
                sizes.add(size)
    return sorted(sizes), faults


def _described(root: str, bad: Mapping[str, str], total: int) -> str:
    """A message about bad files: one line for a single file, otherwise a line for each of the first ones."""
    todo = "replace or remove {}, or leave out what cannot be decoded with --config.bad_images=skip"
    if len(bad) == 1:
        ((name, problem),) = bad.items()
        return f"{shown(os.path.join(root, name))} {problem}; 1 of {total} image files cannot be used: {todo.format('it')}."
    lines = "\n  ".join(_listing(bad))
    return f"{root}: {len(bad)} of {total} image files cannot be used; {todo.format('them')}:\n  {lines}"


def _listing(bad: Mapping[str, str]) -> list[str]:
    """A line for each of the first bad files."""
    lines = [f"{shown(name)} {problem}" for name, problem in [*bad.items()][:_LISTED]]
    return lines + ([f"and {len(bad) - _LISTED} more"] if len(bad) > _LISTED else [])


def _sha256(root: str, names: Iterable[str]) -> str:
    """Checksum of files' names and sizes; the size is -1 for anything but a file."""
    paths = {name: os.path.join(root, name) for name in names}
    sizes = {name: os.path.getsize(path) if os.path.isfile(path) else -1 for name, path in paths.items()}
    lines = sorted(f"{name.replace(os.sep, '/')}, {size}\n" for name, size in sizes.items())
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
