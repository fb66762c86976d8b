"""A folder of the kept images with a folder for each class: links to the files of the data set, or copies."""

import functools
import os
import shutil
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from redundancy import storage
from redundancy.export.request import Request
from redundancy.runtime import preemption
from redundancy.runtime.errors import ConfigError, DataError
from redundancy.runtime.progress import Progress
from redundancy.selection.subset import Subset
from redundancy.workdir import Workdir

_MAKE = {"symlink": os.symlink, "hard": os.link, "copy": shutil.copy2}


def classes(subset: Subset, rows: np.ndarray, class_names: Sequence[str] | None) -> list[str]:
    """The class name of each row, which is also the name of its folder; raises DataError if a name cannot be a folder name."""
    names = {
        label: str(label) if class_names is None else class_names[label]
        for label in np.unique(subset.labels[rows]).tolist()
    }
    for name in names.values():
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise DataError(f"the class {name!r} cannot be the name of a folder. Export a list instead: --format csv.")
    return [names[label] for label in subset.labels[rows].tolist()]


def root_of(request: Request, workdir: Workdir, config) -> str:
    """The folder that file names are relative to: --images, or the data set of the config or of the workdir.

    Raises:
      ConfigError: there is no such path, or it is not a folder.
    """
    recorded = storage.read_json(workdir.config).get("config", {}) if storage.exists(workdir.config) else {}
    root = request.images or (config or recorded).get("dataset") or ""
    if os.path.isdir(os.path.expanduser(root)):
        return os.path.abspath(os.path.expanduser(root))
    found = f"{root!r} is no folder" if root else "the workdir does not name one"
    raise ConfigError(
        f"--format folder makes links to the files of a folder of images, and {found}. Say with --images where the files lie, "
        "or export a list: --format csv."
    )


def _target(name: str, of_class: str) -> str:
    """The path of a file below its class folder: the part of its name after the class, or the base name."""
    parts = name.split("/")
    places = [place for place, part in enumerate(parts[:-1]) if part == of_class]
    below = parts[places[-1] + 1 :] if places else parts[-1:]
    return "/".join(below) if below and not {"", ".", ".."} & {*below} else parts[-1]


def _targets(names: Sequence[str], of_class: Sequence[str]) -> list[str]:
    """The path of each image in the new folder; all paths are different."""
    targets = [os.path.join(of, _target(name, of)) for name, of in zip(names, of_class, strict=True)]
    if len({*targets}) < len(targets):  # the same name in two folders
        targets = [
            os.path.join(of, name.lstrip("/").replace("/", "_")) for name, of in zip(names, of_class, strict=True)
        ]
    if len({*targets}) < len(targets):
        raise DataError("two images have the same name, so one folder cannot hold both. Export a list: --format csv.")
    return targets


def write(request: Request, ids: pa.Array | None, of_class: Sequence[str], workdir: Workdir, config) -> None:
    """Creates the folder atomically.

    Args:
      request: its `output` must not exist or be an empty folder.
      ids: [n] names of files, relative to `root_of` or absolute; None if there are none.
      of_class: [n] names of classes.
      workdir, config: as for `export`.

    Raises:
      ConfigError: images have no names, or the folder cannot be written.
      DataError: a file is missing.
    """
    if ids is None:
        raise ConfigError(
            "--format folder wants the files of images, and these have none. Export a list: --format csv."
        )
    root, names = root_of(request, workdir, config), [os.fsdecode(name) for name in ids.to_pylist()]
    sources = [os.path.join(root, name) for name in names]
    if missing := [source for source in sources if not os.path.isfile(source)]:
        raise DataError(
            f"{len(missing)} of {len(sources)} files are not there, for example {os.fsencode(missing[0])!r}. Say with --images "
            "where the images lie now."
        )
    if os.path.realpath(os.path.expanduser(storage.local_path(request.output))).startswith(
        f"{os.path.realpath(root)}/"
    ):
        raise ConfigError(
            f"--output={request.output} lies in the folder of images, {root}, whose folders are classes. Choose one elsewhere."
        )
    output, link = os.path.abspath(os.path.expanduser(storage.local_path(request.output))), request.link or "symlink"
    pairs = [*zip(sources, _targets(names, of_class), strict=True)]
    try:
        os.makedirs(os.path.dirname(output), exist_ok=True)
        scratch = os.path.join(os.path.dirname(output), f".{os.path.basename(output)}-{os.getpid()}")
        os.mkdir(scratch)
        try:
            removal = functools.partial(shutil.rmtree, scratch, ignore_errors=True)
            with preemption.before_end(removal), Progress("export", len(pairs), "images") as progress:
                for source, target in pairs:
                    path = os.path.join(scratch, target)
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    _MAKE[link](os.path.realpath(source) if link != "copy" else source, path)
                    progress.advance()
            os.rename(scratch, output)  # `output` is missing or an empty folder
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    except OSError as error:
        another = " Hard links do not reach other disks: give --link=symlink or --link=copy." if link == "hard" else ""
        raise ConfigError(
            f"--output={request.output} cannot be written ({error.strerror or error}); nothing was written.{another}"
        ) from error
