"""Every kernel compiles for NVIDIA's cards, which need not be there, and spills no registers."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import jax.numpy as jnp
import pytest

from redundancy.models.gpu import tiles
from redundancy.models.gpu.calls import call_of
from redundancy.models.gpu.shape import Shape

CIFAR = [  # height and width, channels, features, taps, stride
    (32, 3, 16, 3, 1), (32, 16, 16, 3, 1), (32, 16, 32, 3, 2), (32, 16, 32, 1, 2), (16, 32, 32, 3, 1), (16, 32, 64, 3, 2),
    (16, 32, 64, 1, 2), (8, 64, 64, 3, 1),
]  # fmt: skip
IMAGENET = [(224, 3, 64, 7, 2), (56, 64, 64, 1, 1), (56, 64, 128, 1, 2), (28, 128, 128, 3, 1), (28, 128, 128, 3, 2)]
ODD = [(9, 20, 10, 5, 2), (7, 1, 1, 2, 1)]


def compiled(jobs: list[tuple[str, tuple[int, ...], str, int]]) -> list[dict]:
    """What ptxas says of the kernels (kind, sizes, type, compute capability); in a child, since Triton is interpreted here."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.test_packed_compiles", json.dumps(jobs)],
        **{"cwd": pathlib.Path(__file__).parents[2], "capture_output": True, "text": True, "timeout": 1100},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def main(jobs: list) -> None:
    """The child: prints registers and spilled bytes of each job."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from redundancy.models.gpu import kernels

    ptxas = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    found = []
    with tempfile.TemporaryDirectory() as folder:
        triton.knobs.cache.dir = folder
        for kind, (side, *sizes), dtype, capability in jobs:
            shape = Shape(8, 128, side, side, *sizes)
            call = call_of(kind, shape, jnp.dtype(dtype), tiles.usual(kind, shape, dtype == "float32", capability))
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
            options = {"num_warps": call.warps, "num_stages": call.stages}
            made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            path = pathlib.Path(folder, "kernel.ptx")
            path.write_text(made.asm["ptx"])
            architecture = f"sm_{capability}{'a' if capability == 90 else ''}"
            said = subprocess.run(
                [ptxas, f"-arch={architecture}", "-v", path, "-o", path.with_suffix(".cubin")],
                **{"capture_output": True, "text": True, "check": True},
            ).stderr
            found.append(
                {
                    "registers": int(re.search(r"Used (\d+) registers", said)[1]),
                    "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", said))),
                    "shared": made.metadata.shared,
                }
            )
    print(json.dumps(found))


def _check(shapes: list, dtype: str, capability: int) -> None:
    pytest.importorskip("triton")
    jobs = [(kind, sizes, dtype, capability) for sizes in shapes for kind in tiles.KINDS]
    for job, found in zip(jobs, compiled(jobs), strict=True):
        assert found["spilled"] == 0, (job, found)
        assert found["shared"] <= 99 << 10, (job, found)  # the least of any card from 8.0 on


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_kernels_spill_no_registers(capability, dtype):
    _check([*CIFAR, *IMAGENET, *ODD], dtype, capability)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
