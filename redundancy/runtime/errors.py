"""Errors a user can act on. cli.main prints their text alone; every other exception is a bug."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave is wrong: says which file or field, what was found, what is wanted, what to do."""


class ConfigError(UserError):
    """A field of the config, or the config as a whole, is wrong."""


class DataError(UserError):
    """A data set, or an artifact read from disk, is wrong."""


class WorkdirError(UserError):
    """The workdir cannot be used: another config's, unwritable, or an earlier stage is missing."""


class StorageError(UserError):
    """Storage cannot be reached, or refuses, and trying again for some minutes did not help."""


class Preempted(SystemExit):
    """This process was asked to end (SIGTERM), and what it had computed is saved: exit code 75, EX_TEMPFAIL of sysexits.h.

    No Exception: nothing may catch it by the way. A program that lets it pass ends with the code.
    """

    def __init__(self, *_):
        super().__init__(75)


def nearest(name: str, known: Iterable[str], count: int = 1) -> str:
    """' Did you mean "x"?' for the known names nearest to `name`, or that begin with it; '' when none does."""
    known = list(known)
    matches = difflib.get_close_matches(name, known, n=count, cutoff=0.6)
    matches = (matches or [each for each in known if name and each.startswith(f"{name}_")])[:count]
    quoted = " or ".join(f'"{match}"' for match in matches)
    return f" Did you mean {quoted}?" if matches else ""
