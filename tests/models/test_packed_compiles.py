"""Every kernel compiles for NVIDIA's cards, which need not be there, and spills no registers."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks.packed import collecting_no_garbage, variations
from benchmarks.packed_kernels import CIFAR, assembled
from redundancy.models.gpu import tiles
from redundancy.models.gpu.shape import Shape
from redundancy.models.gpu.tiles import Tile

IMAGENET = [(224, 3, 64, 7, 2), (56, 64, 64, 1, 1), (56, 64, 128, 1, 2), (28, 128, 128, 3, 1), (28, 128, 128, 3, 2)]
ODD = [(9, 20, 10, 5, 2), (7, 1, 1, 2, 1)]


def _shape(side: int, *sizes: int) -> Shape:
    return Shape(8, 128, side, side, *sizes)


def compiled(jobs: list[tuple[str, tuple[int, ...], str, int, Tile]]) -> list[dict]:
    """What ptxas says of the kernels (kind, sizes, type, compute capability, tile); in a child, since Triton is interpreted here."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.test_packed_compiles"],
        input=json.dumps([(*job, dataclasses.asdict(tile)) for *job, tile in jobs]),
        **{"cwd": pathlib.Path(__file__).parents[2], "capture_output": True, "text": True, "timeout": 1100},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def main() -> None:
    """The child: prints what each job of its input becomes."""
    jobs = [
        (kind, _shape(*sizes), dtype, capability, Tile(**tile))
        for kind, sizes, dtype, capability, tile in json.load(sys.stdin)
    ]
    with collecting_no_garbage(), concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        print(json.dumps(list(pool.map(lambda job: assembled(*job), jobs))))


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("shapes", "dtype", "capability"),
    [([*CIFAR, *IMAGENET, *ODD], "bfloat16", 90), (CIFAR, "bfloat16", 80), ([*CIFAR, *ODD], "float32", 90)],
    ids=["bfloat16-90", "bfloat16-80", "float32-90"],
)
def test_kernels_spill_no_registers(shapes, dtype, capability):
    pytest.importorskip("triton")
    jobs = [
        (kind, sizes, dtype, capability, tiles.usual(kind, _shape(*sizes), dtype == "float32", capability))
        for sizes in shapes
        for kind in tiles.KINDS
    ]
    for job, found in zip(jobs, compiled(jobs), strict=True):
        assert found["spilled"] == 0, (job, found)
        assert found["shared"] <= 99 << 10, (job, found)  # the least of any card from 8.0 on


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("sizes", [(32, 16, 16, 3, 1), (8, 64, 64, 3, 1)], ids=str)
def test_several_lines_take_fewer_loads_and_spill_no_registers(sizes):
    pytest.importorskip("triton")
    for kind in tiles.KINDS:
        usual = tiles.usual(kind, _shape(*sizes), False, 90)
        tried = [usual, *(tile for tile in variations(kind, _shape(*sizes), usual) if tile.lines > 1)]
        assert len(tried) > 2
        first, *found = compiled([(kind, sizes, "bfloat16", 90, tile) for tile in tried])
        assert not any(each["spilled"] for each in found)
        for name in ("issue_us", "move_us"):
            assert min(each[name] for each in found) < 0.85 * first[name]


if __name__ == "__main__":
    main()
