"""Data sets laid out as folders of images, ROOT/train/CLASS/*.jpg or ROOT/CLASS/*.jpg. Never imports TensorFlow."""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Mapping

import numpy as np
import PIL
from absl import logging

from redundancy.data import images, splits
from redundancy.data.dataset import Dataset, check_image_size
from redundancy.data.images import EXTENSIONS
from redundancy.data.inputs import check_names, shown, unfit
from redundancy.data.remembered import remembered
from redundancy.runtime.errors import DataError
from redundancy.runtime.progress import Progress

_SPLITS = ("train", "test", "validation", "val")
_WANTED = f"ROOT/train/CLASS/*.jpg (and test/, validation/ or val/), or ROOT/CLASS/*.jpg, with {', '.join(EXTENSIONS)}"
_THREADS = min(32, os.cpu_count() or 1)
_LISTED = 10  # bad files told one by one


class FolderDataset(Dataset):
    """Images decoded from their files when asked for, in a few threads; always RGB."""

    def __init__(self, root: str, files: dict[str, list[str]], image_size: int, eval_crop: float, **kwargs):
        super().__init__(**kwargs)
        self._root, self._files, self._image_size, self._eval_crop = root, files, image_size, eval_crop
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, "decode")

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
    """Opens the folder of images config.dataset; every file is checked first, where that has not been done.

    Files that cannot be decoded end it, or are left out before positions are given, as config.bad_images says.

    Raises:
      ConfigError: no such split; images of varied size without config.image_size.
      DataError: no images, an empty class folder, a class in the test split alone, a folder's name that is no text, files
        that are not whole images, or a class of which none is.
    """
    root = os.path.abspath(os.path.expanduser(config.dataset))
    stored = _split_folders(root)
    train, test = splits.choose(config.train_split, config.test_split, tuple(stored))
    class_names = _class_names(stored[train])
    listed, ignored = {}, []
    for split in (train, test):
        if split:
            listed[split] = _list_split(root, stored[split], class_names, ignored)
    if ignored:
        logging.warning(
            "%s: %d files are not images by their names and are ignored, for example %s (images end in %s).",
            root, len(ignored), shown(ignored[0]), ", ".join(EXTENSIONS),
        )  # fmt: skip
    every = [name for names, _ in listed.values() for name in names]
    sizes, bad = _check(root, every, [*listed])
    if bad and config.bad_images == "stop":
        raise DataError(_told(root, bad, len(every)))
    if bad:
        logging.warning("%s: %d of %d image files are left out, as config.bad_images says:", root, len(bad), len(every))
        for line in _listing(bad):
            logging.warning("  %s", line)
        listed = {split: _without(root, bad, class_names, *found) for split, found in listed.items()}
    parts = splits.make(
        root,
        class_names,
        (train, listed[train][1]),
        (test, listed[test][1]) if test else None,
        config.holdout,
    )
    files = {split: names for split, (names, _) in listed.items()}
    fingerprint = _fingerprint(root, files, train, test, config.holdout)
    if bad:
        fingerprint["skipped"] = {"files": len(bad), "sha256": _sha256(root, bad)}
    return FolderDataset(
        root,
        files,
        config.image_size,
        config.eval_crop,
        name=os.path.basename(root),
        class_names=class_names,
        image_shape=_image_shape(root, sizes, config.image_size),
        fingerprint=fingerprint,
        splits=parts,
        resident_mb=config.resident_mb,
        augmentation=config.augmentation,
        skipped=tuple((shown(name), reason) for name, reason in bad.items()),
    )


def _entries(path: str) -> list[os.DirEntry]:
    """What lies in a folder, by name."""
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"{shown(path)} cannot be listed ({error.strerror}); wanted a folder that can be read. Check its permissions "
            "and the disk."
        ) from error


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of symbolic links
        return False


def _folders(path: str) -> list[str]:
    return [entry.name for entry in _entries(path) if entry.name[0] != "." and _is_folder(entry)]


def _split_folders(root: str) -> dict[str, str]:
    """Folder of each stored split."""
    names = _folders(root)
    if "train" in names:
        others = [name for name in names if name not in _SPLITS]
        if others:
            logging.warning(
                "%s: beside train/, the folders %s are not read; the splits are %s.",
                root, shown(", ".join(others)), ", ".join(_SPLITS),
            )  # fmt: skip
        return {name: os.path.join(root, name) for name in names if name in _SPLITS}
    if not names:
        raise DataError(f"{root} holds no folders; wanted a folder of images laid out as {_WANTED}.")
    return {"train": root}


def _class_names(folder: str) -> tuple[str, ...]:
    names = tuple(_folders(folder))
    if not names:
        raise DataError(
            f"{folder} holds no class folders; wanted {_WANTED}. A folder named train is always the split, never a class."
        )
    check_names(folder, names, "class folder")
    return names


def _list_split(
    root: str, folder: str, class_names: tuple[str, ...], ignored: list[str]
) -> tuple[list[str], np.ndarray]:
    """Files relative to `root` in the order of positions, and their labels; adds to `ignored` what is no image."""
    extra = sorted(set(_folders(folder)) - set(class_names))
    if extra:
        raise DataError(
            f"{shown(os.path.join(folder, extra[0]))}: the class '{shown(extra[0])}' is not in the train split; "
            "wanted the same class names in every split. Rename the folder, or add training images."
        )
    files, labels = [], []
    for label, name in enumerate(class_names):
        path = os.path.join(folder, name)
        if not os.path.isdir(path):
            continue
        found = [entry.name for entry in _entries(path)]
        images_of_class = [file for file in found if file.lower().endswith(EXTENSIONS) and file[0] != "."]
        if not images_of_class:
            raise DataError(
                f"{path}: no image in this class folder ({len(found)} other entries); wanted files that end in "
                f"{', '.join(EXTENSIONS)}. Add images, or remove the folder."
            )
        relative = os.path.relpath(path, root)
        files += [os.path.join(relative, file) for file in images_of_class]
        labels += [label] * len(images_of_class)
        ignored += [os.path.join(relative, file) for file in sorted({*found} - {*images_of_class})]
    return files, np.array(labels, np.int64)


def _without(
    root: str, bad: Mapping[str, str], class_names: tuple[str, ...], files: list[str], labels: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """A split's files and labels without the bad ones; raises DataError where that leaves a class none."""
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
    """Looks at all files, whatever config.bad_images says; what was decoded is remembered for as long as it stays as it is.

    Args:
      root: the data set's folder.
      every: files, relative to it.
      split_names: of the splits that they are of.

    Returns:
      the sizes (width, height) of whole images; and what is wrong with each of the other files, in the order of `every`.
    """
    bad = {name: problem for name in every if (problem := unfit(os.path.join(root, name)))}
    there = [name for name in every if name not in bad]
    identity = {
        "made": "sizes and faults of image files",
        "folder": root,
        "splits": split_names,
        "pillow": PIL.__version__,
    }

    def make():
        # Remembered are whole numbers: the bytes of a text.
        text = json.dumps(_check_files(root, there))
        return np.frombuffer(text.encode(), np.uint8)

    sizes, faults = json.loads(
        remembered(identity, [os.path.join(root, name) for name in there], make).astype(np.uint8).tobytes()
    )
    bad |= {there[number]: problem for number, problem in faults}
    return {(width, height) for width, height in sizes}, {name: bad[name] for name in every if name in bad}


def _check_files(root: str, files: list[str]) -> tuple[list, list]:
    """The different sizes [width, height] of the whole images, and [number, what is wrong] of the other files."""
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


def _told(root: str, bad: Mapping[str, str], total: int) -> str:
    """What is wrong: in one line with one file, else a line each for the first of them."""
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


def _image_shape(root: str, sizes: set[tuple[int, int]], image_size: int) -> tuple[int, int, int]:
    if image_size:
        return (image_size, image_size, 3)
    smallest, largest = min(sizes), max(sizes)
    found = f"from {smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]} pixels"
    check_image_size(root, (None, None, 3) if len(sizes) > 1 else (1, 1, 3), image_size, found)
    return (smallest[1], smallest[0], 3)


def _sha256(root: str, names) -> str:
    """Checksum of files' names and sizes; what is no file has none."""

    def size(path):
        return os.path.getsize(path) if os.path.isfile(path) else -1

    lines = sorted(f"{name.replace(os.sep, '/')}, {size(os.path.join(root, name))}\n" for name in names)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _fingerprint(root: str, files: dict[str, list[str]], train: str, test: str | None, holdout: float) -> dict:
    digest = _sha256(root, [name for names in files.values() for name in names])
    found = {"name": os.path.basename(root), "sha256": digest, "split": train, "shard_lengths": [len(files[train])]}
    return found | ({"test_split": test, "test_shard_lengths": [len(files[test])]} if test else {"holdout": holdout})
