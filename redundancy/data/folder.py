"""Data sets laid out as folders of images, ROOT/train/CLASS/*.jpg or ROOT/CLASS/*.jpg. Never imports TensorFlow."""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Iterable, Mapping

import numpy as np
import PIL
from absl import logging

from redundancy.config import dataset_name
from redundancy.data import images, splits
from redundancy.data.dataset import Dataset, final_shape
from redundancy.data.images import EXTENSIONS
from redundancy.data.inputs import check_names, shown, unfit
from redundancy.data.remembered import remembered
from redundancy.runtime.errors import DataError
from redundancy.runtime.progress import Progress

_SPLITS = ("train", "test", "validation", "val")
_WANTED = f"ROOT/train/CLASS/*.jpg (and test/, validation/ or val/), or ROOT/CLASS/*.jpg, with {', '.join(EXTENSIONS)}"
_THREADS = min(32, os.cpu_count() or 1)
_LISTED = 10  # bad files named one by one


class FolderDataset(Dataset):
    """Images decoded from their files when asked for, in a few threads; always RGB."""

    def __init__(self, config, root: str, files: dict[str, list[str]], bad: Mapping[str, str], **kwargs):
        super().__init__(config, **kwargs)
        self._root, self._files = root, files
        self.skipped = tuple((shown(name), reason) for name, reason in bad.items())
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
    """Opens the folder of images config.dataset; every file is checked first, unless that has been done before.

    Files that cannot be decoded are an error, or are left out before positions are given, as config.bad_images says.

    Raises:
      ConfigError: no such split; images of varied size without config.image_size.
      DataError: no images, an empty class folder, a class in the test split alone, a folder's name that is no text, files
        that are not whole images, or a class of which none is.
    """
    root = os.path.abspath(os.path.expanduser(config.dataset))
    folders = _split_folders(root)
    names = [name for name in splits.choose(config.train_split, config.test_split, tuple(folders)) if name]
    class_names = tuple(_folders(folders[names[0]]))
    if not class_names:
        raise DataError(
            f"{folders[names[0]]} holds no class folders; wanted {_WANTED}. A folder named train is always the split, never "
            "a class."
        )
    check_names(folders[names[0]], class_names, "class folder")
    files, labels, ignored = {}, {}, []
    for name in names:
        files[name], labels[name] = _list_split(root, folders[name], class_names, ignored)
    if ignored:
        logging.warning(
            "%s: %d files are not images by their names and are ignored, for example %s (images end in %s).",
            root, len(ignored), shown(ignored[0]), ", ".join(EXTENSIONS),
        )  # fmt: skip
    every = [file for name in names for file in files[name]]
    sizes, bad = _check(root, every, names)
    if bad and config.bad_images == "stop":
        raise DataError(_described(root, bad, len(every)))
    if bad:
        logging.warning("%s: %d of %d image files are left out, as config.bad_images says:", root, len(bad), len(every))
        for line in _listing(bad):
            logging.warning("  %s", line)
        for name in names:
            files[name], labels[name] = _without(root, bad, class_names, files[name], labels[name])
    parts = splits.make(root, class_names, labels, *(*names, None)[:2], config.holdout)
    name = dataset_name(config, os.path.basename(root))
    fingerprint = {
        "name": name,
        "sha256": _sha256(root, [file for name in names for file in files[name]]),
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
        bad,
        name=name,
        class_names=class_names,
        image_shape=final_shape(root, (*side, 3), config.image_size, found),
        fingerprint=fingerprint,
        splits=parts,
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


def _folders(path: str) -> list[str]:
    # Not entry.is_dir(), which raises OSError for a loop of symbolic links.
    return [entry.name for entry in _entries(path) if entry.name[0] != "." and os.path.isdir(entry.path)]


def _split_folders(root: str) -> dict[str, str]:
    """Folder of each stored split."""
    names = _folders(root)
    if not names:
        raise DataError(f"{root} holds no folders; wanted a folder of images laid out as {_WANTED}.")
    if "train" not in names:
        return {"train": root}
    if others := [name for name in names if name not in _SPLITS]:
        logging.warning(
            "%s: beside train/, the folders %s are not read; the splits are %s.",
            root, shown(", ".join(others)), ", ".join(_SPLITS),
        )  # fmt: skip
    return {name: os.path.join(root, name) for name in names if name in _SPLITS}


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
    """Decodes all files, whatever config.bad_images says, and remembers the result for as long as they stay unchanged.

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

    def make():  # whole numbers can be remembered: the bytes of a text
        return np.frombuffer(json.dumps(_check_files(root, there)).encode(), np.uint8)

    text = remembered(identity, [os.path.join(root, name) for name in there], make).astype(np.uint8).tobytes()
    sizes, faults = json.loads(text)
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


def _described(root: str, bad: Mapping[str, str], total: int) -> str:
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


def _sha256(root: str, names: Iterable[str]) -> str:
    """Checksum of files' names and sizes; -1 for what is no file."""
    paths = {name: os.path.join(root, name) for name in names}
    sizes = {name: os.path.getsize(path) if os.path.isfile(path) else -1 for name, path in paths.items()}
    lines = sorted(f"{name.replace(os.sep, '/')}, {size}\n" for name, size in sizes.items())
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
