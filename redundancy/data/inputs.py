"""Checks files and names from outside: whether a file can be opened and fits in memory, and whether a name can be shown.

Only regular files are opened, because pipes and devices could block or change.
"""

import os
import stat
import unicodedata
from collections.abc import Iterable, Sequence

from absl import logging

from redundancy import storage
from redundancy.config import CONTROLS
from redundancy.runtime import machine
from redundancy.runtime.errors import ConfigError, DataError
from redundancy.runtime.sizes import binary

_SHOWN = 1000  # largest number of characters
_LONGEST_NAME = 1000
_NO_WIDTH = dict.fromkeys((0x200B, 0x2060, 0xFEFF))  # invisible characters
_MOST_GROUPS = 10  # groups of similar names that are listed in warnings
_ALWAYS = 1 << 26  # bytes; smaller needs of memory are not checked
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def shown(text: str) -> str:
    """The text as one printable line: controls and broken UTF-8 are escaped, a long text is shortened in the middle."""
    text = CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}…{text[-_SHOWN // 2 :]}"


def check_names(where: str, names: Sequence[str], what: str = "class name") -> None:
    """Raises DataError if a name is blank, has more than 1000 characters, or contains control characters or broken UTF-8."""
    for name in names:
        if not name.strip():
            wrong = "is blank"
        elif CONTROLS.search(name):
            wrong = "holds control characters, line breaks or broken UTF-8"
        elif len(name) > _LONGEST_NAME:
            wrong = f"has {len(name)} characters"
        else:
            continue
        raise DataError(
            f"{shown(where)}: the {what} '{shown(name[:100])}' {wrong}; wanted a text of one line, of at most "
            f"{_LONGEST_NAME} characters. Rename it."
        )


def similar_names(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of different names that probably mean the same.

    They differ only in white space, in upper and lower case, or in the Unicode form of the same letters (NFC, NFD).

    Returns:
      the names of each group, in the order given; [] if there are no such groups.
    """
    groups: dict[str, dict[str, None]] = {}
    for name in names:
        folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
        groups.setdefault("".join(folded.translate(_NO_WIDTH).split()), {})[name] = None
    return [tuple(group) for group in groups.values() if len(group) > 1]


def warn_of_similar_names(where: str, names: Iterable[str], what: str = "class names") -> None:
    """Logs a warning for each group of `similar_names`; `where` is the file or folder with the names."""
    groups = similar_names(names)
    for group in groups[:_MOST_GROUPS]:
        logging.warning(
            "%s: the %s %s differ in white space, case or Unicode form alone and are most likely one class, but count as %d. "
            "If they are one, give them one name.",
            shown(where), what, " and ".join(map(_distinct, group)), len(group),
        )  # fmt: skip
    if len(groups) > _MOST_GROUPS:
        logging.warning("%s: so do %d more groups of %s.", shown(where), len(groups) - _MOST_GROUPS, what)


def _distinct(name: str) -> str:
    """A name in quotes, with characters escaped if it would look like another name, for example combining accents."""
    plain = unicodedata.normalize("NFC", name)
    accents = any(unicodedata.decomposition(letter) for letter in plain)
    return ascii(name) if accents or plain != name else repr(name)


def unfit(path: str) -> str:
    """The reason why a local path cannot be opened: missing, unreadable or not a regular file; '' if it can be opened."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if os.path.islink(path):
            return f"is a symbolic link to '{shown(os.readlink(path))}', which cannot be followed ({error.strerror})"
        return f"cannot be read ({error.strerror})"
    if not stat.S_ISREG(mode):
        return f"is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file"
    return "" if os.access(path, os.R_OK) else "cannot be read (Permission denied)"


def existing(what: str, path: str) -> str:
    """The path of a file without file:// and ~; raises ConfigError if it is missing or not a regular file.

    Args:
      what: text with the flag or field and the path, for messages.
      path: local or remote.
    """
    path = os.path.expanduser(storage.local_path(path))
    local = storage.is_local(path)
    if not (os.path.lexists(path) if local else storage.exists(path)):
        raise ConfigError(f"{what}: there is no such file. Check the path.")
    if local and (problem := unfit(path)):
        raise ConfigError(f"{what}, which {problem}; wanted a file. Check the path.")
    return path


def read_bytes(path: str) -> bytes:
    """The contents of an `existing` file; raises DataError if it cannot be read or does not fit in memory."""
    try:
        if storage.is_local(path):
            check_memory(path, "the file", os.path.getsize(path))
        return storage.read_bytes(path)
    except OSError as error:
        raise DataError(
            f"{shown(path)} cannot be read ({error.strerror or error}). Check the path, its permissions and the disk."
        ) from error


def check_memory(path: str, what: str, wanted: int) -> None:
    """Raises DataError if `what` of the file `path` needs more memory, in bytes, than this process can allocate."""
    left = machine.available_memory()
    if wanted > max(left, _ALWAYS):
        raise DataError(
            f"{shown(path)}: {what} would take {binary(wanted)} of memory, and {binary(left)} are available. Use a machine "
            "with more memory, or a smaller file; if that is more than the file can need, it is damaged."
        )
