"""Items of a streamed set: each image once, under the mask, for any number of processes."""

import numpy as np
import pytest

from redundancy import config as config_lib
from redundancy.data import open_dataset
from redundancy.training.feed import StreamingFeed
from redundancy.training.mesh import make_mesh


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_each_image_is_once_under_the_mask(digits_npz, count, ordered):
    config = config_lib.resolve({"dataset": str(digits_npz), "resident_mb": 0, "batch_size": 1})
    dataset = open_dataset(config)
    feed = StreamingFeed(config, dataset, make_mesh(config, num_trials=1))
    size = 16 * count
    for positions in (dataset.test.positions, dataset.test.positions[: size + 1], dataset.test.positions[:1]):
        seen = []
        for index in range(count):
            feed._shard = (index, count)
            items = list(feed.once("test", positions, size, ordered))
            assert len(items) == -(-len(positions) // size)
            for item, mask in items:
                assert item["image"].shape == (16, 8, 8, 1)
                rows, real = np.asarray(item["position"]), np.asarray(mask)
                assert np.array_equal(np.asarray(item["image"])[real], dataset.read("test", rows[real]))
                assert np.array_equal(np.asarray(item["label"])[real], dataset.test.labels[rows[real]])
                seen.append(rows[real])
        assert np.array_equal(np.sort(np.concatenate(seen)), positions)
