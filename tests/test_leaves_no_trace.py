"""A test that leaves something changed fails, and the change is undone before the next test."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from redundancy.workdir import lease
from tests import leaves_no_trace
from tests.leaves_no_trace import take, undo

LEAVES = {
    "os.environ['LEFT'] is 'x', was absent": "os.environ['LEFT'] = 'x'",
    "os.environ['HOME'] is absent, was ": "del os.environ['HOME']",
    "working directory is '/', was ": "os.chdir('/')",
    "sys.path is ": "sys.path.insert(0, '/none')",
    "sys.argv is ": "sys.argv.append('more')",
    "handler of SIGTERM is <Handlers.SIG_IGN: 1>, was ": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "redundancy.workdir.lease.STALE_S is 1, was 60.0": "lease.STALE_S = 1",
    "redundancy.workdir.lease.left is 1, was absent": "lease.left = 1",
    "redundancy.workdir.lease.Lease.acquire is None, was ": "lease.Lease.acquire = None",
    "time.sleep is None, was ": "time.sleep = None",
    "jax.config.jax_enable_x64 is True, was False": "jax.config.update('jax_enable_x64', True)",
    "level of logger absl is 50, was ": "logging.getLogger('absl').setLevel(50)",
    "process ": "subprocess.Popen(['sleep', '600'])",
}
MODULE = """
import logging, os, signal, subprocess, sys, time
import jax, pytest
from redundancy.workdir import lease
from tests.leaves_no_trace import take, undo
before = take()
def test_leaves():
    {code}
def test_finds_all_as_it_was():
    assert undo(before, wait_s=0) == []
@pytest.fixture(scope="module")
def wide():
    lease.left = 1
    os.environ["LEFT"] = "x"
    yield
    del lease.left, os.environ["LEFT"]
def test_asks_for_a_fixture_of_a_wider_scope(request):
    request.getfixturevalue("wide")
def test_uses_it(wide, monkeypatch):
    monkeypatch.setattr(lease, "left", 2)
"""


@pytest.mark.parametrize("line", LEAVES)
def test_the_test_that_leaves_a_trace_fails_and_not_the_next(line, pytester, monkeypatch):
    monkeypatch.setattr(leaves_no_trace, "WAIT_S", 0.1)
    pytester.makepyfile(MODULE.replace("{code}", LEAVES[line]))
    result = pytester.runpytest_inprocess("-p", "tests.leaves_no_trace", "-p", "no:randomly", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_leaves*", f"  {line.replace('[', '[[]')}*"])


def test_threads_and_processes_that_end_are_waited_for():
    before = take()
    thread = threading.Thread(target=threading.Event().wait, args=(0.1,))
    thread.start()
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    assert undo(before) == []
    assert not thread.is_alive()
    assert child.wait() == 0


def test_a_running_thread_is_reported():
    before, end = take(), threading.Event()
    thread = threading.Thread(target=end.wait, name="of a test")
    thread.start()
    try:
        assert undo(before, wait_s=0) == ["thread of a test goes on"]
    finally:
        end.set()
        thread.join()


def test_a_process_that_goes_on_is_killed():
    before = take()
    child = subprocess.Popen(["sleep", "600"])
    assert undo(before, wait_s=0) == [f"process {child.pid} goes on: sleep 600"]
    assert child.wait() == -signal.SIGKILL


def test_files_of_the_checkout_are_new_unless_git_knows_or_ignores_them(tmp_path, monkeypatch):
    monkeypatch.setattr(leaves_no_trace, "REPO", tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("ignored\n")
    subprocess.run(["git", "add", ".gitignore"], cwd=tmp_path, check=True)
    before = take()
    for name in ("ignored", "left"):
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text("ignored\nanother\n")
    assert undo(before) == [f"{tmp_path / 'left'} is new (by this test, or beside it)"]


def test_values_that_are_equal_but_not_the_same_are_no_trace(monkeypatch):
    monkeypatch.setattr(lease, "LOCK", ".lock")
    before = take()
    monkeypatch.setattr(lease, "LOCK", "".join([".", "lock"]))
    assert undo(before) == []
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "x")
    assert undo(before) == []
    assert os.environ["PYTEST_CURRENT_TEST"] == "x"
