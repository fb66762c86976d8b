"""What is compiled for TPUs is compiled as for users."""

import pytest


@pytest.fixture(autouse=True)
def default_flags(child_env, monkeypatch):
    monkeypatch.setitem(child_env, "XLA_FLAGS", "")
