"""TFDS's own ids of examples, from what a data set's fingerprint says of its files. Never imports TensorFlow.

`tfds.ReadConfig(add_tfds_id=True)` gives each example the id FILE__NUMBER, its number in its file counted from 0, for
example cifar10-train.tfrecord-00000-of-00001__123.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from redundancy.runtime.errors import DataError


def _next_shard(name: str) -> str | None:
    """'x-00004-of-00016' for 'x-00003-of-00016'; None where the name has no shard number."""
    found = re.fullmatch(r"(.*?)(\d+)(-of-\d+.*)", name)
    return f"{found[1]}{int(found[2]) + 1:0{len(found[2])}d}{found[3]}" if found else None


def describe_files(paths: Sequence[str], skips: Sequence[int]) -> list[list]:
    """The files of a split in few words, for its fingerprint.

    Args:
      paths: the split's files in stored order.
      skips: examples left out at the start of each, where the split is a slice.

    Returns:
      [name, skip, count] for each row of `count` files whose shard numbers follow one another and of which none but the
      first skips examples; `name` and `skip` are the first's. [] where the files lie in several folders: TFDS then
      puts a part of the folder in the ids.
    """
    split = [path.rpartition("/") for path in paths]
    if len({folder for folder, _, _ in split}) > 1:
        return []
    rows, following = [], None
    for (_, _, name), skip in zip(split, skips, strict=True):
        if name == following and not skip:
            rows[-1][2] += 1
        else:
            rows.append([name, int(skip), 1])
        following = _next_shard(name)
    return rows


def example_ids(fingerprint: Mapping[str, Any], positions: np.ndarray) -> list[str]:
    """The TFDS id of each position.

    Args:
      fingerprint: of the data set; `files` and `shard_lengths` are read.
      positions: int64 [n].

    Raises:
      DataError: the data set is not TFDS's, or its fingerprint does not tell the files.
    """
    name = fingerprint.get("name")
    if "version" not in fingerprint or "shard_lengths" not in fingerprint:
        raise DataError(
            f"the data set {name!r} is not one of TFDS, so its examples have no TFDS ids. Wanted: a subset of a TFDS "
            "data set; or export the positions, with --format npy, txt or parquet."
        )
    if not fingerprint.get("files"):
        raise DataError(
            f"the fingerprint of {name!r} does not name the data set's files: an earlier version of redundancy wrote "
            "it, or they lie in several folders. Make embeddings and subsets again in another --workdir, or export the "
            "positions, with --format npy, txt or parquet."
        )
    files, skips = [], []
    for first, skip, count in fingerprint["files"]:
        for number in range(count):
            files.append(first if not number else _next_shard(files[-1]))
            skips.append(0 if number else skip)
    ends = np.cumsum(fingerprint["shard_lengths"])
    shards = np.searchsorted(ends, positions, side="right")
    numbers = positions - (ends - fingerprint["shard_lengths"])[shards] + np.array(skips)[shards]
    return [f"{files[shard]}__{number}" for shard, number in zip(shards.tolist(), numbers.tolist(), strict=True)]
