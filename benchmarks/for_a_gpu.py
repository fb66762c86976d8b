"""Compiles the products of pairs of leaves (`linkage.panels`) for an H100 that is not there, and says what memory they take.

    python -m benchmarks.for_a_gpu [--images N …] [--directions P] [--width W]

Wants jax with its CUDA libraries, pip install "jax[cuda13]", on a machine of any kind. No kernel runs, and none is tuned.
"""

import argparse
import json
import os
import re
import sys
import time

from redundancy.preflight import gpus


def with_libraries(module: str) -> None:
    """Starts a program of this folder again, with NVIDIA's libraries where the plugin looks for them."""
    if not os.environ.get("_LIBRARIES"):
        environment = {**os.environ, "LD_LIBRARY_PATH": gpus.library_path(), "JAX_PLATFORMS": "cpu", "_LIBRARIES": "1"}
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)


def h100():
    """JAX's device for an H100 that is not there."""
    return gpus.device(gpus.GPUS["h100"])


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
