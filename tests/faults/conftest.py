"""Fixtures for tests that kill."""

import pytest

from tests.command_server import Server


@pytest.fixture(scope="module")
def server(child_env, tmp_path_factory):
    """Runs command lines; programs are compiled as for users here."""
    started = Server({**child_env, "XLA_FLAGS": ""}, tmp_path_factory.mktemp("logs"))
    yield started
    started.close()
