"""Data sets in one .npz file with arrays of images and labels. Never imports TensorFlow, never unpickles."""

import hashlib
import io
import posixpath
import zipfile

import numpy as np

from redundancy.config import dataset_name
from redundancy.data import crops, inputs, npy, splits
from redundancy.data.dataset import Dataset, final_shape
from redundancy.data.resize import resize
from redundancy.runtime.errors import ConfigError, DataError

_LAYOUTS = (
    {"train": ("train_images", "train_labels"), "test": ("test_images", "test_labels")},
    {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")},
    {"train": ("images", "labels")},
)
_NAMES = ("label_names", "class_names")
_WANTED = "train_images, train_labels[, test_images, test_labels], or x_train, y_train, …, or images, labels"


class ArrayDataset(Dataset):
    """Images held in memory. `_read` selects rows, and resizes them if config.image_size differs from their size."""

    def __init__(self, config, images_by_split: dict[str, np.ndarray], **kwargs):
        super().__init__(config, **kwargs)
        self._images = images_by_split

    def _read(self, part, positions):
        stored = self._images[part.stored]
        if not self._image_size or (stored.shape[1:] == self.image_shape and self._eval_crop == 1):
            return stored[positions]
        box = np.array(crops.centre_box(*stored.shape[1:3], self._eval_crop))
        return self._resized(stored, positions, np.broadcast_to(box, (len(positions), 4)))

    def _read_crops(self, part, positions, crop, draws):
        stored = self._images[part.stored]
        height, width = (np.full(len(positions), side) for side in stored.shape[1:3])
        return self._resized(stored, positions, crop.windows(draws, height, width).astype(np.float64))

    def _resized(self, stored, positions, boxes):
        resized = np.empty((len(positions), *self.image_shape), np.uint8)
        for row, position in enumerate(positions):
            low = np.floor(boxes[row, :2]).astype(int)
            high = np.ceil(boxes[row, :2] + boxes[row, 2:]).astype(int)
            part = stored[position, low[0] : high[0], low[1] : high[1]]
            resized[row] = resize(part, np.concatenate([boxes[row, :2] - low, boxes[row, 2:]]), self._image_size)
        return resized


def open_arrays(config) -> ArrayDataset:
    """Opens the .npz file config.dataset.

    Keys: train_images uint8 [N, H, W, C] or [N, H, W] and train_labels, any integers [N] or [N, 1], and optionally
    test_images and test_labels; or Keras' x_train, y_train, x_test, y_test; or images and labels. Optionally also
    label_names or class_names.

    Raises:
      ConfigError: there is no such file or split.
      DataError: the file is damaged, pickled, or lacks the keys, or arrays have the wrong type or shape.
    """
    path = config.dataset
    arrays, digest = _load(path)
    stored = _split_arrays(path, arrays)
    train, test = splits.choose(config.train_split, config.test_split, tuple(stored))
    pictures = {name: stored[name][0] for name in (train, test) if name}
    shape = pictures[train].shape[1:]
    if test and pictures[test].shape[1:] != shape:
        found = f"images of {test} have the shape {pictures[test].shape[1:]}, those of {train} {shape}"
        raise DataError(f"{path}: {found}; wanted one shape.")
    if config.image_size and shape[2] not in (1, 3) and shape[:2] != (config.image_size,) * 2:
        raise ConfigError(
            f"config.image_size is {config.image_size}, but {path} has {shape[2]} channels, and only images of 1 or 3 are "
            "resized; set it to 0."
        )
    labels = {split: of_split for split, (_, of_split) in stored.items()}
    class_names = _class_names(path, arrays, labels[train])
    parts = splits.make(path, class_names, labels, train, test, config.holdout)
    name = dataset_name(config, posixpath.basename(path))
    return ArrayDataset(
        config,
        pictures,
        name=name,
        class_names=class_names,
        image_shape=final_shape(path, shape, config.image_size, ""),
        fingerprint={"name": name, "sha256": digest, **splits.fingerprint(parts, config.holdout)},
        splits=parts,
    )


def _load(path: str) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of the file that may be needed, and its SHA-256. Nothing is unpacked to disk."""
    data = inputs.read_bytes(inputs.existing(f"config.dataset is {path!r}", path))
    if data.startswith(b"\x93NUMPY"):
        raise DataError(f"{path} is a single array (.npy), not an .npz file; wanted: {_WANTED}. Use numpy.savez.")
    try:
        return _arrays(path, data), hashlib.sha256(data).hexdigest()
    except DataError:
        raise
    except npy.NotAnArrayError as error:
        raise DataError(
            f"{path}: {error}. Wanted: plain uint8 and integer arrays: {_WANTED}. Save them again with numpy.savez."
        ) from error
    # zipfile raises many kinds of exceptions for damaged archives.
    except Exception as error:
        first = inputs.shown((str(error).strip() or type(error).__name__).splitlines()[0])
        raise DataError(
            f"{path} cannot be read as .npz ({first}); it is truncated or damaged. Write it again with numpy.savez."
        ) from error


def _arrays(path: str, data: bytes) -> dict[str, np.ndarray]:
    wanted = {key for layout in _LAYOUTS for keys in layout.values() for key in keys} | {*_NAMES}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        every = [(info.filename.removesuffix(".npy"), info) for info in archive.infolist()]
        names = sorted(name for name, _ in every if name in wanted)
        if not names:
            found = inputs.shown(str(sorted({name for name, _ in every})[:20]))
            raise DataError(f"{path} has the arrays {found}; wanted: {_WANTED}.")
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(
                f"{path} holds the array {twice[0]!r} twice; wanted it once. Write it again with numpy.savez."
            )
        infos = {name: info for name, info in sorted(every, key=lambda each: each[0]) if name in wanted}
        size = sum(info.file_size for info in infos.values())
        inputs.check_memory(path, f"unpacking its {len(data)} bytes", size)
        arrays = {}
        for name, info in infos.items():
            if info.flag_bits & 1:
                raise DataError(f"{path}: its array {name!r} is encrypted; wanted a file without a password.")
            try:
                with archive.open(info) as member:
                    arrays[name] = npy.read_array(member, info.file_size)
            except npy.NotAnArrayError as error:
                raise npy.NotAnArrayError(f"its array {name!r} {error}") from error
        return arrays


def _split_arrays(path: str, arrays: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of each stored split."""
    layout = next((each for each in _LAYOUTS if each["train"][0] in arrays), None)
    if layout is None:
        raise DataError(f"{path} has the arrays {sorted(arrays)}; wanted: {_WANTED}.")
    stored = {}
    for split, keys in layout.items():
        present = [key for key in keys if key in arrays]
        if len(present) == 1:
            raise DataError(f"{path} has {present[0]!r} alone; wanted both {keys[0]!r} and {keys[1]!r}.")
        if present:
            stored[split] = _checked(path, keys[0], arrays[keys[0]], keys[1], arrays[keys[1]])
    return stored


def _checked(path, image_key, pictures, label_key, labels):
    if pictures.ndim == 3:
        pictures = pictures[..., None]
    found = f"{path}: {image_key} is {pictures.dtype} {list(pictures.shape)}"
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or not all(pictures.shape[1:]):
        raise DataError(f"{found}; wanted uint8 [N, height, width, channels] or [N, height, width].")
    if pictures.shape[1] in (1, 3) and pictures.shape[3] > 4:
        raise DataError(
            f"{found}, which looks like [N, channels, height, width]; wanted [N, height, width, channels]: transpose it by "
            "(0, 2, 3, 1)."
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: {label_key} is {labels.dtype} {list(labels.shape)}; wanted integers [N] or [N, 1], the class of each "
            "image."
        )
    if len(labels) != len(pictures):
        raise DataError(
            f"{path}: {len(pictures)} {image_key} but {len(labels)} {label_key}; wanted one label an image."
        )
    if labels.max(initial=0) > np.iinfo(np.int32).max:
        raise DataError(f"{path}: {label_key} has the label {labels.max()}; wanted classes numbered from 0.")
    return pictures, labels.astype(np.int64)


def _class_names(path: str, arrays: dict[str, np.ndarray], labels: np.ndarray) -> tuple[str, ...]:
    """The names in the file, checked; without names, the numbers up to the highest label."""
    key = next((key for key in _NAMES if key in arrays), None)
    if key is None:
        highest = int(labels.max(initial=0))
        if highest > len(labels):
            raise DataError(f"{path}: a label is {highest}, with {len(labels)} images; wanted classes numbered from 0.")
        return tuple(map(str, range(highest + 1)))
    names = arrays[key]
    if names.dtype.kind not in "USiu" or not names.size:
        raise DataError(f"{path}: {key} is {names.dtype} {list(names.shape)}; wanted texts, the name of each class.")
    try:
        found = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.reshape(-1).tolist())
    # NumPy raises several kinds of exceptions for numbers that are not characters.
    except Exception as error:
        # Not decoded with replacement characters, which could turn several classes into one.
        raise DataError(
            f"{path}: {key} holds a name that is no UTF-8 text ({error}); save the names as texts."
        ) from error
    inputs.check_names(f"{path}, {key}", found)
    return found
