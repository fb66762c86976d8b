"""Compiled programs are kept in the user's cache folder: a second start compiles nothing that takes long."""

import os
import pathlib
import subprocess
import sys

import pytest

from redundancy.storage import compiled_programs

CODE = """
import sys
from redundancy.storage import compiled_programs
compiled_programs.remember()
import jax, jax.numpy as jnp
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(float(jax.jit(lambda x: jnp.sin(x @ x).sum())(jnp.ones((8, 8)))))
print([event.rpartition("/")[2] for event in found if "compilation_cache/cache_" in event].count("cache_hits"))
"""


def started(home, **variables):
    """What two lines a process prints: the value, and how many programs it found."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_C", "JAX_P", "XDG_"))}
    env |= {"HOME": str(home), "JAX_PLATFORMS": "cpu", **variables}
    done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    value, hits = done.stdout.split()
    return value, int(hits)


def files(home):
    return [path for path in pathlib.Path(home).rglob("*") if path.is_file()]


def test_a_second_start_finds_what_the_first_compiled(tmp_path):
    first, second = started(tmp_path), started(tmp_path)
    assert first[0] == second[0]
    assert first[1] == 0
    assert second[1] > 0
    assert all(".cache/redundancy/programs/" in str(path) for path in files(tmp_path))


@pytest.mark.soak
@pytest.mark.parametrize("variables", [{compiled_programs.OFF: "1"}, {"HOME": "/proc/none"}])
def test_nothing_is_kept_where_it_is_turned_off_or_cannot_be_written(tmp_path, variables):
    started(tmp_path, **variables)
    assert not files(tmp_path)


def test_jaxs_own_variable_goes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    compiled_programs.remember()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path)
    assert not [*tmp_path.iterdir()]
