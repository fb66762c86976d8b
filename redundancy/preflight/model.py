"""What a chip would make of a program: times by arithmetic and by memory, and scaling over chips. Bounds, not forecasts.

A kernel reaches neither peak, so a real step is slower than these bounds; nothing here was measured on a TPU.
"""

import dataclasses
import math

from redundancy.preflight.generations import Generation


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Least seconds of one step on one chip.

    Attributes:
      flops_s: its FLOPs at the peak rate.
      hbm_s: its bytes across HBM at the peak bandwidth.
      bytes_accessed_s: all bytes that XLA counts at HBM's bandwidth: pessimistic, since many of them stay on the chip.
    """

    flops_s: float
    hbm_s: float
    bytes_accessed_s: float

    @property
    def least_s(self) -> float:
        return max(self.flops_s, self.hbm_s)

    @property
    def limit(self) -> str:
        return "FLOPs" if self.flops_s >= self.hbm_s else "HBM"


def roofline(generation: Generation, flops: float, hbm_bytes: float, bytes_accessed: float) -> Roofline:
    """Bounds of a program that does `flops` and moves these bytes on one chip."""
    return Roofline(
        flops / generation.flops, hbm_bytes / generation.hbm_bandwidth, bytes_accessed / generation.hbm_bandwidth
    )


def all_reduce_s(generation: Generation, num_bytes: float, chips: int) -> float:
    """Least seconds of a ring all-reduce: each chip sends 2 (n-1)/n of the array, half of it either way round the ring.

    One ring over two of the chip's links, as if the others were idle; latency is left out.

    Args:
      generation: of the chips.
      num_bytes: of the array.
      chips: n.
    """
    return 2 * (chips - 1) / chips * num_bytes / (2 * generation.link_bandwidth)


@dataclasses.dataclass(frozen=True)
class Scale:
    """Bounds for a number of chips with the same batch on each.

    Attributes:
      chips: how many.
      all_reduce_s: seconds of the gradients' all-reduce.
      hidden, exposed: images/s of all chips where the all-reduce runs beside the step, and where the step waits for it.
      hidden_efficiency, exposed_efficiency: the same by what as many chips would do without exchange.
    """

    chips: int
    all_reduce_s: float
    hidden: float
    exposed: float
    hidden_efficiency: float
    exposed_efficiency: float


def scaling(
    generation: Generation, step_s: float, images_per_chip: float, gradient_bytes: float, chips: list[int]
) -> list[Scale]:
    """Bounds of data-parallel training at each number of chips.

    Args:
      generation: of the chips.
      step_s: least seconds of a step on one chip without exchange.
      images_per_chip: of a step.
      gradient_bytes: that are summed over the chips at each step.
      chips: numbers of chips.
    """
    found = []
    for count in chips:
        exchange = all_reduce_s(generation, gradient_bytes, count)
        alone = count * images_per_chip / step_s
        hidden = count * images_per_chip / max(step_s, exchange)
        exposed = count * images_per_chip / (step_s + exchange)
        found.append(Scale(count, exchange, hidden, exposed, hidden / alone, exposed / alone))
    return found


def fitting_batch(
    images_per_chip: int, used: float, fixed: float, available: float, share: float = 0.9, whole: int = 1
) -> int:
    """Images a chip that would about fill `share` of the memory, if all but `fixed` grows with the batch; at least 0.

    Args:
      images_per_chip: batch that `used` was found with; what is returned is less.
      used, fixed, available: bytes of HBM: the program's, those that do not depend on the batch, and the chip's.
      share: of the memory to fill at most.
      whole: a chip's images must be a multiple of it; eights of it are preferred.
    """
    per_image = max(used - fixed, 1.0) / images_per_chip
    most = min(int(max(share * available - fixed, 0.0) / per_image), images_per_chip - 1)
    even = math.lcm(8, whole)
    return most - most % (even if most >= even else whole)
