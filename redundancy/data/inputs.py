"""Checks files and names that others made: may a file be opened, does it fit in memory, can a name be shown.

Only regular files are opened, so that no pipe or device can hang or be touched.
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

_SHOWN = 1000  # characters
_LONGEST_NAME = 1000
_NO_WIDTH = dict.fromkeys((0x200B, 0x2060, 0xFEFF))  # spaces that nobody sees
_MOST_GROUPS = 10  # of similar names, warned of one by one
_ALWAYS = 1 << 26  # bytes of memory that are not checked
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def shown(text: str) -> str:
    """The text as one printable line: controls and broken UTF-8 escaped, the middle cut out if it is long."""
    text = CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}…{text[-_SHOWN // 2 :]}"


def check_names(where: str, names: Sequence[str], what: str = "class name") -> None:
    """Raises DataError if a name is blank, has more than 1000 characters, or holds controls or broken UTF-8."""
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
    """Groups of different names that are most likely meant as one.

    They differ in white space, in upper and lower case, or in the form in which Unicode writes the same letters (NFC, NFD).

    Returns:
      each group's names in the order given; [] where all names differ in more than that.
    """
    groups: dict[str, dict[str, None]] = {}
    for name in names:
        folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
        groups.setdefault("".join(folded.translate(_NO_WIDTH).split()), {})[name] = None
    return [tuple(group) for group in groups.values() if len(group) > 1]


def warn_of_similar_names(where: str, names: Iterable[str], what: str = "class names") -> None:
    """Warns of each group of `similar_names`; `where` is the file or folder that they are from."""
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
    """A name in quotes; escaped where it would look like another, as a combining accent does."""
    plain = unicodedata.normalize("NFC", name)
    accents = any(unicodedata.decomposition(letter) for letter in plain)
    return ascii(name) if accents or plain != name else repr(name)


def unfit(path: str) -> str:
    """Why a local path cannot be opened: it is missing, unreadable or no regular file; '' if it can."""
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
    """The path of a file without file:// and ~; raises ConfigError if it is not there, or no regular file.

    Args:
      what: names the flag or field and the path, for messages.
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
    """The whole of an `existing` file; raises DataError if it cannot be read or does not fit in memory."""
    try:
        if storage.is_local(path):
            check_memory(path, "the file", os.path.getsize(path))
        return storage.read_bytes(path)
    except OSError as error:
        raise DataError(
            f"{shown(path)} cannot be read ({error.strerror or error}). Check the path, its permissions and the disk."
        ) from error


def check_memory(path: str, what: str, wanted: int) -> None:
    """Raises DataError if `what` of the file `path` needs more bytes of memory than this process can get."""
    left = machine.available_memory()
    if wanted > max(left, _ALWAYS):
        raise DataError(
            f"{shown(path)}: {what} would take {binary(wanted)} of memory, and {binary(left)} are available. Use a machine "
            "with more memory, or a smaller file; if that is more than the file can need, it is damaged."
        )
