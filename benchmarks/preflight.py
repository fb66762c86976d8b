"""Memory and cost of an ImageNet training step on TPU slices by libtpu's compiler, beside a plain Flax step. Runs nothing.

    python -m benchmarks.preflight [--quick] [--json] [--only NAME …]

Needs libtpu, no TPU. One compilation of ResNet-101 takes 2 to 5 minutes on two cores; each is a separate process.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import common
from benchmarks.common import say
from redundancy import config as config_lib
from redundancy.preflight import compile as compile_lib
from redundancy.preflight import report
from redundancy.preflight.generations import parse_topology
from redundancy.preflight.shapes import shapes

_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "redundancy")
_MODULES = {"ours": "redundancy.preflight.child", "plain Flax": "benchmarks.plain_flax"}


@dataclasses.dataclass(frozen=True)
class Case:
    """One network on one slice.

    Attributes:
      topology: topology of the slice.
      depth: depth of the ResNet.
      images: images of a chip in a step.
      peers: whether to compile the plain Flax step, too.
      programs: our programs to compile; of the peer only the training step is compiled.
      fields: config fields that differ from the config imagenet.
    """

    topology: str
    depth: int = 101
    images: int = 64
    peers: bool = False
    programs: tuple[str, ...] = ("train",)
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


CASES = {
    "resnet101-v5e-256": Case("v5e:16x16", peers=True, programs=("train", "embed")),
    "resnet101-v5e-4": Case("v5e:2x2"),
    "resnet101-v5e-4-batch128": Case("v5e:2x2", images=128),
    "resnet101-v5e-4-batch32": Case("v5e:2x2", images=32),
    "resnet50-v5e-256": Case("v5e:16x16", depth=50, peers=True),
    "resnet101-v4-4": Case("v4:2x2x1"),
    "resnet101-v5p-4": Case("v5p:2x2x1"),
    "resnet101-v6e-4": Case("v6e:2x2"),
}
QUICK = {
    "resnet50-v5e-4-32px": Case("v5e:2x2", depth=50, images=8, peers=True, fields={"image_size": 32}),
}


def request(case: Case) -> compile_lib.Request:
    """The case as preflight takes it: imagenet's model, batch by chip, BatchNorm over a chip's batch."""
    topology = parse_topology(case.topology)
    batch = case.images * topology.chips
    config = config_lib.resolve(
        {
            "dataset": "imagenet2012",
            "image_size": 224,
            "augmentation": "resized_crop_flip",
            "form": "imagenet",
            "depth": case.depth,
            "widths": (64, 128, 256, 512),
            "dtype": "bfloat16",
            "batch_size": batch,
            "eval_batch_size": batch,
            "bn_group_size": case.images,
            **case.fields,
        }
    )
    return compile_lib.Request(config, topology, shapes(config), programs=case.programs)


def measure(case: Case) -> dict[str, Any]:
    """Summaries of ours and, if `peers`, of the peer; ratios of the peer's training step to ours."""
    results = {}
    for name, module in _MODULES.items():
        if name != "ours" and not case.peers:
            continue
        asked = request(case) if name == "ours" else dataclasses.replace(request(case), programs=("train",))
        seconds, found = common.timed(lambda asked=asked, module=module: compile_lib.run(asked, module))
        results[name] = {**report.summary(asked, found), "compile_s": round(seconds, 1)}
        say(f"{name}: compiled in {seconds:.0f} s")
    entry = {"results": results}
    steps = {name: result["programs"]["train"] for name, result in results.items()}
    if len(steps) == 2 and all(step["fits"] for step in steps.values()):
        entry["ratios"] = {
            of: steps["plain Flax"][of] / steps["ours"][of] for of in ("bytes_accessed", "flops", "hbm_used")
        }
    return entry


def run(cases: Mapping[str, Case], arguments: Sequence[str]) -> dict[str, Any]:
    """The result with all cases and the header of every benchmark."""
    result = common.header("preflight", arguments, _PACKAGES)
    result["cases"] = {}
    for name, case in cases.items():
        say(name)
        result["cases"][name] = {"case": dataclasses.asdict(case), **measure(case)}
    return result


def _row(case: str, by: str, program: str, result: Mapping[str, Any]) -> dict[str, str]:
    facts, number = result["programs"][program], common.significant
    if not facts["fits"]:
        return {
            "case": case,
            "by": by,
            "step": program,
            "a chip": str(facts["images_per_chip"]),
            **dict.fromkeys(_COLUMNS, "-"),
            "HBM": "does not fit",
        }
    exchanged = sum(of["bytes"] for of in facts["collectives"])
    return {
        "case": case,
        "by": by,
        "step": program,
        "a chip": str(facts["images_per_chip"]),
        "HBM": f"{facts['hbm_share']:.0%}",
        "TFLOP": number(facts["flops"] / 1e12),
        "XLA's, GB": number(facts["bytes_accessed"] / 1e9),
        "FLOPs, ms": number(facts["flops_s"] * 1e3),
        "images/s a chip": number(facts["images_per_s_per_chip"]),
        "collectives": f"{len(facts['collectives'])}",
        "exchanged, MB": number(exchanged / 1e6),
    }


_COLUMNS = (
    "HBM",
    "TFLOP",
    "XLA's, GB",
    "FLOPs, ms",
    "images/s a chip",
    "collectives",
    "exchanged, MB",
)


def text(result: Mapping[str, Any]) -> str:
    """The table, and the meaning of its columns."""
    rows = [
        _row(case, by, program, of_whom)
        for case, entry in result["cases"].items()
        for by, of_whom in entry["results"].items()
        for program in of_whom["programs"]
    ]
    ratios = [
        f"{case}: plain Flax over ours: " + ", ".join(f"{of} {ratio:.3f}" for of, ratio in entry["ratios"].items())
        for case, entry in result["cases"].items()
        if "ratios" in entry
    ]
    versions = ", ".join(f"{name} {value or '(not installed)'}" for name, value in result["versions"].items())
    return "\n".join(
        [
            f"{result['command']}   ({result['date']}, commit {result['commit']})",
            versions,
            "",
            common.table(rows),
            "",
            *ratios,
            "Compiled, never run. TFLOP, GB, ms: of a step and chip; ms is the least time at the peak rate. XLA's, GB: its own",
            "count of bytes, of which many never leave the chip.",
        ]
    )


def main(arguments: Sequence[str]) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"  # this process only lists JAX's devices; libtpu would look for a TPU
    given = common.parser(__doc__, [*CASES, *QUICK]).parse_args(arguments)
    cases = QUICK if given.quick else CASES
    if given.only:
        cases = {name: {**CASES, **QUICK}[name] for name in given.only}
    result = run(cases, arguments)
    print(json.dumps(result, indent=1) if given.json else text(result))


if __name__ == "__main__":
    main(sys.argv[1:])
