"""Finds the near pairs of a class in the faster of two ways: all blocks of rows (`pairs`) or boxes (`boxes`, `walk`, `panels`).

The choice is made from a sample and does not change the pairs. The work may be divided into parts for several machines, which
must then use the same plan. Knows nothing of merges.
"""

import dataclasses
import functools
from collections.abc import Callable

from redundancy.linkage import bounds, boxes, devices, pairs, panels, walk
from redundancy.linkage.bounds import Rows, Shortening
from redundancy.linkage.boxes import Boxes
from redundancy.linkage.dissimilarity import Units
from redundancy.linkage.pairs import Pairs
from redundancy.runtime.errors import DataError
from redundancy.runtime.machine import cores

LEAST = 1 << 14  # boxes are tried from this many images on; with fewer, they save less than the trial costs
_WORTH = 0.8
# With an accelerator, the host builds the tree, and products of single leaves are slower than those of blocks. According to
# the data sheet of an H100, a pair of leaves moves 0.3 MB in 100 ns; blocks take half as long for as many products.
LEAST_ON_ACCELERATOR, _WORTH_ON_ACCELERATOR, _LEAF_PAIR_ON_ACCELERATOR = 1 << 20, 0.25, 100.0
_ALIGNED = 512  # rows: a multiple of large classes' block size on CPU, so that no two parts compute the same block


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the pairs up to one threshold are found.

    Attributes:
      order: `Boxes.digest` if boxes are used; "" for all blocks of rows.
      nanoseconds: estimated time on one core.
    """

    order: str
    nanoseconds: float


def _rows(n: int, part: int, num_parts: int, aligned: int) -> tuple[int, int]:
    """The rows low ≤ i < high of a part, chosen so that all parts have about the same number of pairs i < j."""

    def border(number):
        row = n * (1 - (1 - number / num_parts) ** 0.5)
        return n if number == num_parts else min(n, int(row) // aligned * aligned)

    return border(part), border(part + 1)


class Near:
    """The near pairs of n images."""

    def __init__(self, units: Units):
        self.units = units
        self._planned: tuple[float, Plan, Shortening | None] | None = None

    @functools.cached_property
    def centred(self) -> Rows:
        return bounds.centred(self.units)

    @functools.cached_property
    def _on_cpu(self) -> bool:
        return devices.for_class(len(self.units))[0].platform == "cpu"

    @functools.cached_property
    def _boxes(self) -> Boxes | None:
        return boxes.make(self.centred, cores())

    def plan(self, threshold: float) -> Plan:
        """Chooses the faster way to the pairs up to a threshold, from a sample."""
        if self._planned is None or self._planned[0] != threshold:
            self._planned = threshold, *self._make_plan(threshold)
        return self._planned[1]

    def _make_plan(self, threshold: float) -> tuple[Plan, Shortening | None]:
        n, on_cpu = len(self.units), self._on_cpu
        if n < (LEAST if on_cpu else LEAST_ON_ACCELERATOR):
            return Plan("", 0.0), None
        if not on_cpu:
            if self._boxes is None or (left := walk.leaf_pairs_left(self._boxes, threshold)) > _WORTH_ON_ACCELERATOR:
                return Plan("", 0.0), None
            return Plan(self._boxes.digest, _LEAF_PAIR_ON_ACCELERATOR * left * self._boxes.num_leaves**2 / 2), None
        shortening = bounds.shortening(self.centred, threshold)
        if self._boxes is not None:
            found = walk.nanoseconds(self.units, self._boxes, threshold, shortening.nanoseconds)
            if found < _WORTH * shortening.nanoseconds:
                return Plan(self._boxes.digest, found), None
        return Plan("", shortening.nanoseconds), shortening

    def within(
        self,
        threshold: float,
        above: float = -1.0,
        part: tuple[int, int] = (0, 1),
        plan: Plan | None = None,
        limit: int | None = None,
        advance: Callable[[float], None] | None = None,
    ) -> Pairs:
        """The pairs i < j with above < dissimilarity ≤ threshold, see `pairs.within`.

        Args:
          threshold, above, limit, advance: see `pairs.within`.
          part: (k, m) for the k-th of m parts, 0 ≤ k < m.
          plan: plan for this threshold, the same for all parts; by default this machine makes one.

        Raises:
          TooManyPairs: there are more than `limit`.
          DataError: the leaves of the plan differ from those made on this machine.
        """
        plan = plan or self.plan(threshold)
        if plan.order:
            found = self._boxes
            if found is None or found.digest != plan.order:
                raise DataError(
                    "This machine puts the images of a class in another order than the one that planned the work, so "
                    "their parts would not fit together. Use workers of one kind of processor, or link on one machine."
                )
            within = functools.partial(walk.within, threads=cores()) if self._on_cpu else panels.within
            leaves = _rows(found.num_leaves, *part, 1)
            return within(self.units, found, threshold, above, leaves, limit=limit, advance=advance)
        low, high = _rows(len(self.units), *part, _ALIGNED)
        if low == high:
            return Pairs.none()
        known = self._planned[2] if self._planned is not None and self._planned[0] == threshold else None
        return pairs.within(
            self.units, threshold, above, (low, high), centred=self.centred, shortening=known, limit=limit,
            advance=advance,
        )  # fmt: skip
