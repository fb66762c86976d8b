"""A synthetic embedding store in a claimed workdir: what link and select need, with no images and no training."""

import numpy as np
import pytest

from redundancy import config as config_lib
from redundancy.embedding import write
from redundancy.linkage import batches
from redundancy.workdir import Workdir

FINGERPRINT = {"name": "synthetic", "split": "train", "shard_lengths": [99], "sha256": "5" * 64}


def make_workdir(root, sizes=(30, 1, 12, 7), dimension=5, num_parts=3, store_seed=0, layers=("end",), **fields):
    """A workdir whose embed stage is finished; class c has sizes[c] images. Returns (config, workdir)."""
    config = config_lib.resolve({"fractions": (0.9, 0.5), "trials": 2, "layers": layers, "steps": 2500, **fields})
    workdir = Workdir(str(root))
    workdir.claim(config)
    workdir.claim_dataset(FINGERPRINT)
    for layer in layers:
        write_store(workdir, layer, sizes, dimension, num_parts, store_seed)
    return config, workdir


def write_store(workdir, layer, sizes, dimension, num_parts, seed):
    generator = np.random.default_rng(seed)
    # Every third position is held out, as of a data set that has no test split.
    positions = np.array([position for position in range(2 * sum(sizes)) if position % 3][: sum(sizes)])
    labels = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    embeddings = generator.normal(size=(len(labels), dimension)).astype(np.float32)
    identity = {"layer": layer, "checkpoint": "step 7", "fingerprint": FINGERPRINT}
    parts = write.part_positions(positions, num_parts)
    for index, part in enumerate(parts):
        rows = np.searchsorted(positions, part)
        write.write_part(workdir.embeddings(layer), index, len(parts), part, labels[rows], embeddings[rows], identity)
    names = [f"class {label}" for label in range(len(sizes))]
    write.finish(workdir.embeddings(layer), len(parts), identity, names, 2 * sum(sizes))


@pytest.fixture
def synthetic(tmp_path):
    """Makes workdirs below tmp_path: synthetic(name, **make_workdir's arguments) -> (config, workdir)."""
    return lambda name="w", **arguments: make_workdir(tmp_path / name, **arguments)


@pytest.fixture
def one_by_one(monkeypatch):
    """Small classes are tasks of their own, as large ones are."""
    monkeypatch.setattr(batches, "TOGETHER", 0)
