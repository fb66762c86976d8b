"""Seconds of the methods that order a class by its embeddings, and what a tally of every image adds to a training.

    python -m benchmarks.methods [--quick] [--json] [--embeddings FILE.npy]

The class has 5,000 images of 64 numbers: those of a .npy file, or clusters made at random. semdedup is measured beside the
clustering of the same class at 90 % kept; a training on images of CIFAR-10's shape with the tally beside one without.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import common
from redundancy.linkage.complete import complete_linkage
from redundancy.methods import orders

_PACKAGES = ("jax", "jaxlib", "numpy", "numba", "redundancy")


def _clusters(n: int, dimension: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(n // 10, dimension))
    return (centres[rng.integers(0, len(centres), n)] + 0.3 * rng.normal(size=(n, dimension))).astype(np.float32)


def of_orders(embeddings: np.ndarray, repeats: int) -> dict[str, Any]:
    n, found = len(embeddings), {}
    kept = n * 9 // 10
    methods = {
        "k_center": lambda: orders.k_center(embeddings, kept, np.random.default_rng(0)),
        "herding": lambda: orders.herding(embeddings, kept),
        "facility_location": lambda: orders.facility_location(embeddings, kept),
        "semdedup": lambda: orders.semdedup(embeddings, kept),
        "prototypes": lambda: orders.prototypes(embeddings, kept),
        "moderate": lambda: orders.moderate(embeddings, kept),
    }
    for name, method in methods.items():
        timing = common.repeat(method, repeats)
        found[name] = {"s": timing.median_s, "first_s": timing.first_call_s}
    compared = common.alternate(methods["semdedup"], lambda: complete_linkage(embeddings, n - kept), repeats)
    found["semdedup"]["ratio_to_clustering"] = compared.ratio
    return found


def of_tally(steps: int, repeats: int) -> dict[str, Any]:
    """A dispatch of single steps of ResNet-8 on 32 x 32 images, with a tally of 50,000 images and without."""
    from redundancy import config as config_lib
    from redundancy.training.mesh import make_mesh
    from redundancy.training.programs import Programs

    config = config_lib.resolve(
        {"depth": 8, "widths": (16, 32, 64), "batch_size": 128, "augmentation": "crop_flip", "pad": 4}
    )
    mesh, rng = make_mesh(config, 1), np.random.default_rng(0)
    arrays = {
        "image": rng.integers(0, 256, (50_000, 32, 32, 3), np.uint8),
        "label": rng.integers(0, 10, 50_000, np.int32),
    }
    arrays = jax.device_put(arrays)
    lengths = {"steps": np.float32(1e6), "warmup_steps": np.float32(1e3)}

    def run(tallied: int):
        programs = Programs(config, (32, 32, 3), 10, mesh, resident=True, tallied=tallied)
        state = jax.tree.map(lambda leaf: leaf[None], programs.init(np.uint32(1)))
        rows = jax.device_put(rng.integers(0, 50_000, (1, 1, 128), np.int32))

        def dispatches():
            nonlocal state
            with jax.set_mesh(mesh):
                for _ in range(steps):
                    item = {"row": rows, "position": rows}
                    state, metrics = programs.train(state, np.ones(1, np.uint32), lengths, arrays, item)
                jax.block_until_ready(metrics)

        return dispatches

    compared = common.alternate(run(50_000), run(0), repeats)
    return {"s": compared.ours.median_s, "without_s": compared.peer.median_s, "added": 1 / compared.ratio - 1}


def main(arguments: Sequence[str]) -> None:
    flags = common.parser(__doc__, ("orders", "tally"))
    flags.add_argument("--embeddings", help="a .npy file [n, d] of float32, of which the first 5,000 rows are taken")
    given = flags.parse_args(arguments)
    cases, size = given.only or ("orders", "tally"), 1000 if given.quick else 5000
    result = common.header("methods", arguments, _PACKAGES)
    if "orders" in cases:
        embeddings = np.load(given.embeddings)[:size].astype(np.float32) if given.embeddings else _clusters(size, 64)
        result["orders"] = {"images": len(embeddings), **of_orders(embeddings, 3 if given.quick else 5)}
    if "tally" in cases:
        result["tally"] = of_tally(4 if given.quick else 20, 3 if given.quick else 7)
    if given.json:
        print(json.dumps(result, indent=1))
        return
    rows = [{"method": name, **{key: common.significant(value) for key, value in of.items()}}
            for name, of in result.get("orders", {}).items() if isinstance(of, dict)]  # fmt: skip
    if rows:
        print(
            common.table(
                [{**dict.fromkeys(("method", "s", "first_s", "ratio_to_clustering"), ""), **row} for row in rows]
            )
        )
    if "tally" in result:
        print(f"a tally of 50,000 images adds {100 * result['tally']['added']:.1f} % to a training step")


if __name__ == "__main__":
    main(sys.argv[1:])
