"""Lists a folder of images: image files, unsupported image files, and others. Opens only files of unknown kinds."""

import collections
import dataclasses
import os
from collections.abc import Iterable, Iterator

from redundancy.data import images
from redundancy.data.images import EXTENSIONS, UNREAD_EXTENSIONS
from redundancy.data.inputs import shown
from redundancy.runtime.errors import DataError

# Files that systems and tools put beside images, in any case of letters. They are ignored, as are hidden files.
_NOT_OURS = {
    "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "__macosx", "__pycache__", "$recycle.bin",
    "system volume information", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
# Kinds of files that are not images but often lie beside them; they are not opened.
_OTHER_KINDS = (
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".htm", ".pdf", ".log", ".ini",
    ".npy", ".npz", ".pkl", ".pt", ".pth", ".mat", ".h5", ".parquet", ".db", ".zip", ".tar", ".gz", ".py", ".sh",
)  # fmt: skip
_MOST_KINDS = 6  # largest number of kinds in a message


@dataclasses.dataclass
class Found:
    """Files below a folder, relative to the data set's folder.

    Attributes:
      images: image files of supported kinds, in the order of their paths.
      unread: other image files, with the reason why they are not read.
      others: files that are not images.
    """

    images: list[str] = dataclasses.field(default_factory=list)
    unread: dict[str, str] = dataclasses.field(default_factory=dict)
    others: list[str] = dataclasses.field(default_factory=list)

    def add(self, more: "Found") -> None:
        self.images += more.images
        self.unread |= more.unread
        self.others += more.others


def _is_ours(name: str) -> bool:
    return name[0] != "." and name.lower() not in _NOT_OURS


def entries(path: str) -> list[os.DirEntry]:
    """The entries of a folder, by name, without hidden ones and those that systems put there.

    Raises:
      DataError: the folder cannot be listed.
    """
    try:
        with os.scandir(path) as found:
            return sorted((entry for entry in found if _is_ours(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"{shown(path)} cannot be listed ({error.strerror}); wanted a folder that can be read. Check its permissions "
            "and the disk."
        ) from error


def is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of symbolic links
        return False


def folders(path: str) -> list[str]:
    """Names of the folders in a folder."""
    return [entry.name for entry in entries(path) if is_folder(entry)]


def has_images(path: str) -> bool:
    """Whether a folder directly contains image files."""
    endings = EXTENSIONS + UNREAD_EXTENSIONS
    return any(entry.name.lower().endswith(endings) and not is_folder(entry) for entry in entries(path))


def files(path: str) -> Iterator[os.DirEntry]:
    return (entry for entry in entries(path) if not is_folder(entry))


def below(root: str, relative: str) -> Found:
    """All files below the folder `relative` of the data set's folder `root`."""
    above, found = {_identity(root)}, Found()
    path = root
    for part in relative.split(os.sep):
        path = os.path.join(path, part)
        above.add(_identity(path))
    _walk(path, relative, above, found)
    found.images.sort()
    return found


def beside(path: str, relative: str) -> Found:
    """The files directly in the folder `path`, whose name is `relative`, '' for the data set's folder."""
    found = Found()
    for entry in files(path):
        _sort_in(os.path.join(relative, entry.name), entry.path, found)
    return found


def kinds(names: Iterable[str]) -> str:
    """The number of files of each kind, by the endings of their names: '7 .heic, 2 .svg'."""
    counts = collections.Counter(os.path.splitext(name)[1].lower() or "without an ending" for name in names)
    listed = [f"{count} {shown(kind)}" for kind, count in counts.most_common(_MOST_KINDS)]
    rest = sum(counts.values()) - sum(count for _, count in counts.most_common(_MOST_KINDS))
    return ", ".join(listed + ([f"{rest} of other kinds"] if rest else []))


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _walk(path: str, relative: str, above: set[tuple[int, int]], found: Found) -> None:
    """Adds the files below `path`. `above` are its parent folders, to which links may lead back."""
    for entry in entries(path):
        name = os.path.join(relative, entry.name)
        if not is_folder(entry):
            _sort_in(name, entry.path, found)
        elif (identity := _identity(entry.path)) not in above:
            before = len(found.images)
            _walk(entry.path, name, above | {identity}, found)
            if len(found.images) == before and entry.name.lower().endswith(EXTENSIONS):
                found.images.append(name)  # not a regular file, which its check will report


def _sort_in(name: str, path: str, found: Found) -> None:
    lowered = name.lower()
    if lowered.endswith(EXTENSIONS):
        found.images.append(name)
    elif lowered.endswith(UNREAD_EXTENSIONS):
        found.unread[name] = "is of a kind that is not read"
    elif lowered.endswith(_OTHER_KINDS):
        found.others.append(name)
    elif images.is_image(path):
        found.unread[name] = "is an image by its contents, and not by the ending of its name"
    elif os.path.islink(path) and not os.path.exists(path):
        found.unread[name] = "is a link to what is not there"
    else:
        found.others.append(name)
