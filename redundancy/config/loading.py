"""Finds and runs configs: those that come with redundancy by name, others by path."""

import contextlib
import filecmp
import importlib
import os
import pathlib
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from redundancy.runtime.errors import ConfigError, UserError, nearest

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def shipped() -> dict[str, pathlib.Path]:
    """The files of the configs that come with redundancy, by name."""
    folder = _PACKAGE / "configs"  # in an installed wheel, see setup.py
    if not folder.is_dir():
        folder = _PACKAGE.parent / "configs"  # in a checkout
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def find(name: str) -> pathlib.Path:
    """The file of a config.

    Args:
      name: name of a config that comes with redundancy; or a path, which has a slash or ends in .py.

    Raises:
      ConfigError: there is no such config, or the current folder has a file of that name, too.
    """
    known = shipped()
    if "/" in name or name.endswith(".py"):
        path = pathlib.Path(name).expanduser()
        if path.is_file():
            return path
        raise ConfigError(
            f"--config={name}: there is no file {name}. Wanted: a Python file with get_config(arg), or the name of a config "
            f"that comes with redundancy: {', '.join(known)}.{nearest(path.stem, known)}"
        )
    here = [file for file in (name, f"{name}.py") if os.path.isfile(file)]
    if name not in known:
        hint = f" For the file here: --config=./{here[0]}." if here else nearest(name, known)
        raise ConfigError(
            f"--config={name}: there is no config of this name.{hint} Wanted: one that comes with redundancy ({', '.join(known)}), "
            "or the path of a file, which has a slash or ends in .py."
        )
    if here and not filecmp.cmp(here[0], known[name], shallow=False):
        raise ConfigError(
            f"--config={name} may be the file {here[0]} of this folder or the config that comes with redundancy. Wanted: "
            f"./{here[0]} or {known[name]}."
        )
    return known[name]


def load(given: str) -> Any:
    """The result of a config's get_config, which should be an `ml_collections.ConfigDict`. `resolve` checks it.

    Args:
      given: NAME[:ARG] or FILE[:ARG], as on the command line; get_config is called with ARG, or with nothing.

    Raises:
      ConfigError: there is no such config, or it fails.
    """
    name, colon, argument = given.partition(":")
    return evaluate(find(name), *([argument] if colon else []))


def evaluate(path: str | os.PathLike, *arguments: str) -> Any:
    """The result of a Python file's get_config. The file may import modules from its folder, see `_beside`.

    Raises:
      ConfigError: the file cannot be read, has no get_config, or fails.
    """
    path = pathlib.Path(path).resolve()
    module = types.ModuleType(f"config of {path}")
    module.__file__, module.__package__ = str(path), path.parent.name
    try:
        with _beside(path):
            sys.modules[module.__name__] = module  # dataclasses look the module up there
            try:
                exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
                if callable(get_config := getattr(module, "get_config", None)):
                    return get_config(*arguments)
            finally:
                del sys.modules[module.__name__]
    except UserError:
        raise
    except Exception as error:
        raise ConfigError(f"the config file {path} cannot be read: {type(error).__name__}: {error}") from error
    raise ConfigError(f"the config file {path} has no function get_config(arg), which returns the config.")


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[None]:
    """Context in which the folder of a file and its parent come first in sys.path, and the current folder last.

    Imported modules from elsewhere with the name of a module beside the file are set aside. At exit sys.path is restored, and
    modules from folders that are not in it are removed from sys.modules.
    """
    before, modules = sys.path[:], dict(sys.modules)
    places = [str(path.parent), str(path.parent.parent)]
    added = {*places, os.getcwd()} - {*before}
    beside = {os.path.splitext(name)[0] for name in os.listdir(path.parent)} | {path.parent.name}
    for name in beside & {*sys.modules} - {"redundancy"} - sys.stdlib_module_names:
        found, there = PathFinder.find_spec(name, places), _spec(modules[name])
        # A module has precedence over a folder of its name without __init__.py, wherever it is.
        if found and there and (found.origin or not there.origin) and _places(found)[0] != _places(there)[0]:
            _forget(name)
    sys.path[:] = [*places, *before, os.getcwd()]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for name, module in [*sys.modules.items()]:
            if "." not in name and modules.get(name) is not module and added & {*_places(_spec(module))}:
                _forget(name)
        sys.path[:] = before  # not earlier, because the location of a folder without __init__.py depends on it
        sys.modules.update({name: module for name, module in modules.items() if name not in sys.modules})


def _spec(module: types.ModuleType) -> ModuleSpec | None:
    return getattr(module, "__spec__", None)


def _places(spec: ModuleSpec | None) -> list[str]:
    """The folders of a module or package, in order; a namespace package may have several."""
    files = (spec.submodule_search_locations or [spec.origin or ""]) if spec else []
    return [os.path.dirname(file) for file in files]


def _forget(name: str) -> None:
    """Removes a module with its submodules from sys.modules."""
    for each in [*sys.modules]:
        if each == name or each.startswith(f"{name}."):
            del sys.modules[each]
