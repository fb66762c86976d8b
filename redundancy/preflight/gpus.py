"""NVIDIA GPUs for which programs are compiled on machines without one, and estimates of the time of kernels.

XLA compiles for a GPU from its description alone; the numbers are from NVIDIA's data sheets.
"""

import dataclasses
import glob
import os
import sys
from collections.abc import Iterable

from redundancy.preflight.hlo import Kernel
from redundancy.training.peaks import peak_flops

# Fitted to four trainings of ResNet-32 on an H100 (2026-11-26 and 27; docs/training.md): the least time of a kernel, and the
# share of the memory bandwidth that kernels reach, with a separate share for cuDNN's convolutions of few channels.
LAUNCH_S, REACHED, REACHED_BY_CUDNN = 5e-6, 0.6, 0.25

_TARGET = """
gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {shared} threads_per_core_limit: {threads} core_count: {cores} fpus_per_core: {units}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {bandwidth}
  l2_cache_size: {cache} clock_rate_ghz: {clock} device_memory_size: {hbm_bytes}
  shared_memory_per_block_optin: {shared_of_block} cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 }}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 13 minor: 0 }}
device_description_str: "{kind}"
"""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
      name: name in --topology.
      kind: name in JAX.
      hbm_bytes, bandwidth: bytes of memory, and bytes/s.
      capability: compute capability, for example (9, 0).
      cores, units, threads, clock: streaming multiprocessors, float32 units and largest number of threads of each, GHz.
      cache, shared, shared_of_block: bytes of the L2 cache, of the shared memory of a multiprocessor, and of that of a block.
      source: source of the numbers.
    """

    name: str
    kind: str
    hbm_bytes: int
    bandwidth: int
    capability: tuple[int, int]
    cores: int
    units: int
    threads: int
    clock: float
    cache: int
    shared: int
    shared_of_block: int
    source: str

    @property
    def flops(self) -> float:
        """Peak bfloat16 FLOP/s."""
        return peak_flops(self.kind, "bfloat16")

    @property
    def target(self) -> str:
        """XLA's GpuTargetConfigProto, as text."""
        major, minor = self.capability
        return _TARGET.format(**dataclasses.asdict(self), major=major, minor=minor)


_HOPPER = dict(
    capability=(9, 0), cores=132, units=128, threads=2048, clock=1.98, cache=52_428_800, shared=233_472, shared_of_block=232_448
)  # fmt: skip
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            "h100", "NVIDIA H100 80GB HBM3", 84_978_434_048, 3_352_320_000_000, **_HOPPER,
            source="https://www.nvidia.com/en-us/data-center/h100/",
        ),
        Gpu(
            "h200", "NVIDIA H200", 150_754_820_096, 4_800_000_000_000, **_HOPPER,
            source="https://www.nvidia.com/en-us/data-center/h200/",
        ),
        Gpu(
            "a100", "NVIDIA A100-SXM4-80GB", 84_974_239_744, 2_039_000_000_000, (8, 0), 108, 64, 2048, 1.41, 41_943_040,
            167_936, 166_912, "https://www.nvidia.com/en-us/data-center/a100/",
        ),
        Gpu(
            "l4", "NVIDIA L4", 23_609_475_072, 300_000_000_000, (8, 9), 58, 128, 1536, 2.04, 50_331_648, 102_400, 101_376,
            "https://www.nvidia.com/en-us/data-center/l4/",
        ),
    )
}  # fmt: skip


def library_path() -> str:
    """LD_LIBRARY_PATH with the NVIDIA libraries that pip installs; without them the compiler does not start."""
    folders = [folder for path in sys.path for folder in glob.glob(os.path.join(path, "nvidia", "*", "lib"))]
    return os.pathsep.join([*folders, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])


def device(gpu: Gpu):
    """A JAX device for a GPU that is not present. NVIDIA's libraries must be on LD_LIBRARY_PATH when the process starts."""
    import jax_plugins.xla_cuda13 as plugin
    from jax.experimental import topologies

    plugin._check_cuda_versions = lambda *_, **__: None  # it would query the driver, which is not present
    return topologies.get_topology_desc(gpu.name, platform="cuda", topology="1x1x1", target_config=gpu.target).devices[
        0
    ]


def step_seconds(kernels: Iterable[Kernel], gpu: Gpu) -> tuple[float, float]:
    """Estimated seconds of all kernels in sequence, and of those kernels among them that take only the least time."""
    total = small = 0.0
    for kernel in kernels:
        reached = REACHED_BY_CUDNN if "cudnn" in kernel.kind else REACHED
        moved = kernel.bytes / (reached * gpu.bandwidth)
        total += max(LAUNCH_S, moved)
        small += LAUNCH_S if moved < LAUNCH_S else 0.0
    return total, small
