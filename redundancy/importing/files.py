"""Determines the kind of a file, the files that `--embeddings` names, and their order."""

import contextlib
import glob
import os
import re
import zipfile
from collections.abc import Sequence

from absl import logging

from redundancy import storage
from redundancy.data import inputs
from redundancy.runtime.errors import ConfigError, DataError

ORDERS = ("number", "text")
_KINDS = (".npy", ".parquet")
_WANTED = "wanted a .npy or .parquet file, or a folder or quoted pattern of them"
_SAVE = 'numpy.save("NAME.npy", {})'
# Kind -> description of such a file, and how to convert it to a readable one. These files are not loaded.
_OTHERS = {
    ".npz": ("an archive of NumPy arrays", _SAVE.format('numpy.load(FILE)["ARRAY"]')),
    ".pt": ("a file of PyTorch, a pickle, which is never loaded", _SAVE.format("torch.load(FILE).float().numpy(force=True)")),
    ".pkl": ("a pickle, which is never loaded: it can run any program", _SAVE.format("ARRAY")),
    ".safetensors": ("a file of tensors", _SAVE.format('safetensors.numpy.load_file(FILE)["TENSOR"]')),
    ".h5": ("a file of HDF5", _SAVE.format('h5py.File(FILE)["DATASET"][:]')),
    ".arrow": (
        "a file of Arrow",
        'pyarrow.parquet.write_table(pyarrow.feather.read_table(FILE), "NAME.parquet")',
    ),
    ".gz": ("compressed", "gzip -d FILE"),
    ".csv": ("a text", _SAVE.format("ARRAY")),
}  # fmt: skip
_SAME = {
    ".pq": ".parquet", ".parq": ".parquet", ".pth": ".pt", ".pickle": ".pkl", ".hdf5": ".h5", ".feather": ".arrow",
    ".tsv": ".csv", ".txt": ".csv", ".json": ".csv", ".jsonl": ".csv",
}  # fmt: skip
_BEGINNINGS = (
    (b"\x93NUMPY", ".npy"), (b"PAR1", ".parquet"), (b"PK\3\4", ".npz"), (b"\x89HDF\r\n", ".h5"), (b"ARROW1", ".arrow"),
    (b"\x1f\x8b", ".gz"), *((bytes((0x80, protocol)), ".pkl") for protocol in range(2, 6)),
)  # fmt: skip


def ending(path: str) -> str:
    """The file name extension in lower case, such as ".npy"."""
    return os.path.splitext(path)[1].lower()


def _named(path: str) -> str:
    """The kind of a file according to its name."""
    return _SAME.get(ending(path), ending(path))


def beginning(path: str) -> bytes:
    """The first bytes of a file; b"" if it is empty, not a regular file, or cannot be read."""
    if storage.is_local(path) and inputs.unfit(path):
        return b""
    with contextlib.suppress(OSError), storage.open_read(path) as file:
        return file.read(8)
    return b""


def kind(path: str) -> str:
    """The kind of a file as an extension, such as ".npy": from its first bytes, or else its name; '' if unknown."""
    named = _named(path)
    if named in _KINDS and not storage.is_local(path):
        return named  # saves a request for each of many parts
    start = beginning(path)
    found = next((kind for magic, kind in _BEGINNINGS if start.startswith(magic)), "")
    if found == ".npz" and (named == ".pt" or any(name.endswith("/data.pkl") for name in _members(path))):
        return ".pt"
    return found or (named if named in (*_KINDS, *_OTHERS) else "")


def _members(path: str) -> list[str]:
    """Names in a zip archive; [] if it cannot be read."""
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:  # zipfile raises many kinds of errors
        return archive.namelist()
    return []


def other_kind(path: str) -> str:
    """A description of an unsupported file, and how to convert it to a readable one; '' if unknown."""
    found = kind(path)
    if found not in _OTHERS:
        return ""
    what, how = _OTHERS[found]
    if found == ".npz" and (names := _members(path)):
        what += f" ({inputs.shown(', '.join(name.removesuffix('.npy') for name in names[:10]))})"
    return f" is {what}. Write what you want of it by itself: {how}."


def find(path: str, order: str = "") -> tuple[str, list[str]]:
    """The files of one kind that `path` names: one file, or those of a folder or a pattern.

    In a folder or pattern, these are the files that end in .npy, .parquet, .pq or .parq. If there are none, these are the files
    with the extension of a file that begins as such a file does, without names that begin with "_" or ".", such as _SUCCESS.

    Args:
      path: local; for Parquet files also gs://, but not a pattern.
      order: one of ORDERS; or '' to require that both agree.

    Returns:
      the kind, ".npy" or ".parquet", and the files in order.

    Raises:
      ConfigError: there are no files, both kinds, or the order is ambiguous.
      DataError: a folder cannot be listed.
    """
    there = _there(path)
    files = (
        there if len(there) == 1 and not os.path.isdir(there[0]) else [name for name in there if _named(name) in _KINDS]
    )
    if len(files) != len(there):
        visible = [name for name in there if name not in files and os.path.basename(name)[0] not in "_."]
        looked_at = (
            {ending(name): name for name in visible}.values() if files else visible
        )  # one is enough for a warning
        begun = {ending(name): name for name in looked_at if kind(name) in _KINDS}
        if files and begun:
            left_out = next(iter(begun.values()))
            logging.warning(
                "import: %s is not read, because its name ends differently from those that are, such as %s. To read it, give a "
                "quoted pattern.", left_out, files[0],
            )  # fmt: skip
        elif len(begun) > 1:
            first, second, *_ = begun.values()
            raise ConfigError(
                f"--embeddings={path} names files such as {first} and {second}, which end otherwise; quote a pattern of those "
                'that are wanted, such as "FOLDER/part-*".'
            )
        files = files or [name for name in visible if ending(name) in begun]
    if not files:
        others = inputs.shown(", ".join(map(os.path.basename, there[:5]))) or "nothing"
        raise ConfigError(f"--embeddings={path}: no {' or '.join(_KINDS)} file among {others}; {_WANTED}.")
    kinds: dict[str, str] = {}
    for name in files:
        found = kind(name)
        if found not in _KINDS:
            begins = f": it begins with {beginning(name)!r}" if beginning(name) else ", it is empty or cannot be read"
            what = other_kind(name) or f" is neither .npy nor Parquet{begins}; {_WANTED}."
            raise ConfigError(f"--embeddings={path}: {os.path.basename(name)}{what}")
        kinds.setdefault(found, name)
    if len(kinds) > 1:
        first, second = (os.path.basename(kinds[kind]) for kind in _KINDS)
        raise ConfigError(
            f"--embeddings={path} names files of two kinds, such as {first} and {second}; wanted one kind: quote a "
            'pattern that ends in it, such as "FOLDER/*.parquet".'
        )
    return next(iter(kinds)), _in_order(path, files, order)


def _there(path: str) -> list[str]:
    """The paths that `path` names, of any kind."""
    missing = ConfigError(f"--embeddings={path}: there is no such file or folder; {_WANTED}.")
    if not storage.is_local(path):
        if ending(path) == ".npy":
            raise ConfigError(f"--embeddings={path}: a .npy file is mapped into memory; copy it to this machine first.")
        if not storage.exists(path):
            raise missing
        if kind(path) in _KINDS:
            return [path]
    elif not os.path.isdir(path):
        # An existing file is not taken as a pattern, even if its name has brackets.
        found = (
            [path]
            if os.path.lexists(path)
            else [name for name in glob.glob(path, recursive=True) if os.path.isfile(name)]
        )
        if not found:
            raise missing
        return found
    try:
        there = [storage.join(path, name) for name in storage.list_dir(path)]
        inner = (name for name in there if os.path.basename(name)[0] != "_" and os.path.isdir(name))
        if deeper := next(filter(_holds_embeddings, inner), ""):
            raise ConfigError(
                f"--embeddings={path}: the folder {deeper} in it holds embeddings, too, and only those right in a folder are "
                'read. Quote a pattern, such as "FOLDER/**/*.parquet", or move the other files away.'
            )
        return there
    except OSError as error:
        raise DataError(
            f"{path} cannot be listed ({error.strerror or error}); {_WANTED}. Check its permissions and the disk."
        ) from error


def _holds_embeddings(folder: str) -> bool:
    """Whether a file below the folder does. Opens one file per extension, since a folder of images may have millions."""
    found = ((at, name) for at, _, names in os.walk(folder) for name in names if name[0] not in "_.")
    return any(kind(os.path.join(*file)) in _KINDS for file in {ending(file[1]): file for file in found}.values())


def _in_order(path: str, files: Sequence[str], order: str) -> list[str]:
    """Sorts files by their names, as text or with the numbers in them as numbers."""
    text = sorted(files)
    # Numbers that are padded with zeros sort like texts.
    number = sorted(text, key=lambda name: re.sub("[0-9]+", lambda digits: digits[0].zfill(1024), name))
    if not order and text != number:
        first, second = next(pair for pair in zip(text, number, strict=True) if len({*pair}) > 1)
        raise ConfigError(
            f"--embeddings={path}: sorted as text, {first} comes before {second}; sorted by number, after it. Labels, "
            "ids and positions follow the order of the files. Choose: --order=number or --order=text."
        )
    return number if order == "number" else text
