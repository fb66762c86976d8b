"""The case fractions of `selection`: one class linked as deep as each fraction asks, beside its peers.

All run with one BLAS thread, as in the stage link: on a busy machine more of them wait for each other.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import linkages
from benchmarks.common import say

FRACTIONS = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)


def of_file(path: str) -> np.ndarray:
    """The embeddings of the lowest label, by position, of an .npz file: [n, d] float32."""
    with np.load(path) as file:
        position, label, embedding = (file[name] for name in ("position", "label", "embedding"))
    rows = np.flatnonzero(label == label.min())
    return np.ascontiguousarray(embedding[rows[np.argsort(position[rows])]].astype(np.float32))


def _measured(function: Callable, embedded: np.ndarray, kept: float) -> tuple[float, float, np.ndarray]:
    """Seconds by the clock, seconds of all cores together, and the result."""
    clock, cores = time.perf_counter(), time.process_time()
    result = function(embedded, kept)
    return time.perf_counter() - clock, time.process_time() - cores, result


def beside(embedded: np.ndarray, kept: float, peers: Mapping[str, Callable], repeats: int) -> dict[str, Any]:
    """Entries of ours and of the peers, all of them called in turn.

    `ratio` is of the clock, `cores_ratio` of the seconds of all cores together, which other work on the machine changes less.
    """
    functions = {"ours": linkages.ours, **peers}
    first = {name: _measured(function, embedded, kept) for name, function in functions.items()}
    times = [{name: _measured(of, embedded, kept)[:2] for name, of in functions.items()} for _ in range(repeats)]
    entries = {}
    for name, (first_call_s, _, result) in first.items():
        clock, cores = ([each[name][kind] for each in times] for kind in (0, 1))
        entries[name] = {
            "median_s": statistics.median(clock),
            "seconds": clock,
            "first_call_s": first_call_s,
            "cores_s": statistics.median(cores),
        }
        if name != "ours":
            ratios, of_cores = ([each[name][kind] / each["ours"][kind] for each in times] for kind in (0, 1))
            entries[name] |= {
                "ratio": statistics.median(ratios),
                "ratios": ratios,
                "cores_ratio": statistics.median(of_cores),
                "agreement": linkages.agreement([first["ours"][2]], [linkages.partition(result, kept)]),
            }
    return entries


def results(
    embedded: np.ndarray, peers: Mapping[str, Callable], repeats: int, fractions: Sequence[float] = FRACTIONS
) -> dict[float, dict[str, Any]]:
    """`beside` at every fraction."""
    import threadpoolctl

    found = {}
    with threadpoolctl.threadpool_limits(1, "blas"):
        for kept in fractions:
            say(f"  {kept} kept")
            found[kept] = beside(embedded, kept, peers, repeats)
    return found
