"""TPU generations, with what Google publishes of a chip, and the topologies that a slice may have."""

import dataclasses
import math
import re

from redundancy.runtime.errors import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Generation:
    """One chip of a generation.

    Attributes:
      name: as topologies spell it.
      flops: peak bfloat16 FLOP/s.
      hbm_bytes: HBM that a program may use, bytes, as libtpu's compiler reports it: a little less than is sold.
      hbm_bandwidth: HBM bytes/s.
      link_bandwidth: bytes/s of one inter-chip link in one direction: the published bandwidth of a chip, both directions
        and all links, over twice its links.
      axes: of the torus; a chip has two links along each.
      chip_config: libtpu's name for chips that are one JAX device each, where that is not the default.
      source: where the numbers are published.
    """

    name: str
    flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    axes: int
    chip_config: str
    source: str


_GIB = 2**30

GENERATIONS = {
    generation.name: generation
    for generation in (
        # The page gives no rate of the links; Jouppi et al. 2023 (arXiv 2304.01433), table 4: 6 of 50 GB/s.
        Generation(
            "v4", 275e12, int(30.75 * _GIB), 1200e9, 50e9, 3, "megacore", "https://docs.cloud.google.com/tpu/docs/v4"
        ),
        # 400 GB/s, both directions, over 4 links.
        Generation("v5e", 197e12, int(15.75 * _GIB), 819e9, 50e9, 2, "", "https://docs.cloud.google.com/tpu/docs/v5e"),
        # 1200 GB/s, both directions, over 6 links; 2575 GiB/s of HBM.
        Generation(
            "v5p", 459e12, int(95.73 * _GIB), 2765e9, 100e9, 3, "", "https://docs.cloud.google.com/tpu/docs/v5p"
        ),
        # 800 GB/s, both directions, over 4 links.
        Generation(
            "v6e", 918e12, int(31.24 * _GIB), 1638e9, 100e9, 2, "", "https://docs.cloud.google.com/tpu/docs/v6e"
        ),
    )
}

WANTED = "v4:2x2x1, v5e:4x4, v5e:16x16, v5p:2x2x2, v6e:8x8, or another GENERATION:AxB (v5e, v6e) or :AxBxC (v4, v5p)"


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice.

    Attributes:
      generation: of its chips.
      shape: chips along each axis.
    """

    generation: Generation
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.generation.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape)


def parse_topology(text: str) -> Topology:
    """The slice that `text` names, such as v5e:16x16.

    Raises:
      ConfigError: no such generation, or another number of axes than it has.
    """
    name, _, dimensions = text.partition(":")
    if name not in GENERATIONS:
        raise ConfigError(
            f"--topology={text}: {name!r} is none of {', '.join(GENERATIONS)}.{nearest(name, GENERATIONS)} "
            f"Wanted: {WANTED}."
        )
    generation = GENERATIONS[name]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", dimensions) or dimensions.count("x") + 1 != generation.axes:
        raise ConfigError(
            f"--topology={text}: wanted {name}:{'x'.join('ABC'[: generation.axes])}, chips along each of the "
            f"{generation.axes} axes of {name}, for example {name}:{'x'.join('4' * generation.axes)}."
        )
    return Topology(generation, tuple(map(int, dimensions.split("x"))))
