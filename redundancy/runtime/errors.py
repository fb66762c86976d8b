"""Errors that a user can act on. cli.main prints only their text; every other exception is a bug.

ConfigError and DataError are also ValueErrors, as Python callers expect for wrong input.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Some input is wrong; the text names the file or field, what was found, what is expected, and a remedy."""


class ConfigError(UserError, ValueError):
    """A field of the config, or the config as a whole, is wrong."""


class DataError(UserError, ValueError):
    """A data set, or an artifact read from disk, is wrong."""


class WorkdirError(UserError):
    """The workdir cannot be used: it has another config, is not writable, or lacks an earlier stage."""


class StorageError(UserError):
    """The storage refused a request, or could not be reached for some minutes."""


class Preempted(SystemExit):
    """This process received SIGTERM and has saved its work: exit code 75, EX_TEMPFAIL of sysexits.h.

    Not a subclass of Exception, so that no handler catches it by accident. Uncaught, it ends the process with this code.
    """

    def __init__(self, *_):
        super().__init__(75)


def nearest(name: str, known: Iterable[str], count: int = 1) -> str:
    """' Did you mean "x"?' for the known names that are nearest to `name` or begin with it; '' if there is none."""
    known = list(known)
    matches = difflib.get_close_matches(name, known, n=count, cutoff=0.6)
    matches = (matches or [each for each in known if name and each.startswith(f"{name}_")])[:count]
    quoted = " or ".join(f'"{match}"' for match in matches)
    return f" Did you mean {quoted}?" if matches else ""
