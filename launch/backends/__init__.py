"""Where slices come from: each module of this folder is a backend, whose class `Backend` checks the spec's fields.

A config names the module: `backend = "local"` is local.py. Nothing else knows which backends there are.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable

from launch.spec import Spec
from redundancy.runtime.errors import UserError

NAMES = tuple(module.name for module in pkgutil.iter_modules(__path__))
# Kinds of errors after which trying again does not help.
PERMANENT = ("account", "permission", "invalid", "missing")


class CloudError(UserError):
    """Of a `kind`: changed, exists, account, permission, capacity, unavailable, missing, invalid or other."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class Slices:
    """What every backend has; a zone holds one slice of a name at most. Beside what is below:

    create(name, zone, labels, left_s)             asks for a slice that may last `left_s` seconds, unless there is one
    describe(name, zone) -> Resource               raises only if asking again would not help
    delete(name, zone)                             asks for the end of a slice, in whatever state it is, if there is one
    existing() -> list[Resource]                   every slice that this launcher has made, in all zones
    execute(name, zone, argv, workers, timeout)    what a command printed on hosts, on all if `workers` is empty; it may
                                                   have run on fewer, and more than once: only its output says where
    plan(name, zone, labels, left_s, argv)         the commands of a run, for people
    check_workdir(workdir)                         raises ConfigError if the results would not outlive the slice

    Attributes:
      zones: to try; chips: of one slice; kind: of slice, in words.
      files: uri(path), read(path) or None, generation(path) or 0, lines(pattern), names(folder), and write(path, data,
        generation), which raises CloudError("changed") if the file there is not of that generation.
      python: that the hosts have; None if the launcher installs one.
      devices: files of the chips, which one process may hold; env: variables of the program.
      topology: as `redundancy preflight --topology` spells it; None if there is none to compile for.
    """

    python: str | None = None
    devices: tuple[str, ...] = ()
    topology: str | None = None

    def __init__(self, spec: Spec, zones: tuple[str, ...], chips: int, kind: str, files):
        self.spec, self.zones, self.chips, self.kind, self.files, self.env = spec, zones, chips, kind, files, {}

    def delete_argv(self, name: str, zone: str) -> list[str] | None:
        """The command that deletes a slice, for people and for its hosts; None if there is none."""

    def denied(self, said: str) -> bool:
        """Whether what `execute` returned says that this account may not run commands there."""
        return False

    def warning(self) -> str | None:
        """What makes a run slow or dear, if anything does."""

    def checks(self) -> Iterable[tuple[str, Callable[[], str], str]]:
        """For preflight: what is looked at, the look, which raises UserError or ValueError, and what is wanted."""
        return ()


def backend(spec: Spec) -> Slices:
    """The backend that the spec names; raises ConfigError if there is none, or a field does not suit it."""
    spec.need(spec.backend in NAMES, "backend", " or ".join(NAMES))
    return importlib.import_module(f"launch.backends.{spec.backend}").Backend(spec)
