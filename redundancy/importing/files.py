"""Which files `--embeddings` names, in what order, and what files that cannot be read are."""

import contextlib
import glob
import os
import re
import zipfile
from collections.abc import Sequence

from redundancy import storage
from redundancy.data import inputs
from redundancy.runtime.errors import ConfigError, DataError

ORDERS = ("number", "text")
_KINDS = (".npy", ".parquet")
_WANTED = "wanted a .npy or .parquet file, or a folder or quoted pattern of them"
_SAVE = 'numpy.save("NAME.npy", {})'
# Ending: what such a file is, and what makes a readable one of it. None of them is opened to load anything.
_OTHERS = {
    ".npz": ("an archive of NumPy arrays", _SAVE.format('numpy.load(FILE)["ARRAY"]')),
    **dict.fromkeys(
        (".pt", ".pth"),
        ("a file of PyTorch, a pickle, which is never loaded", _SAVE.format("torch.load(FILE).float().numpy(force=True)")),
    ),
    **dict.fromkeys(
        (".pkl", ".pickle"), ("a pickle, which is never loaded: it can run any program", _SAVE.format("ARRAY"))
    ),
    ".safetensors": ("a file of tensors", _SAVE.format('safetensors.numpy.load_file(FILE)["TENSOR"]')),
    **dict.fromkeys((".h5", ".hdf5"), ("a file of HDF5", _SAVE.format('h5py.File(FILE)["DATASET"][:]'))),
    **dict.fromkeys(
        (".arrow", ".feather"),
        ("a file of Arrow", 'pyarrow.parquet.write_table(pyarrow.feather.read_table(FILE), "NAME.parquet")'),
    ),
    **dict.fromkeys((".csv", ".tsv", ".txt", ".json", ".jsonl"), ("a text", _SAVE.format("ARRAY"))),
}  # fmt: skip


def ending(path: str) -> str:
    """The ending of a file's name in lower case, such as ".npy"."""
    return os.path.splitext(path)[1].lower()


def other_kind(path: str) -> str:
    """What a file is that is not read, by its name, and how to make a readable one; '' if that is not known."""
    if ending(path) not in _OTHERS:
        return ""
    what, how = _OTHERS[ending(path)]
    if ending(path) == ".npz":
        with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:  # zipfile raises nearly anything
            names = ", ".join(name.removesuffix(".npy") for name in archive.namelist()[:10])
            what += f" ({inputs.shown(names)})"
    return f" is {what}. Write what you want of it by itself: {how}."


def find(path: str, order: str = "") -> list[str]:
    """The files of one kind, .npy or .parquet, that `path` names: one, those of a folder, or of a pattern.

    Args:
      path: local; or of Parquet files gs://, which is no pattern.
      order: one of ORDERS; or '' where both must agree.

    Raises:
      ConfigError: there are none, there are both kinds, or their order is not known.
      DataError: a folder cannot be listed.
    """
    there = _there(path)
    files = [name for name in there if ending(name) in _KINDS]
    if not files:
        if len(there) == 1:
            found = other_kind(there[0]) or f" ends in neither {' nor '.join(_KINDS)}; {_WANTED}."
            raise ConfigError(f"--embeddings={path}: {os.path.basename(there[0])}{found}")
        others = inputs.shown(", ".join(map(os.path.basename, there[:5]))) or "nothing"
        raise ConfigError(f"--embeddings={path}: no {' or '.join(_KINDS)} file among {others}; {_WANTED}.")
    kinds = {ending(name): name for name in files}
    if len(kinds) > 1:
        first, second = (os.path.basename(kinds[kind]) for kind in _KINDS)
        raise ConfigError(
            f"--embeddings={path} names files of two kinds, such as {first} and {second}; wanted one kind: quote a "
            'pattern that ends in it, such as "FOLDER/*.parquet".'
        )
    return _in_order(path, files, order)


def _there(path: str) -> list[str]:
    """What `path` names, of any kind."""
    missing = ConfigError(f"--embeddings={path}: there is no such file or folder; {_WANTED}.")
    if not storage.is_local(path):
        if ending(path) == ".npy":
            raise ConfigError(f"--embeddings={path}: a .npy file is mapped into memory; copy it to this machine first.")
        if not storage.exists(path):
            raise missing
        if ending(path) in _KINDS:
            return [path]
    elif not os.path.isdir(path):
        # A file whose name has brackets is no pattern.
        found = [path] if os.path.lexists(path) else [name for name in glob.glob(path) if os.path.isfile(name)]
        if not found:
            raise missing
        return found
    try:
        return [storage.join(path, name) for name in storage.list_dir(path)]
    except OSError as error:
        raise DataError(
            f"{path} cannot be listed ({error.strerror or error}); {_WANTED}. Check its permissions and the disk."
        ) from error


def _in_order(path: str, files: Sequence[str], order: str) -> list[str]:
    """The files by their names as text, or with the numbers in them as numbers."""
    text = sorted(files)
    # With zeros before them numbers are in the same order as texts; what has no number at some place stays where it is.
    number = sorted(text, key=lambda name: re.sub("[0-9]+", lambda digits: digits[0].zfill(1024), name))
    if not order and text != number:
        first, second = next(pair for pair in zip(text, number, strict=True) if len({*pair}) > 1)
        raise ConfigError(
            f"--embeddings={path}: as text {first} comes before {second}, by the numbers in their names after it. Labels, "
            "ids and positions go by the order of the files. Say which one is right: --order=number or --order=text."
        )
    return number if order == "number" else text
