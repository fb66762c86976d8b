"""The case near of `selection`: pairs of one large class by boxes, by all blocks and by faiss, on several kinds of embeddings."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import common, embeddings, linkages
from benchmarks.images import of_images
from benchmarks.selection_sizes import Sizes

_STEPS = embeddings.DENSE_STEPS
_TINY = 2_000
_NEIGHBOURS, _ROWS = 10, 1_000


def network(width: int = 64) -> embeddings.Network:
    """The network that makes the first of the `sets`."""
    return embeddings.dense_network(width, _STEPS)


def of_network(n: int, width: int = 64) -> np.ndarray:
    """Embeddings of n distorted digits by a trained network, kept in the user's cache folder: [n, width] float32."""

    def make() -> np.ndarray:
        found = np.empty((n, width), np.float32)
        network(width).embed_all(found)
        return found

    return common.cached(f"dense-{width}-steps-{_STEPS}-images-{n}.npy", make)


def interpolated(n: int, real: int) -> np.ndarray:
    """Embeddings of up to `real` images, then points between one and a near neighbour of it: [n, 64] float32."""
    rows = linkages.unit_rows(of_network(min(n, real)))
    near = np.empty((len(rows), _NEIGHBOURS), np.int32)
    for start in range(0, len(rows), _ROWS):
        product = rows[start : start + _ROWS] @ rows.T
        product[np.arange(len(product)), np.arange(start, start + len(product))] = -1
        near[start : start + _ROWS] = np.argpartition(-product, _NEIGHBOURS, 1)[:, :_NEIGHBOURS]
    generator, more = np.random.default_rng(0), n - len(rows)
    one = generator.integers(0, len(rows), more)
    other = near[one, generator.integers(0, _NEIGHBOURS, more)]
    share = generator.random((more, 1), np.float32)
    return np.concatenate([rows, rows[one] + share * (rows[other] - rows[one])])


def gaussian(n: int) -> np.ndarray:
    """Numbers without any structure: [n, 64] float32."""
    return np.random.default_rng(0).standard_normal((n, 64), np.float32)


def _timed(function: Callable, *arguments: Any) -> tuple[dict[str, float], Any]:
    """Wall time, and the time of all cores together, which other work on the machine changes less; and the result."""
    before = time.process_time()
    seconds, found = common.timed(lambda: function(*arguments))
    return {"median_s": seconds, "cpu_s": time.process_time() - before}, found


def sets(
    sizes: Sizes, images: str | None = None, names: Sequence[str] = ()
) -> dict[str, tuple[Sequence[int], Callable[[int], np.ndarray]]]:
    """Sizes and makers of the classes, one of them of the images of an .npz file, if it is given.

    Only those of `names`, if any are given. Of each maker the rows of fewer images are the first of those of more.
    """
    of_file = {"images": (sizes.near, functools.partial(of_images, images))} if images else {}
    found = of_file | {
        "network": (sizes.near, of_network),
        "interpolated": (sizes.near, lambda n: interpolated(n, sizes.near[0])),
        "gaussian": (sizes.near[:1], gaussian),
        "network-512": (sizes.near_wide, lambda n: of_network(n, 512)),
        "network-768": (sizes.near_wide, lambda n: of_network(n, 768)),
    }
    return {name: found[name] for name in names or found}


def _results(embedded: np.ndarray, patience: float, before: dict[str, tuple[int, float]]) -> dict[str, Any]:
    """The near pairs of one class by each way; `before` has the images and seconds of earlier ones."""
    n = len(embedded)
    linkages.near_pairs(embedded[:_TINY])  # compiles
    linker, threshold = linkages.linker(embedded)
    ours, (found, left) = _timed(linkages.by_boxes, linker, threshold)
    chosen = bool(linker.near.plan(threshold).order)
    results = {"boxes": ours | {"pairs": found, "leaves_left": left, "chosen": chosen, "threshold": threshold}}
    peers = {"all blocks": (linkages.by_blocks, linker, threshold)}
    if common.version("faiss-cpu"):
        peers["faiss"] = linkages.by_faiss, linkages.unit_rows(embedded), threshold
    else:
        results["faiss"] = {"not_run": "not installed"}
    for name, (function, *arguments) in peers.items():
        if name in before and (needed := before[name][1] * (n / before[name][0]) ** 2) > patience:
            results[name] = {"not_run": f"would take about {needed:.0f} s"}
            continue
        peer, number = _timed(function, *arguments)
        ratio = peer["median_s"] / ours["median_s"]
        results[name] = peer | {"pairs": number, "ratio": ratio, "ratios": [ratio]}
        before[name] = n, peer["median_s"]
    return results


def cases(run: Any, patience: float) -> dict[str, Any]:
    """The cases, for `selection.Run`; a peer that would take more than `patience` seconds is left out."""
    found = {}
    for name, (sizes, make) in sets(run.sizes, run.images, run.sets).items():
        everything, before = make(max(sizes)), {}
        for n in sizes:
            common.say(f"  {name}, {n:,} images")
            embedded = np.ascontiguousarray(everything[:n])
            results = _results(embedded, patience, before)
            run.add_memory("near", [common.Job(results["boxes"], "benchmarks.linkages:near_pairs", embedded, {})])
            shape = {"classes": 1, "images_per_class": n, "dimension": embedded.shape[1]}
            for by, entry in results.items():
                memory = f"; {entry['peak_mib']:.0f} MiB" if "peak_mib" in entry else ""
                common.say(f"    {by}: {entry.get('not_run') or remark(entry)}{memory}")
            found[f"near-{name}-{n}"] = {"sizes": shape, "kept": linkages.KEPT, "results": results}
    return found


def remark(entry: Mapping[str, Any]) -> str:
    """What an entry found."""
    said = f"{entry['pairs']:,} pairs, {entry['cpu_s']:.3g} s of all cores"
    if "leaves_left" in entry:
        said += f", {100 * entry['leaves_left']:.3g} % of leaf pairs left, {'' if entry['chosen'] else 'not '}chosen"
    return said
