"""Accelerators work on large classes alone, and the choice changes no merge. A stand-in is the accelerator."""

import dataclasses

import jax
import numpy as np
import pytest
from oracle import assert_same

from redundancy.linkage import complete, devices, dissimilarity, near


@dataclasses.dataclass(frozen=True)
class Device:
    """What of a device is looked at; nothing can be computed on it."""

    platform: str


GPU, CPU = Device("gpu"), Device("cpu")


@pytest.mark.parametrize(("n", "there", "host", "expected"), [
    (5_000, [GPU], [CPU], [CPU]),
    (devices.LEAST - 1, [GPU, GPU], [CPU], [CPU]),
    (devices.LEAST, [GPU, GPU], [CPU], [GPU, GPU]),
    (5_000, [GPU], [], [GPU]),
    (5_000, [CPU, CPU], [CPU], [CPU, CPU]),
    (10**7, [CPU], [CPU], [CPU]),
])  # fmt: skip
def test_the_choice(n, there, host, expected):
    assert devices.chosen(n, there, host) == expected


@pytest.fixture
def a_gpu(monkeypatch):
    """JAX's own choice is an accelerator."""
    real = jax.local_devices
    monkeypatch.setattr(jax, "local_devices", lambda backend=None: real(backend=backend) if backend else [GPU])


@pytest.mark.parametrize("kept", [0.9, 0.1])
def test_small_classes_are_linked_by_the_cores(kept, monkeypatch, request):
    embeddings = np.random.default_rng(0).normal(size=(1500, 40)).astype(np.float32)
    num_merges = 1500 - round(kept * 1500)
    expected = complete.complete_linkage(embeddings, num_merges)
    request.getfixturevalue("a_gpu")
    monkeypatch.setattr(complete, "dense_is_quicker", lambda *sizes: False)
    assert_same(complete.complete_linkage(embeddings, num_merges), expected)


def test_large_classes_are_the_accelerators(a_gpu, monkeypatch):
    units = dissimilarity.units(np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    assert near.Near(units)._on_cpu
    monkeypatch.setattr(devices, "LEAST", 50)
    assert not near.Near(units)._on_cpu
