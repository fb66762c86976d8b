"""Single records of TFRecord files on a local disk, read from where they lie. Never imports TensorFlow.

A record is its length (8 bytes, little-endian), 4 bytes of checksum, the data, 4 bytes of checksum. Where records lie is
found once for each file, by going from length to length. Checksums are not looked at: what opens a data set has read all
labels, with checksums, since the files last changed.
"""

import functools
import os
from collections.abc import Sequence

import numpy as np

from redundancy.runtime.errors import DataError

_OPEN_FILES = 128
_HEADER, _FOOTER = 12, 4


class RecordFiles:
    """The records of some files, or parts of them, by position; safe to use in several threads."""

    def __init__(self, files: Sequence[str], skips: Sequence[int], takes: Sequence[int]):
        """Opens nothing yet.

        Args:
          files: paths.
          skips, takes: records to leave out at the start of each file, and to count after that.
        """
        self._files, self._skips = files, skips
        self._ends = np.cumsum(takes)
        self._offsets = [None] * len(files)
        # A file that falls out is closed when the last thread that reads it has let go of it.
        self._opened = functools.lru_cache(maxsize=_OPEN_FILES)(self._open)

    def read(self, positions: np.ndarray) -> np.ndarray:
        """The records at positions int64 [n]: bytes objects [n].

        Raises:
          DataError: a file is missing or too short.
        """
        shards = np.searchsorted(self._ends, positions, side="right")
        found = np.empty(len(positions), object)
        for row, (shard, position) in enumerate(zip(shards.tolist(), positions.tolist(), strict=True)):
            found[row] = self._record(shard, position)
        return found

    def _open(self, shard: int):
        return open(self._files[shard], "rb", buffering=0)

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
        """int64 [takes + 1]: where the first record begins and where each one ends."""
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
