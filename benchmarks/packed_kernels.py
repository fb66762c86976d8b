"""Compiles the kernels for packs for an NVIDIA GPU that is not there, and counts their instructions.

    python -m benchmarks.packed_kernels [--lines 1 2 4 8] [--batch B] [--capability 90] [--json]

For each convolution of CIFAR's ResNets (8 trials) and each kernel: registers and spilled bytes of a thread, bytes of shared
memory, and two least times on an H100: *issue*, if every instruction were issued at once, four a clock and multiprocessor; and
*move*, if the L1 cache and shared memory took or gave 128 bytes a clock and multiprocessor, what tensor cores read themselves
included. No kernel runs. Compiled by Triton and ptxas; the body of a loop counts as often as it is run.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import math
import pathlib
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence

import jax.numpy as jnp

from benchmarks.packed import collecting_no_garbage, variations
from redundancy.models.gpu import tiles
from redundancy.models.gpu.calls import Call, call_of
from redundancy.models.gpu.shape import Shape
from redundancy.models.gpu.tiles import Tile

CIFAR = [  # height and width, channels, features, taps, stride
    (32, 3, 16, 3, 1), (32, 16, 16, 3, 1), (32, 16, 32, 3, 2), (32, 16, 32, 1, 2), (16, 32, 32, 3, 1), (16, 32, 64, 3, 2),
    (16, 32, 64, 1, 2), (8, 64, 64, 3, 1),
]  # fmt: skip
_CLOCKS = 132 * 1755  # multiprocessors of an H100, and clocks in a microsecond
_BYTES = {".128": 16, ".64": 8, ".M88.4": 16, ".M88.2": 8, ".MT88.4": 16, ".MT88.2": 8}  # of a thread; else 4


def assembled(kind: str, shape: Shape, dtype: str, capability: int, tile: Tile) -> dict:
    """What Triton and ptxas make of a kernel: registers, spilled and shared bytes, and the two least times, microseconds."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from redundancy.models.gpu import kernels

    call = call_of(kind, shape, jnp.dtype(dtype), tile)
    kernel = getattr(kernels, kind)
    pointers = dict.fromkeys(kernel.arg_names[:3], {"float32": "*fp32", "bfloat16": "*bf16"}[dtype])
    if kind == "kernel_gradient":
        pointers["sums"] = "*fp32"
    source = ASTSource(
        kernel,
        signature=pointers | dict.fromkeys(call.constants, "constexpr"),
        constexprs={(kernel.arg_names.index(name),): value for name, value in call.constants.items()},
        attrs={(index,): [["tt.divisibility", 16]] for index in range(3)},
    )
    programs = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        options = {"num_warps": call.warps, "num_stages": call.stages}
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        path = pathlib.Path(folder, "kernel.ptx")
        path.write_text(made.asm["ptx"])
        architecture = f"sm_{capability}{'a' if capability == 90 else ''}"
        binary = path.with_suffix(".cubin")
        said = _run(programs / "ptxas", f"-arch={architecture}", "-v", path, "-o", binary).stderr
        executed = _executed(_run(programs / "nvdisasm", "-c", binary).stdout, _turns(kind, shape, tile, call))
    warps = call.warps * math.prod(call.grid) / (shape.stride**2 if kind == "input_gradient" else 1)
    moved = sum(times * _moved(name) for name, times in executed.items())
    return {
        "registers": int(re.search(r"Used (\d+) registers", said)[1]),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", said))),
        "shared": made.metadata.shared,
        "issue_us": round(warps * executed.total() / 4 / _CLOCKS, 1),
        "move_us": round(warps * moved / 128 / _CLOCKS, 1),
    }


def _run(*command) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, check=True)


def _moved(name: str) -> int:
    """Bytes that a warp's instruction moves between registers or tensor cores and the L1 cache or shared memory."""
    if product := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", name):  # of four warps, both factors from shared memory
        pixels, columns, rows = map(int, product.groups())
        return 2 * rows * (pixels + columns) // 4
    if not re.match("LDG|LDS|STG|STS", name):
        return 0
    return 32 * max((size for end, size in _BYTES.items() if end in name), default=4)


def _turns(kind: str, shape: Shape, tile: Tile, call: Call) -> int:
    """How often the loop of a kernel is run, if it has one."""
    if kind == "kernel_gradient":
        return call.constants["TURNS"]
    summed = shape.channels if kind == "forward" else shape.features
    taps = shape.taps ** (2 if tile.lines == 1 else 1) / (shape.stride**2 if kind == "input_gradient" else 1)
    return max(1, math.ceil(taps * summed / tile.rows))


def _executed(text: str, turns: int) -> Counter:
    """How often a warp executes each instruction of a disassembled kernel, which has one loop at most."""
    codes, labels, times = [], {}, []
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(codes)
        elif code := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*(?:\.\w+)*)(.*)", line):
            codes.append(code.groups())
            times.append(1)
    for index, (name, rest) in enumerate(codes):
        target = re.search(r"\.L_x_\d+", rest) if name == "BRA" else None
        start = labels.get(target[0], index) if target else index
        for inside in range(start, index if start < index else start):
            times[inside] *= turns
    return sum((Counter({name: count}) for (name, _), count in zip(codes, times, strict=True)), Counter())


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each kernel and tile: of the lines asked for, the usual tile and those that benchmarks.packed tries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--capability", type=int, default=90)
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args(arguments)
    jobs = []
    for side, *sizes in CIFAR:
        shape = Shape(8, flags.batch, side, side, *sizes)
        for kind in tiles.KINDS:
            usual = tiles.usual(kind, shape, False, flags.capability)
            tried = [usual, *(tile for tile in variations(kind, shape, usual) if tile.lines > 1)]
            jobs += [(kind, shape, "bfloat16", flags.capability, tile) for tile in tried if tile.lines in flags.lines]
    with collecting_no_garbage(), concurrent.futures.ThreadPoolExecutor() as pool:
        for (kind, shape, *_, tile), found in zip(jobs, pool.map(lambda job: assembled(*job), jobs), strict=True):
            line = {"kernel": tiles.key(kind, shape, False), **dataclasses.asdict(tile), **found}
            print(
                json.dumps(line) if flags.json else "  ".join(f"{name} {value}" for name, value in line.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
