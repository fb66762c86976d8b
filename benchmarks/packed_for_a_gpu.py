"""Compiles the training of a pack for an H100 that is not there, and counts its kernels and their bytes.

    python -m benchmarks.packed_for_a_gpu [--trials T] [--batch B] [--depth N] [--dtype bfloat16] [--formulation packed]

Wants jax with its CUDA libraries and jax_triton: pip install "redundancy[train,cuda,gpu]". No kernel runs, and none is tuned.
"""

import argparse
import json
import re
import time
from collections import Counter

from benchmarks.for_a_gpu import h100, with_libraries

_IMAGES = 50_000  # of the resident set


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--formulation", default="packed")
    flags = parser.parse_args()
    with_libraries("benchmarks.packed_for_a_gpu")
    device = h100()
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh

    from redundancy import config as config_lib
    from redundancy.preflight import hlo
    from redundancy.training.programs import Programs

    config = config_lib.resolve(
        {
            **{"depth": flags.depth, "dtype": flags.dtype, "augmentation": "crop_flip", "pad": 4, "pack": flags.trials},
            **{"batch_size": flags.batch, "steps_per_dispatch": 50, "formulation": flags.formulation},
        }
    )
    mesh = Mesh(np.array([device]).reshape(1, 1), ("trial", "data"), axis_types=(AxisType.Auto,) * 2)
    programs = Programs(config, (32, 32, 3), 10, mesh, resident=True, vmap=True)
    began = time.perf_counter()
    with jax.set_mesh(mesh):
        lowered = programs.train.lower(*programs.train_arguments(flags.trials, num_images=_IMAGES))
        traced = time.perf_counter()
        made = lowered.compile()
    text, memory = made.as_text(), made.memory_analysis()
    moved = Counter()
    for kernel in hlo.kernels(text, stored=_IMAGES * 32 * 32 * 3):
        moved[kernel.kind] += kernel.bytes
    calls = Counter(re.findall(r'custom_call_target="([^"]+)"', text))
    found = {
        **vars(flags),
        "traced_s": round(traced - began, 1),
        "compiled_s": round(time.perf_counter() - traced, 1),
        "triton": calls.pop("triton_kernel_call", 0),
        "cudnn": sum(count for name, count in calls.items() if "cudnn" in name),
        "other_calls": {name: count for name, count in calls.items() if "cudnn" not in name},
        "fusions": len(re.findall(r"= .* fusion\(", text)),
        "copies": len(re.findall(r" copy\(", text)),
        "transposes": len(re.findall(r" transpose\(", text)),
        "mb_a_step": {kind: round(size / 1e6) for kind, size in moved.items() if size >= 1e6},
        "argument_mib": memory.argument_size_in_bytes >> 20,
        "temporary_mib": memory.temp_size_in_bytes >> 20,
        "jax": jax.__version__,
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
