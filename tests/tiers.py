"""The suite's two tiers: `make test` runs every behaviour once; `make soak` adds what takes long, and random tests anew.

Tests marked `soak` run in `make soak` alone. Hypothesis tests run in both: with fixed examples in the first, with four
times as many and a fresh seed, which is printed, in the second.
"""

import pytest
from hypothesis import HealthCheck, settings

_COMMON = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))
settings.register_profile("test", max_examples=60, derandomize=True, **_COMMON)
settings.register_profile("soak", max_examples=400, print_blob=True, **_COMMON)


def examples(number: int, **options) -> settings:
    """Hypothesis' settings for a test that tries so many examples in `make test`."""
    return settings(max_examples=max(1, number * settings.default.max_examples // 100), **options)


def soaked(*values) -> list:
    """Parameters of a test that are tried in `make soak` alone; a tuple has one for each name."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.soak) for value in values
    ]
