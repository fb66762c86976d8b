"""Paths as they are given: what is expanded, and what is refused with the path that is meant."""

import os

import pytest

from redundancy.runtime.errors import ConfigError
from redundancy.runtime.paths import given_path


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("gs:/b/x", "gs://b/x"),
        ("gs:b/x", "gs://b/x"),
        ("s3:/b/x", "s3://b/x"),
        ("file:/tmp/x", "file:///tmp/x"),
        ("HTTPS+x:/b", "HTTPS+x://b"),
    ],
)
def test_a_url_that_lost_slashes(given, meant):
    with pytest.raises(ConfigError) as found:
        given_path("--workdir", given)
    assert f"--workdir={given}: " in str(found.value)
    assert f"Wanted: {meant} (" in str(found.value)


def test_paths_that_stay(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ape")
    for path in ("gs://b/x", "/tmp/a:b", "./gs:/x", "cifar10:3.0.2", "generated:imagenet", "", "a~b", "file:///tmp/x"):
        assert given_path("--workdir", path) == path
    assert given_path("--workdir", "~/x") == "/home/ape/x"
    assert given_path("--workdir", "file://~/x") == "file:///home/ape/x"
    assert given_path("--workdir", f"~{os.environ.get('USER', 'root')}").startswith("/")
    with pytest.raises(ConfigError, match="~nobody-here is the home folder of nobody"):
        given_path("--workdir", "~nobody-here/x")
