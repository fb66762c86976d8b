"""Time of the commands on many small classes, beside that of another checkout, the two in turn.

    python -m benchmarks.many_classes [--before CHECKOUT] [--classes 2000 20000] [--also 100000 mixed] > result.json

The embeddings are random, of 64 numbers, two images a class; "mixed" is 100,000 classes of 1 to 20 images and one of 50,000.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.common import say

_HERE = pathlib.Path(__file__).resolve().parent.parent
_PACKAGES = ("numpy", "pyarrow", "numba", "jax", "redundancy")
_COMMANDS = {
    "import": "--embeddings {data}-E.npy --labels {data}-Y.npy --labels-are=names",
    "link": "--config embeddings --config.fractions=(0.9,0.5)",
    "select": "--config embeddings --config.fractions=(0.9,0.5)",
    "status": "",
    "export": "--fraction 0.5 --format txt --output {data}-kept.txt --overwrite",
}
_MADE = ("embeddings", "merges", "subsets")


def _write_data(path: pathlib.Path, sizes: Sequence[int]) -> None:
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
    np.save(f"{path}-E.npy", generator.standard_normal((len(labels), 64), dtype=np.float32))
    np.save(f"{path}-Y.npy", labels)


def _sizes(case: str) -> list[int]:
    if case == "mixed":
        return [50_000, *np.random.default_rng(1).integers(1, 21, 100_000).tolist()]
    return [2] * int(case)


def _call(checkout: pathlib.Path, command: str, workdir: pathlib.Path, data: pathlib.Path) -> dict[str, float]:
    """Seconds of a command, by the clock and of all cores, and its greatest memory."""
    arguments = _COMMANDS[command].format(data=data).split()
    environ = {**os.environ, "PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu"}
    began, load = time.perf_counter(), os.getloadavg()[0]
    child = subprocess.Popen(
        [sys.executable, "-m", "redundancy", command, "--workdir", workdir, *arguments],
        cwd=data.parent, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    said = child.stderr.read().decode()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{command} of {checkout} failed:\n{said}")
    spent = {"s": time.perf_counter() - began, "cpu_s": used.ru_utime + used.ru_stime}
    return {**spent, "peak_mib": used.ru_maxrss / 1024, "load": load}


def _digest(workdir: pathlib.Path) -> str:
    """One checksum of all embeddings, merges and subsets."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in _MADE for path in (workdir / folder).rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(workdir)).encode() + path.read_bytes())
    return digest.hexdigest()


def _case(folder: pathlib.Path, case: str, checkouts: dict[str, pathlib.Path]) -> dict[str, Any]:
    data, sizes = folder / case, _sizes(case)
    _write_data(data, sizes)
    results: dict[str, Any] = {name: {} for name in checkouts}
    for command in _COMMANDS:
        for name, checkout in checkouts.items():
            found = _call(checkout, command, folder / f"{case}-{name}", data)
            found["ms_a_class"] = 1e3 * found["s"] / len(sizes)
            found["cpu_ms_a_class"] = 1e3 * found["cpu_s"] / len(sizes)
            results[name][command] = found
            say(f"  {case} {command} {name}: {found['s']:.1f} s, of all cores {found['cpu_s']:.1f} s")
    digests = {_digest(folder / f"{case}-{name}") for name in checkouts}
    same = {"same_bytes": len(digests) == 1} if len(checkouts) > 1 else {}
    return {"classes": len(sizes), "images": sum(sizes), **same, "results": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=pathlib.Path, help="another checkout")
    parser.add_argument(
        "--classes", nargs="*", default=["2000", "20000"], help="classes of two images, in both checkouts"
    )
    parser.add_argument("--also", nargs="*", default=["100000", "mixed"], help="the same, in this checkout alone")
    given = parser.parse_args()
    both = {"before": given.before.resolve(), "after": _HERE} if given.before else {"after": _HERE}
    with tempfile.TemporaryDirectory() as root:
        folder = pathlib.Path(root)
        _write_data(folder / "warm", [2] * 10)
        for name, checkout in both.items():  # compiles what is kept on disk
            for command in _COMMANDS:
                _call(checkout, command, folder / f"warm-{name}", folder / "warm")
        cases = {case: _case(folder, case, both) for case in given.classes}
        cases |= {case: _case(folder, case, {"after": _HERE}) for case in given.also}
    print(json.dumps({**common.header("many_classes", sys.argv[1:], _PACKAGES), "cases": cases}, indent=1))


if __name__ == "__main__":
    main()
