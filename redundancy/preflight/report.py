"""The results of preflight, as JSON and as text for a terminal."""

import math

from redundancy.preflight.compile import Request
from redundancy.preflight.generations import Generation
from redundancy.preflight.gpus import LAUNCH_S, REACHED, REACHED_BY_CUDNN
from redundancy.runtime.sizes import binary, decimal

SHARE = 0.9  # share of the memory that a program may use; the rest is for the runtime, infeed and fragmentation
_COMBINED = 8  # XLA combines small all-reduces; those of the gradients of one network become at most this many
_TINY = 64 * 1024  # bytes; smaller collectives transfer only metrics, and cost only their latency


def fitting_batch(
    images_per_chip: int, used: float, fixed: float, available: float, share: float = 0.9, whole: int = 1
) -> int:
    """Images per chip that would fill about `share` of the memory, if all bytes except `fixed` grow with the batch.

    Args:
      images_per_chip: batch with which the program used `used` bytes; the result is smaller.
      used, fixed, available: bytes of HBM that the program uses, those independent of the batch, and those of a chip.
      share: largest share of the memory to fill.
      whole: the images of a chip must be a multiple of this number, preferably of eight times this number.

    Returns:
      a non-negative integer.
    """
    per_image = max(used - fixed, 1.0) / images_per_chip
    most = min(int(max(share * available - fixed, 0.0) / per_image), images_per_chip - 1)
    even = math.lcm(8, whole)
    return most - most % (even if most >= even else whole)


def _program(generation: Generation, whole: int, found: dict) -> dict:
    """A program's facts with added bounds; the images of a chip must be a multiple of `whole`."""
    if not found["fits"]:
        given = found["images_per_chip"], found["needed"], found["fixed"], generation.hbm_bytes, SHARE
        batch, some = fitting_batch(*given, whole), fitting_batch(*given)
        return {**found, "fitting_images_per_chip": batch, "one_image_fits": some > 0}
    least = found["flops"] / generation.flops
    return {
        **found,
        "hbm_share": found["hbm_used"] / generation.hbm_bytes,
        "flops_s": least,
        "images_per_s_per_chip": found["images_per_chip"] / least,
    }


def summary(request: Request, found: dict) -> dict:
    """The whole report as JSON: the result of compile.run, bounds, verdicts."""
    generation, (trials, data) = request.topology.generation, found["mesh"]
    # As mesh.make_mesh requires, each chip has whole BatchNorm groups and micro-batches.
    whole = math.lcm(request.config.bn_group_size or 1, request.config.micro_batch or 1)
    programs = {
        name: _program(generation, whole if name == "train" else 1, facts) for name, facts in found["programs"].items()
    }
    result = {
        "topology": request.topology.name,
        "gpu": request.topology.gpu is not None,
        "chips": request.topology.chips,
        "chips_used": trials * data,
        "trials": request.trials if request.topology.gpu else trials,
        "chips_per_trial": data,
        "image": list(request.shapes.image),
        "classes": request.shapes.classes,
        "resident": request.shapes.resident,
        "batch_size": request.config.batch_size,
        "bn_group_size": request.config.bn_group_size,
        "micro_batch": request.config.micro_batch,
        "dtype": request.config.dtype,
        "depth": request.config.depth,
        "parameters": found["parameters"],
        "parameter_bytes": found["parameter_bytes"],
        "hbm_available": generation.hbm_bytes,
        "peak_flops": generation.flops,
        "source": generation.source,
        "fits": all(facts["fits"] for facts in programs.values()),
        "programs": programs,
    }
    train = programs.get("train")
    if train and train["fits"]:
        result["remarks"] = _remarks(request, found, train)
    return result


def _remarks(request: Request, found: dict, train: dict) -> list[str]:
    """Remarks about the training step's collectives and memory."""
    remarks = []
    trials, data = found["mesh"]
    large = [of for of in train["collectives"] if of["bytes"] > _TINY]
    exchanged = sum(of["bytes"] for of in train["collectives"])
    if trials * data < request.topology.chips:
        remarks.append(
            f"{request.topology.chips - trials * data} chips stay idle: batch_size {request.config.batch_size} with "
            f"bn_group_size {request.config.bn_group_size} spreads over {data} chips at most."
        )
    if any(of["crosses_trials"] for of in train["collectives"]):
        remarks.append("a collective crosses trials, which should not happen: trials are independent.")
    if data > 1:
        share = exchanged / found["parameter_bytes"]
        text = f"chips exchange {share:.1%} of the parameters' bytes a step, in {len(train['collectives'])} collectives"
        alone = len(large) <= _COMBINED and abs(share - 1) < 0.05
        remarks.append(text + (": the gradients alone." if alone else "."))
        if not request.config.bn_group_size:
            remarks.append(
                "BatchNorm's statistics cross chips at every layer; set config.bn_group_size to "
                f"{request.config.batch_size // data} or a divisor of it."
            )
    if train["hbm_share"] > SHARE:
        remarks.append(f"the training step takes more than {SHARE:.0%} of the memory, which leaves the runtime little.")
    return remarks


def _rows(programs: dict[str, dict], available: float, gpu: bool) -> list[tuple[str, ...]]:
    def row(name, value):
        return (name, *(value(facts) if facts["fits"] else "does not fit" for facts in programs.values()))

    ends = [row("collectives", lambda of: str(len(of["collectives"])) if of["collectives"] else "none")]
    if gpu:
        ends = [
            row("kernels", lambda of: str(of["kernels"])),
            row("of which the most", lambda of: ", ".join(f"{n} {kind}" for kind, n in [*of["kinds"].items()][:2])),
            row(
                "time of small kernels",
                lambda of: f"{of['launch_share']:.0%}{' (launch-bound)' if of['launch_share'] > 0.5 else ''}",
            ),
            row("estimated time", lambda of: f"{of['estimate_s'] * 1e3:.3g} ms"),
            row("estimate", lambda of: f"{of['images_per_chip'] / of['estimate_s']:,.0f} images/s"),
        ]
    return [
        ("per GPU and step" if gpu else "per chip and step", *programs),
        ("images", *(str(facts["images_per_chip"]) for facts in programs.values())),
        row("HBM used", lambda of: f"{binary(of['hbm_used'], 2)} of {binary(available, 2)}, {of['hbm_share']:.0%}"),
        row("FLOPs", lambda of: f"{of['flops'] / 1e12:.3g} T"),
        row("bytes as XLA counts them", lambda of: decimal(of["bytes_accessed"])),
        row("least time by FLOPs", lambda of: f"{of['flops_s'] * 1e3:.3g} ms"),
        row("bound by FLOPs", lambda of: f"{of['images_per_s_per_chip']:,.0f} images/s"),
        *ends,
    ]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _collectives(facts: dict) -> list[str]:
    """The largest collectives of a program, one line each, and a line for the rest."""
    ranked = sorted(facts["collectives"], key=lambda of: -of["bytes"])
    lines = [f"  {of['kind']} of {decimal(of['bytes'])} over {of['devices']} chips" for of in ranked[:4]]
    if rest := ranked[4:]:
        lines.append(f"  {len(rest)} more, {decimal(sum(of['bytes'] for of in rest))} together")
    return lines


def text(result: dict) -> str:
    """The report for a terminal."""
    height, width, channels = result["image"]
    spread = f"{result['trials']} x {result['chips_per_trial']}" if result["trials"] > 1 else result["chips_used"]
    where = f"{result['trials']} at once" if result["gpu"] else f"{spread} of {result['chips']} chips"
    lines = [
        f"{result['topology']}: {where}; ResNet-{result['depth']} {result['dtype']}, "
        f"{result['parameters'] / 1e6:.1f} M parameters; images {height} x {width} x {channels}, "
        f"{result['classes']} classes; batch {result['batch_size']}, BatchNorm over {result['bn_group_size'] or 'all'}",
        "",
        *_aligned(_rows(result["programs"], result["hbm_available"], result["gpu"])),
    ]
    for name, facts in result["programs"].items():
        if facts["fits"] and facts["collectives"]:
            lines += ["", f"collectives of {name}:", *_collectives(facts)]
    lines += ["", *result.get("remarks", [])]
    peak = f"the peak of {result['peak_flops'] / 1e12:.0f} TFLOP/s ({result['source']})"
    if result["gpu"]:
        lines.append(
            f"The bound is at {peak}. The estimate takes {LAUNCH_S * 1e6:.0f} us for a kernel at least, and else {REACHED:.0%} of the "
            f"memory's rate, {REACHED_BY_CUDNN:.0%} in cuDNN's convolutions: fitted to four trainings of ResNet-32 on an H100, which it "
            "gives within 10 %. Other networks and cards may differ more. Grouped convolutions, which packs have unless formulation is "
            "'packed', are several times slower than it says."
        )
    else:
        lines.append(f"A bound at {peak}, never measured on a TPU; bytes count what stays on the chip too.")
    return "\n".join(lines)


def _way_out(result: dict, name: str, facts: dict) -> str:
    """A remedy for a program that does not fit."""
    batch, trains = facts["fitting_images_per_chip"], name == "train"
    micro, group = (result["micro_batch"], result["bn_group_size"]) if trains else (0, 0)
    if batch:
        field = "batch_size" if trains else "eval_batch_size"
        other = ", or lower config.micro_batch, since its activations are in memory at once" if micro else ""
        return f"about {batch} images a chip would fit: --config.{field}={batch * result['chips_per_trial']}{other}"
    if facts["one_image_fits"] and micro:
        return (
            f"no batch_size would fit with a whole micro-batch of {micro} images on each chip: lower config.micro_batch"
        )
    if facts["one_image_fits"] and group:
        return (
            f"no batch_size would fit with a whole BatchNorm group of {group} images on each chip: lower "
            "config.bn_group_size, and batch_size with it"
        )
    return "not even one image a chip would fit: take a chip with more memory or a smaller network"


def problem(result: dict) -> str | None:
    """An error message if a program does not fit; None if all fit."""
    lines = []
    for name, facts in result["programs"].items():
        if facts["fits"]:
            continue
        needed = f"needs {binary(facts['needed'])} of HBM" if facts["needed"] else "needs more HBM than there is"
        lines.append(
            f"{name} of {facts['images_per_chip']} images a chip does not fit on {result['topology']}: it {needed}, of "
            f"{binary(result['hbm_available'], 2)} available; {_way_out(result, name, facts)}."
        )
    return " ".join(lines) or None
