"""Data sets laid out as folders of images, ROOT/train/CLASS/*.jpg or ROOT/CLASS/*.jpg. Never imports TensorFlow."""

import concurrent.futures
import hashlib
import os

import numpy as np
import PIL
from absl import logging

from redundancy.data import images, splits
from redundancy.data.dataset import Dataset, check_image_size
from redundancy.data.remembered import remembered
from redundancy.errors import DataError
from redundancy.progress import Progress

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_SPLITS = ("train", "test", "validation", "val")
_WANTED = f"ROOT/train/CLASS/*.jpg (and test/, validation/ or val/), or ROOT/CLASS/*.jpg, with {', '.join(EXTENSIONS)}"
_THREADS = min(32, os.cpu_count() or 1)


class FolderDataset(Dataset):
    """Images decoded from their files when asked for, in a few threads; always RGB."""

    def __init__(self, root: str, files: dict[str, list[str]], image_size: int, eval_crop: float, **kwargs):
        super().__init__(**kwargs)
        self._root, self._files, self._image_size, self._eval_crop = root, files, image_size, eval_crop
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, "decode")

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
                    f"{path} cannot be decoded ({error}); it has changed since the data set was opened. "
                    "Replace or remove it."
                ) from error

        for _ in self._pool.map(fill, range(len(positions))):
            pass
        return decoded


def open_folder(config) -> FolderDataset:
    """Opens the folder of images config.dataset; every file is checked first, where that has not been done.

    Raises:
      ConfigError: no such split; images of varied size without config.image_size.
      DataError: no images, an empty class folder, a class in the test split alone, files that are not whole images.
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
            root, len(ignored), ignored[0], ", ".join(EXTENSIONS),
        )  # fmt: skip
    parts = splits.make(
        root,
        class_names,
        (train, listed[train][1]),
        (test, listed[test][1]) if test else None,
        config.holdout,
    )
    files = {split: names for split, (names, _) in listed.items()}
    return FolderDataset(
        root,
        files,
        config.image_size,
        config.eval_crop,
        name=os.path.basename(root),
        class_names=class_names,
        image_shape=_image_shape(root, _sizes(root, files), config.image_size),
        fingerprint=_fingerprint(root, files, train, test, config.holdout),
        splits=parts,
        resident_mb=config.resident_mb,
        augmentation=config.augmentation,
    )


def _folders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and entry.name[0] != ".")


def _split_folders(root: str) -> dict[str, str]:
    """Folder of each stored split."""
    names = _folders(root)
    if "train" in names:
        others = [name for name in names if name not in _SPLITS]
        if others:
            logging.warning(
                "%s: beside train/, the folders %s are not read; the splits are %s.", root, others, ", ".join(_SPLITS)
            )
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
    return names


def _list_split(
    root: str, folder: str, class_names: tuple[str, ...], ignored: list[str]
) -> tuple[list[str], np.ndarray]:
    """Files relative to `root` in the order of positions, and their labels; adds to `ignored` what is no image."""
    extra = sorted(set(_folders(folder)) - set(class_names))
    if extra:
        raise DataError(
            f"{os.path.join(folder, extra[0])}: the class {extra[0]!r} is not in the train split; "
            "wanted the same class names in every split. Rename the folder, or add training images."
        )
    files, labels = [], []
    for label, name in enumerate(class_names):
        path = os.path.join(folder, name)
        if not os.path.isdir(path):
            continue
        found = sorted(os.listdir(path))
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


def _sizes(root: str, files: dict[str, list[str]]) -> set[tuple[int, int]]:
    """The sizes (width, height) of all images, which are checked once for as long as they stay as they are."""
    every = [name for names in files.values() for name in names]
    identity = {"made": "sizes of image files", "folder": root, "splits": [*files], "pillow": PIL.__version__}
    found = remembered(
        identity,
        [os.path.join(root, name) for name in every],
        lambda: np.array(sorted(_check_files(root, every)), np.int64).reshape(-1),
    )
    return {(width, height) for width, height in found.reshape(-1, 2).tolist()}


def _check_files(root: str, every: list[str]) -> set[tuple[int, int]]:
    """The sizes (width, height) of all images; raises one DataError for all files that are not whole images."""
    sizes, bad = set(), []
    with (
        Progress("check images", len(every), "images") as progress,
        concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
    ):
        for name, (size, problem) in zip(
            every, pool.map(lambda name: images.check(os.path.join(root, name)), every), strict=True
        ):
            progress.advance()
            if problem:
                bad.append(f"{name} ({problem.replace(root + os.sep, '')})")
            sizes.add(size)
    if bad:
        listing = "\n  ".join(bad[:10] + ([f"and {len(bad) - 10} more"] if len(bad) > 10 else []))
        raise DataError(
            f"{root}: {len(bad)} of {len(every)} image files cannot be used; replace or remove them:\n  {listing}"
        )
    return sizes


def _image_shape(root: str, sizes: set[tuple[int, int]], image_size: int) -> tuple[int, int, int]:
    if image_size:
        return (image_size, image_size, 3)
    smallest, largest = min(sizes), max(sizes)
    found = f"from {smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]} pixels"
    check_image_size(root, (None, None, 3) if len(sizes) > 1 else (1, 1, 3), image_size, found)
    return (smallest[1], smallest[0], 3)


def _fingerprint(root: str, files: dict[str, list[str]], train: str, test: str | None, holdout: float) -> dict:
    lines = sorted(
        f"{name.replace(os.sep, '/')}, {os.path.getsize(os.path.join(root, name))}\n"
        for names in files.values()
        for name in names
    )
    digest = hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
    found = {"name": os.path.basename(root), "sha256": digest, "split": train, "shard_lengths": [len(files[train])]}
    return found | ({"test_split": test, "test_shard_lengths": [len(files[test])]} if test else {"holdout": holdout})
