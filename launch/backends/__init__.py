"""Where slices come from. Each module of this folder is a backend: a class `Backend`, and `check(spec, need)` of its fields.

A config names the module: `backend = "local"` is local.py. Nothing else knows which backends there are.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from launch.records import Resource
from launch.spec import Spec
from redundancy.errors import UserError

NAMES = tuple(module.name for module in pkgutil.iter_modules(__path__))
# Kinds of errors after which trying again does not help.
PERMANENT = ("account", "permission", "invalid", "missing")


class CloudError(UserError):
    """The cloud did not do what was asked.

    `kind`: changed, exists, account, permission, capacity, unavailable, missing, invalid or other.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class Files(Protocol):
    """Small files below a root. `generation`: another number after each write; 0 where there is no file."""

    root: str

    def uri(self, path: str) -> str: ...
    def read(self, path: str) -> bytes | None: ...
    def generation(self, path: str) -> int: ...

    def write(self, path: str, data: bytes, generation: int | None = None) -> None:
        """Raises CloudError of kind "changed" where the file there is not that of `generation`."""

    def lines(self, pattern: str) -> list[bytes]:
        """Lines of all files that fit the pattern."""

    def names(self, path: str) -> list[str]:
        """Names in a folder."""


class Backend(Protocol):
    """Slices by name, and the files that go with them. A zone holds one slice of a name at most.

    Attributes:
      files: where code, records and logs lie.
      zones: to try; chips: of one slice; kind: of slice, in words.
      python: that the hosts have; None where one is set up.
      devices: files of the chips, which one process may hold; env: variables of the program.
    """

    files: Files
    zones: tuple[str, ...]
    chips: int
    kind: str
    python: str | None
    devices: tuple[str, ...]
    env: dict[str, str]

    def create(self, name: str, zone: str, labels: Mapping[str, str], left_s: float) -> None:
        """Asks for a slice that may last `left_s` seconds, unless there is one; returns before it is there."""

    def describe(self, name: str, zone: str) -> Resource:
        """What there is; raises only where asking again would not help."""

    def delete(self, name: str, zone: str) -> None:
        """Asks for the end of a slice, in whatever state it is; nothing where there is none."""

    def delete_argv(self, name: str, zone: str) -> list[str] | None:
        """The command that deletes a slice, for people and for its hosts; None where there is none."""

    def existing(self) -> list[Resource]:
        """Every slice that this launcher has made, in all zones."""

    def execute(self, name: str, zone: str, argv: Sequence[str], workers: Sequence[int], timeout: float) -> str:
        """What a command printed on hosts of a slice, on all where `workers` is empty, and what went wrong.

        It may have run on fewer hosts, and more than once: only its output says where it ran.
        """

    def denied(self, said: str) -> bool:
        """Whether what `execute` returned says that this account may not run commands there."""

    def plan(self, name: str, zone: str, labels: Mapping[str, str], left_s: float, argv: Sequence[str]) -> list[str]:
        """The commands of a run, for people."""

    def check_workdir(self, workdir: str) -> None:
        """Raises ConfigError where the results would not outlive the slice."""

    def warning(self) -> str | None:
        """What makes a run slow or dear, if anything does."""

    def checks(self) -> Iterable[tuple[str, Callable[[], str], str]]:
        """For preflight: what is looked at, the look, which raises UserError or ValueError, and what is wanted."""

    def topology(self) -> str | None:
        """As `redundancy preflight --topology` spells it; None where there is none to compile for."""


def module(name: str):
    return importlib.import_module(f"launch.backends.{name}")


def backend(spec: Spec) -> Backend:
    return module(spec.backend).Backend(spec)
