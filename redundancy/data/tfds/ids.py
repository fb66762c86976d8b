"""TFDS's own ids of examples, derived from the files in a data set's fingerprint. Never imports TensorFlow.

With `tfds.ReadConfig(add_tfds_id=True)` each example has the id FILE__NUMBER, with its number in the file from 0, for
example cifar10-train.tfrecord-00000-of-00001__123.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from redundancy.runtime.errors import DataError


def _next_shard(name: str) -> str | None:
    """'x-00004-of-00016' for 'x-00003-of-00016'; None if the name has no shard number."""
    found = re.fullmatch(r"(.*?)(\d+)(-of-\d+.*)", name)
    return f"{found[1]}{int(found[2]) + 1:0{len(found[2])}d}{found[3]}" if found else None


def describe_files(paths: Sequence[str], skips: Sequence[int]) -> list[list]:
    """A compact description, for the fingerprint, of a split's files in stored order and their skipped first examples.

    Returns:
      [name, skip, count] for each run of `count` files with consecutive shard numbers of which only the first skips
      examples; `name` and `skip` are those of the first file. [] if the files lie in several folders, since TFDS then
      includes a part of the folder in the ids.
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
    """The TFDS id of each position int64 [n] of the data set that has this fingerprint.

    Raises:
      DataError: the data set is not from TFDS, or its fingerprint does not name the files.
    """
    name, instead = fingerprint.get("name"), "export the positions, with --format npy, txt or parquet."
    if "version" not in fingerprint or "shard_lengths" not in fingerprint:
        raise DataError(
            f"the data set {name!r} is not one of TFDS, so its examples have no TFDS ids. Wanted: a subset of a TFDS data "
            f"set; or {instead}"
        )
    if not fingerprint.get("files"):
        raise DataError(
            f"the fingerprint of {name!r} does not name the data set's files: an earlier version of redundancy wrote it, or "
            f"they lie in several folders. Make embeddings and subsets again in another --workdir, or {instead}"
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
