"""A check around every test: if a test leaves something changed, it fails, and the change is undone.

It looks at the environment, the working directory, sys.path, signal handlers, settings of JAX and of logging, attributes
of the project's modules and classes and of a few standard modules, threads and child processes that go on, and new files
at the top of the checkout. The home folder is one of the session's own (conftest.py). What fixtures of a wider scope set up
in the middle of a test is theirs.
"""

import concurrent.futures.thread
import contextlib
import dataclasses
import gc
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import jax
import pytest

import redundancy.storage  # noqa: F401  (sets variables of the environment when it is imported)

REPO = pathlib.Path(__file__).resolve().parents[1]
WAIT_S = 60.0
STANDARD = (os, shutil, signal, subprocess, threading, time)
PROJECT = ("redundancy", "launch")
# What a module remembers on purpose, from its first use on.
REMEMBERED = {
    *(f"redundancy.storage.gcs.PatientGCSFileSystem.{name}" for name in ("_cache", "_latest", "_pid")),
    "redundancy.storage.retries.Patience._last_line",
}
# SIGALRM is pytest-timeout's.
_SIGNALS = [each for each in signal.valid_signals() if isinstance(each, signal.Signals) and each != signal.SIGALRM]
# pytest sets the first, TensorFlow the others when it is first imported.
_NO_TEST_SETS = {
    "PYTEST_CURRENT_TEST", "ENABLE_RUNTIME_UPTIME_TELEMETRY", "HDF5_PLUGIN_PATH", "TF2_BEHAVIOR", "TPU_ML_PLATFORM",
    "TPU_ML_PLATFORM_VERSION",
}  # fmt: skip
_PLAIN = (str, bytes, int, float, bool, list)
_MISSING = object()


@dataclasses.dataclass
class Trace:
    """What tests may change, as it is now: plain values by name, values that are compared by identity, and what goes on."""

    values: dict[str, object]
    attributes: dict[str, tuple[object, dict[str, object]]]
    threads: set[threading.Thread]
    children: dict[int, str]
    files: set[pathlib.Path]


def take() -> Trace:
    values: dict[str, object] = {
        f"os.environ[{name!r}]": value for name, value in os.environ.items() if name not in _NO_TEST_SETS
    }
    values |= {f"jax.config.{name}": value for name, value in jax.config.values.items()}
    values |= {"working directory": os.getcwd(), "sys.path": sys.path[:], "sys.argv": sys.argv[:]}
    values |= {f"handler of {signal.Signals(each).name}": signal.getsignal(each) for each in _SIGNALS}
    values |= {f"level of logger {name}": logging.getLogger(name).level for name in ("root", "absl")}
    return Trace(values, _attributes(), _threads(), _children(), _files())


_classes: dict[
    str, tuple[types.ModuleType, dict[str, type]]
] = {}  # of each module, looked for once: 2,700 tests take time


def _classes_of(name: str, module: types.ModuleType) -> dict[str, type]:
    """The classes that a module of the project defines, by name."""
    if _classes.get(name, (None,))[0] is not module:
        own = [each for each in list(vars(module).values()) if isinstance(each, type) and each.__module__ == name]
        _classes[name] = module, {f"{name}.{each.__qualname__}": each for each in own}
    return _classes[name][1]


def _attributes() -> dict[str, tuple[object, dict[str, object]]]:
    """Of the standard modules, and of the project's modules and their classes: object and attributes, by name."""
    found: dict[str, object] = {module.__name__: module for module in STANDARD}
    for name, module in list(sys.modules.items()):
        if name.startswith(PROJECT) and module is not None:
            found[name] = module
            found |= _classes_of(name, module)
    return {name: (each, dict(vars(each))) for name, each in found.items()}


def _threads() -> set[threading.Thread]:
    """Those that go on by themselves; a pool's idle ones end with their pool."""
    return {
        each
        for each in threading.enumerate()
        if not each.daemon
        and each is not threading.current_thread()
        and getattr(each, "_target", None) is not concurrent.futures.thread._worker
    }


def _children() -> dict[int, str]:
    """Processes that this one started and that have not ended, with their commands; none where there is no /proc."""
    found = {}
    threads = os.listdir("/proc/self/task") if os.path.exists("/proc/self/task") else ()
    for thread in (*threads, *threads):  # the list of children may lack one while another ends
        with contextlib.suppress(OSError):
            for pid in _read(f"/proc/self/task/{thread}/children").split():
                command = _read(f"/proc/{int(pid)}/cmdline")
                if not command and _read(f"/proc/{int(pid)}/stat").rpartition(b")")[2].split()[0] == b"Z":
                    continue  # one that has just been started has no command either
                if b"multiprocessing.resource_tracker" not in command:  # it ends with this process
                    found[int(pid)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 1 << 16)
    finally:
        os.close(file)


def _files() -> set[pathlib.Path]:
    return {REPO / name for name in os.listdir(REPO)}


def untracked(path: pathlib.Path) -> bool:
    """Whether a file is there that git neither knows nor ignores."""
    done = subprocess.run(["git", "status", "--porcelain", "--", str(path)], cwd=REPO, capture_output=True, text=True)
    return bool(done.stdout)


def undo(before: Trace, wait_s: float | None = None) -> list[str]:
    """Restores what can be restored, and returns what it was.

    Args:
      wait_s: threads and processes that are about to end have that long; None: WAIT_S.
    """
    now, found = take(), []
    for name, old, new in _differences(before.values, now.values):
        found.append(f"{name} is {_shown(new)}, was {_shown(old)}")
        _restore(name, old)
    for name, (each, old_ones) in before.attributes.items():
        if name not in now.attributes:
            if sys.modules.get(name) is not each and isinstance(each, types.ModuleType):
                found.append(f"module {name} is gone")
                sys.modules[name] = each
            continue
        new_each, new_ones = now.attributes[name]
        if new_each is not each:
            found.append(f"{name} is another {type(each).__name__}")
            if isinstance(each, types.ModuleType):
                sys.modules[name] = each
            continue
        for key, old, new in _differences(old_ones, new_ones):
            if f"{name}.{key}" in REMEMBERED or (old is _MISSING and _by_import(key, new)):
                continue
            found.append(f"{name}.{key} is {_shown(new)}, was {_shown(old)}")
            delattr(each, key) if old is _MISSING else setattr(each, key, old)
    if now.threads - before.threads:
        gc.collect()  # a pool ends its threads with itself
    deadline = time.monotonic() + (WAIT_S if wait_s is None else wait_s)
    for thread in now.threads - before.threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            found.append(f"thread {thread.name} goes on")
    left = now.children.keys() - before.children.keys()
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left &= _children().keys()
    for pid in left:
        found.append(f"process {pid} goes on: {now.children.get(pid, '')}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    found += [f"{path} is new (by this test, or beside it)" for path in now.files - before.files if untracked(path)]
    return sorted(found)


def _differences(old: dict, new: dict) -> list[tuple[str, object, object]]:
    """The names whose values differ, and both values. Of what is no plain value, only itself is the same."""
    found = []
    for name, value in new.items():
        was = old.get(name, _MISSING)
        if was is not value and (type(was) is not type(value) or type(value) not in _PLAIN or was != value):
            found.append((name, was, value))
    return found + [(name, value, _MISSING) for name, value in old.items() if name not in new]


def _shown(value: object) -> str:
    return "absent" if value is _MISSING else repr(value)[:200]


def _by_import(name: str, value: object) -> bool:
    """Whether importing submodules, or Python itself, adds such an attribute."""
    return isinstance(value, types.ModuleType) or (name.startswith("__") and name.endswith("__"))


def _restore(name: str, value: object) -> None:
    kind, _, which = name.partition("[")
    if kind == "os.environ":
        key = which[1:-2]
        os.environ.pop(key, None) if value is _MISSING else os.environ.__setitem__(key, value)
    elif name.startswith("jax.config."):
        jax.config.update(name.removeprefix("jax.config."), value)
        jax.clear_caches()
    elif name == "working directory":
        os.chdir(value)
    elif name in ("sys.path", "sys.argv"):
        getattr(sys, name.removeprefix("sys."))[:] = value
    elif name.startswith("handler of "):
        signal.signal(signal.Signals[name.removeprefix("handler of ")], value or signal.SIG_DFL)
    elif name.startswith("level of logger "):
        logging.getLogger(name.removeprefix("level of logger ")).setLevel(value)


_BEFORE = pytest.StashKey[Trace]()


@pytest.fixture(autouse=True)
def leaves_no_trace(request):
    """The first of a test's own fixtures, so the last to be torn down."""
    request.config.stash[_BEFORE] = take()
    yield
    before = request.config.stash[_BEFORE]
    del request.config.stash[_BEFORE]
    if found := undo(before):
        pytest.fail("this test has left traces, which are removed now:\n  " + "\n  ".join(found), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    """What a fixture of a wider scope sets up in the middle of a test is no trace of the test."""
    before = request.config.stash.get(_BEFORE, None)
    if before is None or fixturedef.scope == "function":
        return (yield)
    start = take()
    try:
        return (yield)
    finally:
        end = take()
        _move(start.values, end.values, before.values)
        for name in start.attributes.keys() & end.attributes.keys() & before.attributes.keys():
            _move(*(each.attributes[name][1] for each in (start, end, before)))
        before.threads |= end.threads - start.threads
        before.children |= {pid: end.children[pid] for pid in end.children.keys() - start.children.keys()}
        before.files |= end.files - start.files


def _move(start: dict, end: dict, baseline: dict) -> None:
    """What has changed between start and end is so in the baseline, too."""
    for name, _, new in _differences(start, end):
        baseline.pop(name, None) if new is _MISSING else baseline.update({name: new})


# At the end of the session: what lies deeper in the checkout.

_UNTRACKED = pytest.StashKey[set[str]]()


def _status() -> set[str]:
    argv = ["git", "status", "--porcelain", "--untracked-files=all"]
    try:
        lines = subprocess.run(argv, cwd=REPO, capture_output=True, text=True).stdout.splitlines()
    except OSError:  # no git
        return set()
    return {line[3:] for line in lines if line.startswith("??")}


def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"):
        session.config.stash[_UNTRACKED] = _status()


def pytest_sessionfinish(session):
    if (before := session.config.stash.get(_UNTRACKED, None)) is not None and (left := _status() - before):
        sys.stderr.write(f"\nERROR: files were left in the checkout: {', '.join(sorted(left))}\n")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
