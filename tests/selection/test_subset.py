"""Subset files: which damage and which contradictions reading them reports."""

import numpy as np
import pytest

from redundancy import storage
from redundancy.runtime.errors import DataError
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.selection.subset import Subset, read_subset, write_subset


def test_a_damaged_finished_subset_is_named(synthetic):
    config, workdir = synthetic()
    link(config, workdir)
    select(config, workdir)
    path = workdir.subset("semantic-0.5000")
    storage.write_bytes(path, storage.read_bytes(path)[:100])
    with pytest.raises(DataError, match=f"{path} is missing, damaged"):
        select(config, workdir)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_subset(path)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"positions": [1, 3, 3]}, "position 3 in row 2 is not above"),
        ({"positions": [1, 5, 3]}, "position 3 in row 2 is not above"),
        ({"positions": [-1, 3, 5]}, "position -1; wanted 0…8"),
        ({"positions": [1, 3, 9]}, "position 9; wanted 0…8"),
        ({"kept": [False, False, False]}, "keeps none"),
        ({"kept": [True, True, True]}, "keeps 3 images, its metadata says 2"),
        ({"kept": [True, False, True], "group": [0, 1, 0]}, "wanted one of each"),
        ({"group": [0, 1, 2]}, "wanted one of each"),
        ({"metadata": {}}, "metadata has no 'method'"),
    ],
)
def test_a_wrong_subset_is_refused(tmp_path, changes, what):
    metadata = dict(method="semantic", layer="end", fraction=0.7, size=2, num_stored=9, fingerprint={})
    right = dict(positions=[1, 3, 5], labels=[0, 0, 1], group=[0, 0, 1], kept=[True, False, True], metadata=metadata)
    path = str(tmp_path / "subset.parquet")

    def write(positions, labels, group, kept, metadata):
        columns = np.array(positions), np.array(labels, np.int32), np.array(group), np.array(kept)
        write_subset(path, Subset(*columns, np.array([0, 0.5, 0]), metadata))

    write(**right)
    assert read_subset(path).kept_positions.tolist() == [1, 5]
    write(**{**right, **changes})
    with pytest.raises(DataError, match=what):
        read_subset(path)
