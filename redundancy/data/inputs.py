"""Files and names that others made, at the border: may a file be opened, will it fit, can a name be used and shown.

Nothing but regular files is opened, so that no pipe or device can hang or be touched; nothing is ever unpickled.
"""

import contextlib
import os
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence

from redundancy import storage
from redundancy.config import CONTROLS
from redundancy.runtime import machine
from redundancy.runtime.errors import DataError

_SHOWN = 1000  # characters, of which a path may have more
_LONGEST_NAME = 1000
_LONGEST_TOLD = 100  # of a name that is wrong
_ALWAYS = 1 << 26  # bytes of memory that need not be asked for
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def shown(text: str) -> str:
    """A name as one line that any terminal, log and file can hold: controls and broken UTF-8 escaped, cut where long."""
    text = CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}…{text[-_SHOWN // 2 :]}"


def check_names(where: str, names: Sequence[str], what: str = "class name") -> None:
    """Raises DataError where a name cannot be told, shown or written: blank, with controls or broken UTF-8, or endless."""
    for name in names:
        wrong = (
            "is blank"
            if not name.strip()
            else "holds control characters, line breaks or broken UTF-8"
            if CONTROLS.search(name)
            else f"has {len(name)} characters"
            if len(name) > _LONGEST_NAME
            else ""
        )
        if wrong:
            raise DataError(
                f"{shown(where)}: the {what} '{shown(name[:_LONGEST_TOLD])}' {wrong}; wanted a text of one line, of at most "
                f"{_LONGEST_NAME} characters. Rename it."
            )


def unfit(path: str) -> str:
    """Why a local path must not be opened for reading: it is not there, or no regular file; '' where it may be."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if os.path.islink(path):
            return f"is a symbolic link to '{shown(os.readlink(path))}', which cannot be followed ({error.strerror})"
        return f"cannot be read ({error.strerror})"
    if not stat.S_ISREG(mode):
        return f"is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file"
    return "" if os.access(path, os.R_OK) else "cannot be read (Permission denied)"


def read_bytes(path: str) -> bytes:
    """The whole file, local or gs://.

    Raises:
      FileNotFoundError: a remote file is not there.
      DataError: it cannot be read, is no regular file, or is larger than the memory that is left.
    """
    try:
        if storage.is_local(path):
            local = path.removeprefix("file://")
            if problem := unfit(local):
                raise DataError(f"{shown(path)} {problem}; wanted a file that can be read. Check the path.")
            check_memory(path, "the file", os.path.getsize(local))
        return storage.read_bytes(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(
            f"{shown(path)} cannot be read ({error.strerror or error}); wanted a file that can be read. Check the path, "
            "its permissions and the disk."
        ) from error


def check_memory(path: str, what: str, wanted: int) -> None:
    """Raises DataError where `what` of the file `path` needs more bytes of memory than this process can get."""
    left = machine.available_memory()
    if wanted > max(left, _ALWAYS):
        raise DataError(
            f"{shown(path)}: {what} would take {_size(wanted)} of memory, and {_size(left)} are available. Use a machine "
            "with more memory, or a smaller file; where that much was not to be expected, the file is damaged."
        )


def _size(count: int) -> str:
    power = min(max(0, (count.bit_length() - 1) // 10), 6)
    return f"{count / 2 ** (10 * power):.4g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[power]}"


class _Quiet:
    """Counts who wants quiet: filters of warnings are the process's, and threads that set and reset them apart mix them."""

    def __init__(self):
        self._lock, self._count, self._catching = threading.Lock(), 0, None

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._count:
                self._catching = warnings.catch_warnings()
                self._catching.__enter__()
                warnings.simplefilter("ignore")
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                if not self._count:
                    self._catching.__exit__(None, None, None)


# Keeps the warnings of libraries that read a file, such as Pillow's, from the terminal; may be used in many threads at once.
quiet = _Quiet()
