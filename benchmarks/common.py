"""Helpers of all benchmarks: alternating timer, peak memory of a child process, the machine, JSON and tables.

Results go to standard output, progress to standard error.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import datetime
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
_START, _LOAD = time.monotonic(), os.getloadavg()  # before this process adds to the load
_TINY = 64


def say(text: str) -> None:
    """One line of progress."""
    print(f"[{time.monotonic() - _START:6.1f} s] {text}", file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Wall-clock times of one function.

    Attributes:
      first_call_s: seconds of the first call, which may compile and is not counted.
      seconds: seconds of each later call.
    """

    first_call_s: float
    seconds: list[float]

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


@dataclasses.dataclass(frozen=True)
class Alternated:
    """Times of two functions called in turn, so that other load on the machine slows down both.

    Attributes:
      ours, peer: times of either.
      ratios: the peer's time divided by ours for each repetition; above 1 ours is faster.
      ours_result, peer_result: what the first calls returned.
    """

    ours: Timing
    peer: Timing
    ratios: list[float]
    ours_result: Any
    peer_result: Any

    @property
    def ratio(self) -> float:
        """Median over repetitions of peer's time over ours."""
        return statistics.median(self.ratios)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, and its result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def repeat(function: Callable[[], Any], repeats: int) -> Timing:
    """Times a function alone: one uncounted call, then `repeats` counted ones."""
    first, _ = timed(function)
    return Timing(first, [timed(function)[0] for _ in range(repeats)])


def alternate(ours: Callable[[], Any], peer: Callable[[], Any], repeats: int) -> Alternated:
    """Times two functions in turn: one uncounted call each, then ours, peer, ours, peer, …

    Args:
      ours, peer: functions that do the same work; only the results of their first calls are kept.
      repeats: counted calls of each, at least 1.
    """
    (ours_first, ours_result), (peer_first, peer_result) = timed(ours), timed(peer)
    pairs = [(timed(ours)[0], timed(peer)[0]) for _ in range(repeats)]
    return Alternated(
        Timing(ours_first, [of_ours for of_ours, _ in pairs]),
        Timing(peer_first, [of_peer for _, of_peer in pairs]),
        [of_peer / of_ours for of_ours, of_peer in pairs],
        ours_result,
        peer_result,
    )


def _resident_mib() -> tuple[float, float]:
    """Resident memory of this process now, and the greatest so far, MiB."""
    with contextlib.suppress(OSError, ValueError, KeyError), open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
        # On Linux a child inherits ru_maxrss from its parent, which uses more memory; it does not inherit VmHWM.
        return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    greatest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return greatest, greatest


@dataclasses.dataclass(frozen=True)
class Job:
    """One call in a fresh process, and the entry of the result that its memory belongs to; see `in_child`."""

    entry: dict[str, Any]
    target: str
    array: np.ndarray
    arguments: dict[str, Any]


def add_memory(jobs: Sequence[Job], at_once: int = 1) -> None:
    """Adds peak memory to the entry of each job.

    Args:
      jobs: calls to measure.
      at_once: number of child processes at a time. Times do not matter here, but memory must suffice for all.
    """
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        found = pool.map(lambda job: in_child(job.target, job.array, **job.arguments), jobs)
        for job, memory in zip(jobs, found, strict=True):
            job.entry.update(memory)


def cached(name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array that `make` makes, kept in the user's cache folder under the name, and mapped from there."""
    from redundancy.storage.cache_folder import cache_folder

    if cache_folder() is None:
        return make()
    path = os.path.join(cache_folder(), "benchmarks", name)
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.{os.getpid()}", "wb") as file:
            np.save(file, make())
        os.replace(file.name, path)
    return np.load(path, mmap_mode="r")


def in_child(target: str, array: np.ndarray, **arguments: Any) -> dict[str, Any]:
    """Peak memory and time of one call in a fresh process that does nothing else.

    Before the measured call the child calls the function with the first 64 rows, so that imports and compilation do not
    count.

    Args:
      target: "module:function"; called as function(array, **arguments).
      array: [n, ...], handed over in a temporary file.
      arguments: values that JSON can hold.

    Returns:
      peak_mib: greatest resident memory of the process; before_mib: resident memory before the call, the array
      included; extra_mib: their difference; child_s: seconds of the call. If it failed only error: the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "array.npy")
        np.save(path, array)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.common", target, path, json.dumps(arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        say(f"{target} failed in a child process, exit code {done.returncode}: {reason}")
        return {"error": f"exit code {done.returncode}: {reason}"}
    return json.loads(done.stdout.splitlines()[-1])


def _child(target: str, path: str, arguments: str) -> None:
    module, name = target.split(":")
    function = getattr(importlib.import_module(module), name)
    array, keywords = np.load(path), json.loads(arguments)
    function(array[:_TINY], **keywords)
    before, _ = _resident_mib()
    seconds, _ = timed(lambda: function(array, **keywords))
    _, peak = _resident_mib()
    print(json.dumps({"peak_mib": peak, "before_mib": before, "extra_mib": peak - before, "child_s": seconds}))


def available_gib() -> float:
    """Memory in GiB that this process can still allocate; the machine's whole memory if the system does not report it."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 2**20
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system, JAX's devices, and how busy the machine was before."""
    import jax  # not at the top: it must not take memory in a child process that measures a peer

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "platform": platform.platform(),
        "jax_devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "load_average_at_start": [round(load, 2) for load in _LOAD],
    }


def version(package: str) -> str | None:
    """Installed version of a package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def threads() -> dict[str, Any]:
    """Threads of each loaded BLAS and OpenMP library and of numba, and the variables that set them."""
    found = {}
    # A machine that only trains may lack both packages.
    with contextlib.suppress(ImportError):
        import threadpoolctl

        for pool in threadpoolctl.threadpool_info():
            found[pool["prefix"] + " of " + _package_of(pool["filepath"])] = pool["num_threads"]
    with contextlib.suppress(ImportError):
        import numba

        found["numba"] = numba.get_num_threads()
    set_by = {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS") or name == "XLA_FLAGS"}
    return found | set_by


def _package_of(path: str) -> str:
    """'numpy' of '…/site-packages/numpy.libs/libopenblas.so'."""
    return pathlib.Path(path).parent.name.split(".")[0]


def _commit() -> str | None:
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def header(name: str, arguments: Sequence[str], packages: Sequence[str]) -> dict[str, Any]:
    """The circumstances of a result: command, date, commit, machine, versions, threads.

    Args:
      name: name of the benchmark, as in `python -m benchmarks.NAME`.
      arguments: arguments of the command line.
      packages: packages whose versions are recorded.
    """
    return {
        "benchmark": name,
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *arguments]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
        "threads": threads(),
    }


def parser(description: str, cases: Sequence[str]) -> argparse.ArgumentParser:
    """The flags of every benchmark: --quick, --json, --only."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--quick", action="store_true", help="small sizes: within a minute on two cores")
    flags.add_argument("--json", action="store_true", help="one JSON object on standard output instead of a table")
    flags.add_argument("--only", nargs="+", choices=cases, metavar="NAME", help=f"of {', '.join(cases)}")
    return flags


def significant(value: float | None, digits: int = 3) -> str:
    """A number for a table: 3 significant digits, no exponent; '-' for None."""
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))}f}"


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows with the same keys as an aligned table: numbers and their headings on the right, other cells on the left."""
    names = list(rows[0])
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    right = {name: all(row[name][:1].isdigit() or row[name] in ("", "-") for row in rows) for name in names}
    lines = [{name: name for name in names}, {name: "-" * widths[name] for name in names}, *rows]
    return "\n".join(
        "  ".join(f"{line[name]:{'>' if right[name] else '<'}{widths[name]}}" for name in names).rstrip()
        for line in lines
    )


def _row(case: str, by: str, entry: Mapping[str, Any], remark: str) -> dict[str, str]:
    ratio = ""
    if "ratio" in entry:
        least, greatest = (significant(of(entry["ratios"])) for of in (min, max))
        ratio = f"{significant(entry['ratio'])} ({least} to {greatest})"
    problem = "; ".join(f"{name.replace('_', ' ')}: {entry[name]}" for name in ("not_run", "error") if name in entry)
    return {
        "case": case,
        "by": by,
        "time, s": significant(entry.get("median_s")),
        "ratio": ratio,
        "first call, s": significant(entry.get("first_call_s")),
        "peak, MiB": significant(entry.get("peak_mib")),
        "extra, MiB": significant(entry.get("extra_mib")),
        "remark": problem or remark,
    }


def text(result: Mapping[str, Any], remark: Callable[[Mapping[str, Any]], str], notes: Sequence[str]) -> str:
    """A result as text.

    Args:
      result: `header`'s fields, and cases: case -> results: measured program -> entry with any of median_s, ratio and
        ratios (the peer's time divided by ours), first_call_s, the keys of `in_child`, not_run.
      remark: text in the table's last column for an entry.
      notes: lines below the table.
    """
    of = result["machine"]
    versions = ", ".join(f"{name} {value or '(not installed)'}" for name, value in result["versions"].items())
    rows = [
        _row(case, by, entry, remark(entry))
        for case, of_case in result["cases"].items()
        for by, entry in of_case["results"].items()
    ]
    return "\n".join(
        [
            f"{result['command']}   ({result['date']}, commit {result['commit']})",
            f"{of['processor']}, {of['usable_cores']} of {of['cores']} cores, {of['memory_gib']} GiB, {of['platform']}; "
            f"JAX on {', '.join(of['jax_devices'])}; load {of['load_average_at_start'][0]}",
            versions,
            "threads: " + ", ".join(f"{name} {value}" for name, value in result["threads"].items()),
            "",
            table(rows),
            "",
            "ratio: the peer's time over ours, median (least to greatest) of alternating runs; above 1 ours is faster.",
            "peak, extra: resident memory of a process of its own; what the call added to it.",
            *notes,
        ]
    )


if __name__ == "__main__":
    _child(*sys.argv[1:])
