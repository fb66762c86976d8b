"""Topologies: slices of TPU generations, or a GPU."""

import dataclasses
import math
import re

from redundancy.preflight.gpus import GPUS, Gpu
from redundancy.runtime.errors import ConfigError, nearest
from redundancy.training.peaks import peak_flops


@dataclasses.dataclass(frozen=True)
class Generation:
    """The chips of one TPU generation, or of one kind of GPU.

    Attributes:
      name: name in topologies.
      hbm_bytes: bytes of HBM that a program may use, as reported by libtpu's compiler; slightly less than advertised.
      axes: number of axes of the torus.
      chip_config: libtpu's name for the mode in which each chip is one JAX device, if that is not the default.
    """

    name: str
    hbm_bytes: int
    axes: int
    chip_config: str = ""

    @property
    def flops(self) -> float:
        """Peak bfloat16 FLOP/s."""
        return peak_flops(f"TPU {self.name}", "bfloat16")

    @property
    def source(self) -> str:
        """The source of the peak rate."""
        return f"https://docs.cloud.google.com/tpu/docs/{self.name}"


_GIB = 2**30

GENERATIONS = {
    "v4": Generation("v4", int(30.75 * _GIB), 3, "megacore"),
    "v5e": Generation("v5e", int(15.75 * _GIB), 2),
    "v5p": Generation("v5p", int(95.73 * _GIB), 3),
    "v6e": Generation("v6e", int(31.24 * _GIB), 2),
}

WANTED = (
    "v4:2x2x1, v5e:4x4, v5e:16x16, v5p:2x2x2, v6e:8x8, another GENERATION:AxB (v5e, v6e) or :AxBxC (v4, v5p), or a GPU: "
    + ", ".join(GPUS)
)


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice, or one GPU.

    Attributes:
      generation: generation of the chips.
      shape: chips along each axis.
    """

    generation: Generation | Gpu
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.generation.name if self.gpu else f"{self.generation.name}:{'x'.join(map(str, self.shape))}"

    @property
    def gpu(self) -> Gpu | None:
        """The GPU, or None for a slice."""
        return self.generation if isinstance(self.generation, Gpu) else None

    @property
    def chips(self) -> int:
        return math.prod(self.shape)


def parse_topology(text: str) -> Topology:
    """The slice or GPU with this name, such as v5e:16x16 or h100.

    Raises:
      ConfigError: there is no such generation, or the number of axes is wrong for it.
    """
    name, _, dimensions = text.partition(":")
    if text in GPUS:
        return Topology(GPUS[text], (1,))
    if name in GPUS:
        raise ConfigError(f"--topology={text}: preflight compiles for one GPU. Give --topology={name}.")
    if name not in GENERATIONS:
        known = (*GENERATIONS, *GPUS)
        raise ConfigError(
            f"--topology={text}: {name!r} is none of {', '.join(known)}.{nearest(name, known)} Wanted: {WANTED}."
        )
    generation = GENERATIONS[name]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", dimensions) or dimensions.count("x") + 1 != generation.axes:
        raise ConfigError(
            f"--topology={text}: wanted {name}:{'x'.join('ABC'[: generation.axes])}, chips along each of the "
            f"{generation.axes} axes of {name}, for example {name}:{'x'.join('4' * generation.axes)}."
        )
    return Topology(generation, tuple(map(int, dimensions.split("x"))))
