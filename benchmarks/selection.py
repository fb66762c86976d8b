"""Exact complete linkage beside scikit-learn, SciPy and fastcluster; its pair search beside a bare matrix product.

    python -m benchmarks.selection [--quick] [--json] [--million] [--only NAME …]

A ratio is the peer's time over ours, the median over repetitions in which the two alternate; above 1 ours is faster.
"""

import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import common, embeddings, linkages
from benchmarks import fractions as by_fraction
from benchmarks import near as near_pairs
from benchmarks.common import Job, say
from benchmarks.selection_sizes import FULL, QUICK, Sizes

KEPT = linkages.KEPT
_FRACTIONS = (0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1)
_PACKAGES = ("numpy", "scipy", "scikit-learn", "jax", "jaxlib", "numba", "fastcluster", "faiss-cpu", "redundancy")
_TILES = ((512, 512), (512, 4096), (1024, 1024), (2048, 2048))
_PAIRS_PER_IMAGE = 4
_CHUNK = 20  # ImageNet-like classes in memory at a time
# A peer is left out if one call would take more seconds than this, or more than this share of the available memory.
_PATIENCE_S, _MEMORY_SHARE = 120.0, 0.7


@dataclasses.dataclass(frozen=True)
class Run:
    """Settings of all cases.

    Attributes:
      sizes: how much to measure.
      network: network that makes the embeddings.
      memory: whether to measure peak memory, which takes one more process and call for each entry.
      images: .npz file of a data set whose images, flipped and shifted, are embedded for the case near, too.
      sets: names of the sets of the case near; all if empty.
      embeddings: .npz file with position, label and embedding, whose lowest label is the class of the case fractions.
    """

    sizes: Sizes
    network: embeddings.Network
    memory: bool = True
    images: str | None = None
    sets: tuple[str, ...] = ()
    embeddings: str | None = None

    def one_class(self, n: int) -> np.ndarray:
        """The n images of the cases with one large class: [n, 64] float32."""
        return self.network.embed(3, n, seed=0)

    def add_memory(self, case: str, jobs: Sequence[Job]) -> None:
        """Adds peak memory to the jobs' entries, if it is measured in this case."""
        if self.memory and case in self.sizes.memory_in:
            say(f"  memory, {len(jobs)} processes")
            common.add_memory(jobs, self.sizes.children)


def _peers() -> dict[str, Callable]:
    """The peers that are installed."""
    return {name: peer for name, peer in linkages.PEERS.items() if name != "fastcluster" or common.version(name)}


def _missing() -> dict[str, dict[str, str]]:
    return {name: {"not_run": "not installed"} for name in linkages.PEERS if name not in _peers()}


def _job(entry: dict[str, Any], function: Callable, array: np.ndarray, **arguments: Any) -> Job:
    return Job(entry, f"benchmarks.linkages:{function.__name__}", array, arguments)


def _linkage_jobs(results: dict[str, Any], array: np.ndarray, kept: float) -> list[Job]:
    return [
        _job(results[name], function, array, kept=kept)
        for name, function in {"ours": linkages.ours, **_peers()}.items()
        if name in results and "not_run" not in results[name]
    ]


def _times(timing: common.Timing) -> dict[str, Any]:
    return {"median_s": timing.median_s, "seconds": timing.seconds, "first_call_s": timing.first_call_s}


def _beside(both: common.Alternated) -> dict[str, Any]:
    """A peer's entry."""
    return {
        **_times(both.peer),
        "ratio": both.ratio,
        "ratios": both.ratios,
        "ours_seconds": both.ours.seconds,
        "ours_first_call_s": both.ours.first_call_s,
    }


def _each(function: Callable, classes: Sequence[np.ndarray], kept: float) -> Callable[[], list[np.ndarray]]:
    return lambda: [function(of_class, kept) for of_class in classes]


def _beside_peer(classes: Sequence[np.ndarray], name: str, function: Callable, repeats: int) -> dict[str, Any]:
    """A peer's entry for the linkage of some classes: times of both in turn, ratio and agreement."""
    say(f"  beside {name}")
    both = common.alternate(lambda: linkages.ours_at_once(classes, KEPT), _each(function, classes, KEPT), repeats)
    theirs = [linkages.partition(result, KEPT) for result in both.peer_result]
    return {**_beside(both), "agreement": linkages.agreement(both.ours_result, theirs)}


def _ours_from(entries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Our entry: our times from the comparisons with all peers."""
    measured = [entry for entry in entries if "ours_seconds" in entry]
    seconds = [second for entry in measured for second in entry["ours_seconds"]]
    first = measured[0]["ours_first_call_s"]
    return {"median_s": statistics.median(seconds), "seconds": seconds, "first_call_s": first}


def _beside_all(run: Run, classes: Sequence[np.ndarray]) -> dict[str, Any]:
    """Entries of ours and of every peer that is installed."""
    entries = {name: _beside_peer(classes, name, of, run.sizes.repeats) for name, of in _peers().items()}
    ours = _ours_from(entries.values())
    if len(classes) > 1:
        ours["one_at_a_time_s"] = common.repeat(_each(linkages.ours, classes, KEPT), run.sizes.repeats).median_s
    return {"ours": ours, **entries}


def _case(results: dict[str, Any], classes: int, n: int, dimension: int, **more: Any) -> dict[str, Any]:
    return {"sizes": {"classes": classes, "images_per_class": n, "dimension": dimension}, "results": results, **more}


def _at_fractions(of_class: np.ndarray) -> dict[str, Any]:
    """Agreement with scikit-learn's tree at every fraction, for one class."""
    from sklearn.cluster import AgglomerativeClustering

    from redundancy.linkage import complete, cut

    n = len(of_class)
    model = AgglomerativeClustering(n_clusters=1, metric="cosine", linkage="complete").fit(of_class)
    merges = complete.complete_linkage(of_class, linkages.merges_wanted(n, min(_FRACTIONS)))
    return {
        str(kept): linkages.agreement(
            [cut.groups(merges, n, n - linkages.merges_wanted(n, kept))],
            [linkages.partition_of_tree(model.children_, kept)],
        )
        for kept in _FRACTIONS
    }


def cifar10(run: Run) -> dict[str, Any]:
    """Classes as CIFAR-10's: 5,000 images of 64 numbers."""
    count, n = run.sizes.cifar10
    classes = [run.network.embed(digit % 10, n, seed=0) for digit in range(count)]
    results = _beside_all(run, classes)
    say("  partitions at other fractions")
    fractions = _at_fractions(classes[0])
    run.add_memory("cifar10", _linkage_jobs(results, classes[0], KEPT))
    dimension = classes[0].shape[1]
    return {"cifar10": _case(results | _missing(), count, n, dimension, kept=KEPT, fractions=fractions)}


def fractions(run: Run) -> dict[str, Any]:
    """One class as CIFAR-10's at fractions from 0.9 to 0.01, beside scikit-learn and SciPy."""
    if run.embeddings:
        one = by_fraction.of_file(run.embeddings)
    else:
        one = run.network.embed(0, run.sizes.cifar10[1], seed=0)
    peers = {name: linkages.PEERS[name] for name in ("scikit-learn", "SciPy")}
    found = by_fraction.results(one, peers, run.sizes.repeats)
    return {f"fractions-{kept}": _case(results, 1, *one.shape, kept=kept) for kept, results in found.items()}


def imagenet(run: Run) -> dict[str, Any]:
    """Classes as ImageNet's: 1,300 images of 2,048 numbers; peers on a sample of the classes."""
    count, n = run.sizes.imagenet

    def make(label):
        return run.network.embed(label % 10, n, seed=label // 10, wide=True)

    sample = [make(label) for label in range(run.sizes.sample)]
    results = _beside_all(run, sample)
    more = {}
    if count > len(sample):
        more["note"] = f"peers measured on {len(sample)} of the {count:,} classes, their times scaled to all"
        for entry in results.values():
            entry["sample_median_s"] = entry["median_s"]
            entry["median_s"] *= count / len(sample)
        total = 0.0
        for first in range(0, count, _CHUNK):
            chunk = [make(label) for label in range(first, min(count, first + _CHUNK))]
            total += common.timed(lambda chunk=chunk: linkages.ours_at_once(chunk, KEPT))[0]
            if first // _CHUNK % 5 == 0:
                say(f"  {first + len(chunk)} of {count} classes, {total:.1f} s of linkage")
        results["ours"]["median_s"] = total
    run.add_memory("imagenet", _linkage_jobs(results, sample[0], KEPT))
    return {"imagenet": _case(results | _missing(), count, n, sample[0].shape[1], kept=KEPT, **more)}


def _reason_not_run(n: int, before: tuple[int, float] | None) -> str | None:
    """Why a peer does not get a class of n images, None if it does; `before` is a smaller n and its seconds."""
    needed = linkages.PEERS_BYTES_PER_PAIR * (n * (n - 1) / 2) / 2**30
    if needed > _MEMORY_SHARE * common.available_gib():
        return f"needs {needed:.1f} GiB"
    # The time grows with the number of pairs.
    seconds = before[1] * (n / before[0]) ** 2 if before else 0.0
    return f"would take about {seconds:.0f} s and {needed:.1f} GiB" if seconds > _PATIENCE_S else None


def large(run: Run) -> dict[str, Any]:
    """One class of growing sizes, with peers as memory and time allow; and one class of which half is kept."""
    everything = run.one_class(max(*run.sizes.large, run.sizes.half))
    dimension = everything.shape[1]
    cases, jobs, before = {}, [], {}
    for n in run.sizes.large:
        say(f"  {n:,} images")
        one = everything[:n]
        results = {"ours": _times(common.repeat(_each(linkages.ours, [one], KEPT), 3 if n <= 50_000 else 1))}
        for name, function in _peers().items() if run.sizes.peers_in_large else ():
            reason = _reason_not_run(n, before.get(name))
            if reason is not None:
                results[name] = {"not_run": reason}
                continue
            results[name] = _beside_peer([one], name, function, 3 if n <= 20_000 else 1)
            before[name] = n, results[name]["median_s"]
        jobs += _linkage_jobs(results, one, KEPT)
        cases[f"large-{n}"] = _case(results, 1, n, dimension, kept=KEPT)
    if n := run.sizes.half:
        say(f"  {n:,} images, half of them kept")
        one = everything[:n]
        results = {"ours": _times(common.repeat(_each(linkages.ours, [one], 0.5), 1))}
        jobs += _linkage_jobs(results, one, 0.5)
        cases[f"large-{n}-half"] = _case(results, 1, n, dimension, kept=0.5)
    run.add_memory("large", jobs)
    return cases


def growth_exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Slope of log time over log size; 2 if twice the images take four times as long."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def _pairs_of(run: Run, embedded: np.ndarray) -> dict[str, Any]:
    from redundancy.linkage import dissimilarity
    from redundancy.linkage import pairs as ours

    n = len(embedded)
    rows, units = linkages.unit_rows(embedded), dissimilarity.units(embedded)
    threshold = linkages.threshold_of(rows, _PAIRS_PER_IMAGE * n)
    tile = min(_TILES, key=lambda tile: common.timed(lambda: linkages.products(rows, tile))[0])
    both = common.alternate(
        lambda: ours.within(units, threshold), lambda: linkages.products(rows, tile), run.sizes.repeats
    )
    flop = 2 * rows.shape[1] * n * (n + 1) / 2
    results = {
        "ours": {
            **_times(both.ours),
            "wrong_pairs": linkages.wrong_pairs(embedded, both.ours_result, threshold),
        },
        "sgemm": {**_beside(both), "gflop_per_s": flop / both.peer.median_s / 1e9},
    }
    run.add_memory(
        "pairs",
        [
            _job(results["ours"], linkages.within, embedded, threshold=threshold),
            _job(results["sgemm"], linkages.sgemm, embedded, tile=tile),
        ],
    )
    found = len(both.ours_result)
    note = f"{found:,} pairs up to {threshold:.5f}; sgemm in tiles of {tile[0]} × {tile[1]}"
    return _case(results, 1, n, rows.shape[1], threshold=threshold, pairs=found, tile=tile, note=note)


def pairs(run: Run) -> dict[str, Any]:
    """All pairs up to a dissimilarity, about 4 for each image, beside only the matrix products."""
    cases = {}
    for n in run.sizes.pairs:
        say(f"  {n:,} images")
        cases[f"pairs-{n}"] = _pairs_of(run, run.one_class(n))
    return cases


def million(run: Run) -> dict[str, Any]:
    """Time and memory of one class of a million images, linked once in a separate process.

    On an accelerator also of the search for its near pairs, by boxes and by all blocks, whichever `link` chooses.
    """
    n = run.sizes.million
    embedded = run.one_class(n)
    jobs = {"ours": ("ours", {"kept": KEPT})}
    if jax.local_devices()[0].platform != "cpu":
        jobs |= {"boxes": ("near_pairs", {}), "all blocks": ("near_pairs", {"boxed": False})}
    results = {}
    for name, (function, arguments) in jobs.items():
        say(f"  {n:,} images: {name}")
        results[name] = common.in_child(f"benchmarks.linkages:{function}", embedded, **arguments)
        if "child_s" in results[name]:
            results[name]["median_s"] = results[name]["child_s"]
    return {"million": _case(results, 1, n, embedded.shape[1], kept=KEPT)}


def near(run: Run) -> dict[str, Any]:
    """The near pairs of large classes of several kinds of embeddings, by boxes, by all blocks, and by faiss."""
    return near_pairs.cases(run, _PATIENCE_S)


CASES = {
    "cifar10": cifar10,
    "fractions": fractions,
    "imagenet": imagenet,
    "large": large,
    "pairs": pairs,
    "near": near,
    "million": million,
}


def measure(run: Run, names: Sequence[str]) -> dict[str, Any]:
    """The cases with their ratios and growth, ready for JSON."""
    cases = {}
    for name in names:
        say(name)
        cases |= CASES[name](run)
    ratios = {
        f"{case}/{peer}": entry["ratio"]
        for case, of_case in cases.items()
        for peer, entry in of_case["results"].items()
        if "ratio" in entry
    }
    answer = {"ratios": ratios}
    if "large" in names:
        times = [cases[f"large-{n}"]["results"]["ours"]["median_s"] for n in run.sizes.large]
        answer["growth_exponent"] = growth_exponent(run.sizes.large, times)
    if "near" in names:
        answer["near_exponents"] = {
            name: growth_exponent(sizes, [cases[f"near-{name}-{n}"]["results"]["boxes"]["cpu_s"] for n in sizes])
            for name, (sizes, _) in near_pairs.sets(run.sizes, run.images, run.sets).items()
            if len(sizes) > 1
        }
    return answer | {"cases": cases}


def remark(entry: Mapping[str, Any]) -> str:
    """Whether the results agree."""
    if "cpu_s" in entry:
        return near_pairs.remark(entry)
    if "wrong_pairs" in entry:
        return f"{entry['wrong_pairs']} pairs of 100 rows missed or wrong"
    if "agreement" not in entry:
        return ""
    found = entry["agreement"]
    if "cores_ratio" in entry:
        return f"{entry['cores_ratio']:.1f} by the seconds of all cores; " + remark({"agreement": found})
    if found["identical"] == found["partitions"]:
        return f"same partition in {found['identical']} of {found['partitions']}"
    return (
        f"DIFFERS: same partition in {found['identical']} of {found['partitions']}, "
        f"{100 * found['same_group']:.4g} % of images in the same group"
    )


def notes(result: Mapping[str, Any]) -> list[str]:
    """Lines below the table."""
    lines = []
    for case, of_case in result["cases"].items():
        sizes = of_case["sizes"]
        about = f"{case}: {sizes['classes']:,} × {sizes['images_per_class']:,} × {sizes['dimension']:,}"
        kept = [f"{of_case['kept']} kept"] if "kept" in of_case else []
        lines.append("; ".join([about, *kept, *([of_case["note"]] if "note" in of_case else [])]))
        lines += [
            f"  {fraction} kept, beside scikit-learn: {remark({'agreement': found})}"
            for fraction, found in of_case.get("fractions", {}).items()
        ]
    if "growth_exponent" in result:
        lines.append(f"large: our time grows as n to the power of {result['growth_exponent']:.2f}")
    lines += [
        f"{name}: the time of boxes, of all cores, grows as n to the power of {exponent:.2f}"
        for name, exponent in result.get("near_exponents", {}).items()
    ]
    made = result["embeddings"]
    right = f"{100 * made['test_accuracy']:.1f} % of held-out digits right"
    return [*lines, f"embeddings: of a network trained for {made['train_steps']} steps, {right}"]


def main(arguments: Sequence[str]) -> None:
    """Measures the cases that the flags select and prints the result."""
    parser = common.parser(__doc__, list(CASES))
    parser.add_argument("--million", action="store_true", help="the case million too: many minutes")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the images of each class, for trying out")
    parser.add_argument("--train-steps", type=int, default=embeddings.STEPS, help="of the network that embeds")
    parser.add_argument("--no-memory", action="store_true", help="leave out the child processes for peak memory")
    parser.add_argument("--images", metavar="FILE.npz", help="train_images and train_labels for another set of near")
    parser.add_argument("--embeddings", metavar="FILE.npz", help="position, label, embedding for the case fractions")
    parser.add_argument("--sets", nargs="+", default=(), metavar="SET", help="those of near alone, such as images")
    flags = parser.parse_args(arguments)
    if not 0 < flags.scale <= 1 or not math.isfinite(flags.scale):
        parser.error(f"--scale is {flags.scale}; wanted above 0 and up to 1")
    known = near_pairs.sets(QUICK, flags.images)
    if unknown := {*flags.sets} - {*known}:
        parser.error(
            f"--sets has {', '.join(sorted(unknown))}; wanted some of {', '.join(known)}; images needs --images"
        )
    names = flags.only or [name for name in CASES if name != "million"]
    if flags.million and "million" not in names:
        names = [*names, "million"]

    say("training the network that embeds")
    network = embeddings.network(flags.train_steps) if {*names} - {"near"} else near_pairs.network()
    say(f"trained in {network.train_s:.1f} s, {100 * network.test_accuracy:.1f} % of held-out digits right")
    sizes = (QUICK if flags.quick else FULL).scaled(flags.scale)
    found = measure(Run(sizes, network, not flags.no_memory, flags.images, tuple(flags.sets), flags.embeddings), names)
    made = {"train_steps": network.steps, "train_s": network.train_s, "test_accuracy": network.test_accuracy}
    result = common.header("selection", arguments, _PACKAGES) | {"embeddings": made} | found
    if flags.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        print(common.text(result, remark, notes(result)))
    say("done")


if __name__ == "__main__":
    main(sys.argv[1:])
