"""Programs for TPUs are compiled with the flags that users have, not with those of the tests."""

import pytest


@pytest.fixture(autouse=True)
def default_flags(child_env, monkeypatch):
    monkeypatch.setitem(child_env, "XLA_FLAGS", "")
