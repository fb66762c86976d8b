"""Backends that provide slices: each module of this folder is one, and its class `Backend` checks the spec's fields.

A config names the module: `backend = "local"` is local.py. There is no other list of backends.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable

from launch.spec import Spec
from redundancy.runtime.errors import UserError

NAMES = tuple(module.name for module in pkgutil.iter_modules(__path__))
# Kinds of errors after which a retry does not help.
PERMANENT = ("account", "permission", "invalid", "missing")


class CloudError(UserError):
    """An error with a `kind`: changed, exists, account, permission, capacity, unavailable, missing, invalid or other."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class Slices:
    """The interface of backends. A zone has at most one slice of a name. Besides the methods below:

    create(name, zone, labels, left_s)             requests a slice for at most `left_s` seconds, unless it exists
    describe(name, zone) -> Resource               raises only if a retry would not help
    delete(name, zone)                             requests the deletion of a slice, in any state, if it exists
    existing() -> list[Resource]                   all slices that this launcher has made, in all zones
    execute(name, zone, argv, workers, timeout)    runs a command on hosts (on all if `workers` is empty) and returns the output;
                                                   it may have run on fewer hosts, or repeatedly, as only the output shows
    plan(name, zone, labels, left_s, argv)         the commands of a run, for people
    check_workdir(workdir)                         raises ConfigError if the results would be lost with the slice

    Attributes:
      zones: zones to try; chips: number of chips of a slice; kind: description of the slice.
      files: uri(path), read(path) or None, generation(path) or 0, lines(pattern), names(folder), and write(path, data,
        generation), which raises CloudError("changed") if the file's generation differs.
      python: path of Python on the hosts; None if the launcher installs it.
      devices: device files of the chips, which only one process may hold; env: environment variables of the program.
      topology: name for `redundancy preflight --topology`; None if there is nothing to compile for.
    """

    python: str | None = None
    devices: tuple[str, ...] = ()
    topology: str | None = None

    def __init__(self, spec: Spec, zones: tuple[str, ...], chips: int, kind: str, files):
        self.spec, self.zones, self.chips, self.kind, self.files, self.env = spec, zones, chips, kind, files, {}

    def delete_argv(self, name: str, zone: str) -> list[str] | None:
        """The command that deletes a slice, for people and for its hosts; None if there is no such command."""

    def denied(self, said: str) -> bool:
        """Whether the output of `execute` says that this account may not run commands there."""
        return False

    def warning(self) -> str | None:
        """A warning if something makes a run slow or expensive."""

    def checks(self) -> Iterable[tuple[str, Callable[[], str], str]]:
        """Checks for preflight: the subject, a function that raises UserError or ValueError, and what is expected."""
        return ()


def backend(spec: Spec) -> Slices:
    """The backend that the spec names; raises ConfigError if there is none, or a field does not suit it."""
    spec.need(spec.backend in NAMES, "backend", " or ".join(NAMES))
    return importlib.import_module(f"launch.backends.{spec.backend}").Backend(spec)
