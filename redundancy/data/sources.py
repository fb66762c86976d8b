"""Finds out what config.dataset names, and opens it. TensorFlow is imported only for TFDS sets."""

import contextlib
import functools
import os
from collections.abc import Iterator

from redundancy import config as config_lib
from redundancy.data.dataset import Dataset
from redundancy.runtime.errors import ConfigError, DataError


@functools.lru_cache(maxsize=1)
def shared_dataset(config) -> Dataset:
    """`open_dataset` for the stages, which share the labels and pixels read in one process."""
    return open_dataset(config)


def open_dataset(config) -> Dataset:
    """Opens the data set that a config names; prepares it first where TFDS has to.

    A word that TFDS knows is TFDS's, even where a folder of that name lies here; ./digits is the folder. "generated" and
    "generated:CLASSES:TRAIN:TEST" are made up, see generated.py.

    Args:
      config: resolved, frozen config; read are dataset, data_dir, train_split, test_split, holdout,
        image_size, eval_crop, augmentation, resident_mb.

    Returns:
      the data set; labels are read, images not yet.

    Raises:
      ConfigError: no such data set or split, or an image_size is needed.
      DataError: the data set is damaged, cannot be prepared, or its labels are wrong.
    """
    config_lib.need_dataset(config, "what opens the data set")
    path = os.path.expanduser(config.dataset)
    if path.split(":")[0] == "generated":
        from redundancy.data.generated import open_generated

        return open_generated(config)
    if path.endswith(".npz"):
        from redundancy.data.arrays import open_arrays

        return open_arrays(config)
    if "://" in path:
        from redundancy.data.tfds_source import open_prepared

        return open_prepared(config, path)
    if os.path.isdir(path) and not (path.isidentifier() and _is_builder(path)):
        if prepared := _prepared(path):
            from redundancy.data.tfds_source import open_prepared

            return open_prepared(config, prepared)
        from redundancy.data.folder import open_folder

        return open_folder(config)
    if os.path.isfile(path):
        raise ConfigError(f"config.dataset is {path!r}, a file; wanted a folder, an .npz file or a TFDS name.")
    if path[0] in "./\\" or path != config.dataset or path.count("/") > 1:
        raise ConfigError(
            f"config.dataset is {config.dataset!r}, but there is no such folder or file (from {os.getcwd()}); "
            "check the path, or give a TFDS name such as 'cifar10'."
        )
    from redundancy.data.tfds_source import open_named

    return open_named(config)


def _is_builder(name: str) -> bool:
    from redundancy.data.tfds_source import builder_names

    return name in builder_names()


def _prepared(path: str) -> str | None:
    """The folder with dataset_info.json: `path`, or the one version or config folder in it that has one."""
    if os.path.exists(os.path.join(path, "dataset_info.json")):
        return path
    with _listing(path), os.scandir(path) as entries:
        found = sorted(
            entry.path
            for entry in entries
            if ".incomplete" not in entry.name and os.path.isfile(os.path.join(entry.path, "dataset_info.json"))
        )
    if len(found) > 1:
        raise ConfigError(
            f"config.dataset is {path!r}, which holds several prepared data sets: {', '.join(found)}; name one of them."
        )
    return found[0] if found else None


@contextlib.contextmanager
def _listing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"config.dataset is {path!r}, which cannot be listed ({error.strerror}); wanted a folder that can be read. Check "
            "its permissions and the disk."
        ) from error
