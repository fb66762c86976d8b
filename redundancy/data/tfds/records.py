"""Reads single records of TFRecord files on a local disk. Never imports TensorFlow.

A record consists of its length (8 bytes, little-endian), 4 bytes of checksum, the data, and 4 bytes of checksum. The records of
a file are located once, by reading all lengths. Checksums are not verified here, since opening the data set has done so.
"""

import functools
import io
import os
from collections.abc import Sequence

import numpy as np

from redundancy.runtime.errors import DataError

_OPEN_FILES = 128
_HEADER, _FOOTER = 12, 4


class RecordFiles:
    """The records of some files, or parts of files, by position; thread-safe."""

    def __init__(self, files: Sequence[str], skips: Sequence[int], takes: Sequence[int]):
        """Opens nothing yet. Of each file, the first `skips` records are left out, and the next `takes` are used."""
        self._files, self._skips = files, skips
        self._ends = np.cumsum(takes)
        self._offsets = [None] * len(files)
        # A file that is evicted is closed when the last thread that reads it drops its reference.
        self._opened = functools.lru_cache(maxsize=_OPEN_FILES)(lambda shard: io.FileIO(files[shard]))

    def read(self, positions: np.ndarray) -> np.ndarray:
        """The records at positions int64 [n], as bytes objects [n]. Raises DataError if a file is missing or too short."""
        shards = np.searchsorted(self._ends, positions, side="right")
        found = np.empty(len(positions), object)
        for row, (shard, position) in enumerate(zip(shards.tolist(), positions.tolist(), strict=True)):
            found[row] = self._record(shard, position)
        return found

    def _record(self, shard: int, position: int) -> bytes:
        try:
            file = self._opened(shard)
            if self._offsets[shard] is None:
                self._offsets[shard] = self._find(file, shard)
            end = self._offsets[shard]
            number = position - self._ends[shard]  # from the end
            begin, size = end[number - 1] + _HEADER, end[number] - end[number - 1] - _HEADER - _FOOTER
            data = os.pread(file.fileno(), size, begin)
        except OSError as error:
            raise DataError(f"{self._files[shard]} cannot be read ({error.strerror or error})") from error
        if len(data) < size:
            raise self._short(shard)
        return data

    def _find(self, file, shard: int) -> np.ndarray:
        """int64 [takes + 1]: the start of the first record and the end of each record."""
        count = int(self._ends[shard] - (self._ends[shard - 1] if shard else 0))
        offset, skip = 0, self._skips[shard]
        offsets = np.empty(count + 1, np.int64)
        for number in range(skip + count):
            if number >= skip:
                offsets[number - skip] = offset
            header = os.pread(file.fileno(), 8, offset)
            if len(header) < 8:
                raise self._short(shard)
            offset += int.from_bytes(header, "little") + _HEADER + _FOOTER
        offsets[count] = offset
        return offsets

    def _short(self, shard: int) -> DataError:
        return DataError(f"{self._files[shard]} is truncated or damaged")
