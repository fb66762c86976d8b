"""Compiles the products of pairs of leaves (`linkage.panels`) for an H100 that is not there, and says what memory they take.

    python -m benchmarks.for_a_gpu [--images N …] [--directions P] [--width W]

Wants jax with its CUDA libraries, pip install "jax[cuda13]", on a machine of any kind. No kernel runs, and none is tuned.
"""

import argparse
import glob
import json
import os
import re
import sys
import time

# The data sheet of an H100, as XLA's GpuTargetConfigProto.
_H100 = """
gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000
  l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84978434048 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 patch: 0 }
runtime_version { major: 13 minor: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def with_libraries(module: str) -> None:
    """Starts a program of this folder again, with NVIDIA's libraries where the plugin looks for them."""
    folders = [folder for path in sys.path for folder in glob.glob(os.path.join(path, "nvidia", "*", "lib"))]
    if os.environ.get("LD_LIBRARY_PATH", "") != ":".join(folders):
        environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(folders), "JAX_PLATFORMS": "cpu"}
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)


def h100():
    """JAX's device for an H100 that is not there."""
    import jax_plugins.xla_cuda13 as plugin
    from jax.experimental import topologies

    plugin._check_cuda_versions = lambda *_, **__: None  # asks the driver, which is not there
    return topologies.get_topology_desc("h100", platform="cuda", topology="1x1x1", target_config=_H100).devices[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--directions", type=int, default=64)
    parser.add_argument("--width", type=int, default=128)
    flags = parser.parse_args()
    with_libraries("benchmarks.for_a_gpu")
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from redundancy.linkage import pairs, panels

    on = NamedSharding(Mesh(np.array([h100()]), "x"), PartitionSpec())

    def shape(*sizes, dtype=np.float32):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=on)

    def step(rows, limits, first, count):
        bits = panels.proposed(rows, limits, first, count, flags.width)
        return pairs.sent(bits)

    for n in flags.images:
        leaves = shape(2, panels.AT_ONCE, dtype=np.int32)
        began = time.perf_counter()
        made = jax.jit(step).lower(shape(n, flags.directions), shape(n), leaves, leaves).compile()
        memory, text = made.memory_analysis(), made.as_text()
        found = {
            "images": n,
            "directions": flags.directions,
            "width": flags.width,
            "leaf_pairs": panels.AT_ONCE,
            "compile_s": round(time.perf_counter() - began, 1),
            "argument_mib": memory.argument_size_in_bytes >> 20,
            "temporary_mib": memory.temp_size_in_bytes >> 20,
            "output_mib": memory.output_size_in_bytes >> 20,
            "custom_calls": sorted(set(re.findall(r'custom_call_target="([^"]+)"', text))),
            "fusions": len(re.findall(r"= .* fusion\(", text)),
            "jax": jax.__version__,
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
