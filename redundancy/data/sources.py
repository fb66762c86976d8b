"""Opens the data set that config.dataset names, of any kind. TensorFlow is imported only for TFDS sets."""

import functools
import os
import re
from typing import Any

from redundancy import config as config_lib
from redundancy.data.dataset import Dataset
from redundancy.runtime.errors import ConfigError, DataError


@functools.lru_cache(maxsize=1)
def shared_dataset(config) -> Dataset:
    """`open_dataset`, cached: the same object for all stages of a process."""
    return open_dataset(config)


def open_dataset(config) -> Dataset:
    """Opens the data set that a config names; TFDS prepares it first if necessary.

    A name that TFDS knows means TFDS's data set, even if there is a folder of that name; ./digits means the folder.

    Args:
      config: resolved, frozen.

    Returns:
      the data set, with labels read, but not images.

    Raises:
      ConfigError: there is no such data set or split, or an image_size is needed.
      DataError: the data set is damaged, cannot be prepared, or has wrong labels.
    """
    config_lib.need_dataset(config, "what opens the data set")
    path = os.path.expanduser(config.dataset)
    if path.split(":")[0] == "generated":
        from redundancy.data.generated import open_generated

        return open_generated(config)
    if path.endswith(".npz"):
        from redundancy.data.arrays import open_arrays

        return open_arrays(config)
    is_folder = os.path.isdir(path) and not (path.isidentifier() and is_builder(path))
    if prepared := path if "://" in path else is_folder and _prepared(path):
        from redundancy.data.tfds.source import open_prepared

        return open_prepared(config, prepared)
    if is_folder:
        from redundancy.data.folder import open_folder

        return open_folder(config)
    if os.path.isfile(path):
        raise ConfigError(f"config.dataset is {path!r}, a file; wanted a folder, an .npz file or a TFDS name.")
    if path[0] in "./\\" or path != config.dataset or path.count("/") > 1:
        raise ConfigError(
            f"config.dataset is {config.dataset!r}, but there is no such folder or file (from {os.getcwd()}); "
            "check the path, or give a TFDS name such as 'cifar10'."
        )
    from redundancy.data.tfds.source import open_named

    return open_named(config)


def fingerprint(config) -> dict[str, Any] | None:
    """The fingerprint of the data set that a workdir's config names, see `config.known_as`.

    Returns:
      None for a name that is neither a path nor the workdir's name for its data set, since TFDS might download it.

    Raises:
      ConfigError, DataError: as `open_dataset`.
    """
    path, known = os.path.expanduser(config.dataset), config.get("known_as")
    place = path.startswith((".", os.sep)) or "://" in path or path.endswith(".npz") or os.path.isdir(path)
    named = known is not None and known["name"] == re.split("[/:]", path)[0]
    return shared_dataset(config).fingerprint if place or named else None


def is_builder(name: str) -> bool:
    """Whether TFDS has a data set of this name."""
    from redundancy.data.tfds.source import builder_names

    return name in builder_names()


def _prepared(path: str) -> str | None:
    """The folder with dataset_info.json: `path`, or the only version or config folder in it that has one."""
    if os.path.exists(os.path.join(path, "dataset_info.json")):
        return path
    try:
        folders = sorted(os.path.join(path, name) for name in os.listdir(path) if ".incomplete" not in name)
    except OSError as error:
        raise DataError(
            f"config.dataset is {path!r}, which cannot be listed ({error.strerror}); wanted a folder that can be read. Check "
            "its permissions and the disk."
        ) from error
    found = [folder for folder in folders if os.path.isfile(os.path.join(folder, "dataset_info.json"))]
    if len(found) > 1:
        raise ConfigError(
            f"config.dataset is {path!r}, which holds several prepared data sets: {', '.join(found)}; name one of them."
        )
    return found[0] if found else None
