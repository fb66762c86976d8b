"""Training steps of ResNet-32 on CIFAR's shape and ResNet-50 on ImageNet's, beside PyTorch, on the device there is.

    python -m benchmarks.training [--quick] [--json] [--only NAME …]

Whole steps: batches gathered on the device, crops and flips, forward, backward, SGD with momentum and L2; images are
noise. A ratio is ours over PyTorch's images/s, the median over repetitions in which the two alternate, PyTorch in the
fastest of the forms that were tried; above 1 ours is faster. Everything is compiled first, PyTorch's forms side by side in
processes of their own, and then timed alone. On an accelerator it ends within four minutes (--seconds).
"""

import dataclasses
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import common
from benchmarks.common import say
from redundancy import config as config_lib
from redundancy.models import make_model
from redundancy.models.flops import multiply_adds
from redundancy.runtime.errors import ConfigError
from redundancy.runtime.machine import cores
from redundancy.training.mesh import make_mesh, put
from redundancy.training.peaks import peak_flops
from redundancy.training.programs import Programs

_PACKAGES = ("numpy", "jax", "jaxlib", "flax", "optax", "torch", "redundancy")
_LONGEST_COMPILE_S = 120  # for which PyTorch is waited, once ours is compiled
_IMAGES = {32: 50_000, 224: 2_000}  # by side, resident on the device
_RESNET32 = {"depth": 32, "augmentation": "crop_flip", "pad": 4, "batch_size": 128}
_RESNET50 = {
    "form": "imagenet",
    "depth": 50,
    "widths": (64, 128, 256, 512),
    "augmentation": "flip",
    "image_size": 224,
    "zero_init_residual": True,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One network, trained in packs of some trials.

    Attributes:
      fields: of the config, but for those that depend on the device.
      side: of the images, pixels.
      classes: of the classifier.
      packs: trials in a pack, by the name of the entry.
    """

    fields: Mapping[str, Any]
    side: int
    classes: int
    packs: Mapping[str, dict]


def cases(accelerator: bool, quick: bool) -> dict[str, Case]:
    """What is measured on a CPU or an accelerator."""
    single = {"single": {"pack": 1}}
    if not accelerator:
        loops = {
            f"pack of {trials}, loop": {"pack": trials, "pack_mode": "loop"} for trials in ((4,) if quick else (4, 8))
        }
        return {
            "resnet32": Case(_RESNET32, 32, 10, single | loops),
            "resnet50": Case({**_RESNET50, "batch_size": 16}, 224, 1000, single),
        }
    packs = {
        f"pack of 8, {formulation}": {"pack": 8, "pack_mode": "vmap", "formulation": formulation}
        for formulation in ("xla", "packed")
    }
    small = {**_RESNET32, "steps_per_dispatch": 50}
    large = {**_RESNET50, "dtype": "bfloat16", "batch_size": 256, "steps_per_dispatch": 10}
    return {
        "resnet32-bfloat16": Case({**small, "dtype": "bfloat16"}, 32, 10, single | packs),
        "resnet32": Case(small, 32, 10, single),
        "resnet50": Case(large, 224, 1000, single),
    }


def _data(case: Case, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise: images uint8 [count, side, side, 3] and labels int64 [count]."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, case.side, case.side, 3), np.uint8)
    return images, rng.integers(0, case.classes, count)


class Ours:
    """Steps of a pack through the programs that `redundancy train` runs."""

    def __init__(self, case: Case, pack: Mapping[str, Any], images: np.ndarray, labels: np.ndarray):
        self.first_call_s = math.nan  # seconds until the first steps were done
        self.config = config_lib.resolve({**case.fields, **pack})
        self.trials = self.config.pack
        self._mesh = make_mesh(self.config, self.trials, jax.devices()[:1])
        shape = images.shape[1:]
        self.programs = Programs(
            self.config, shape, case.classes, self._mesh, resident=True, vmap=self.config.pack_mode == "vmap"
        )
        self.multiply_adds = multiply_adds(self.programs.model, shape)
        spec = jax.sharding.PartitionSpec
        self._arrays = put(self._mesh, spec(), {"image": images, "label": labels.astype(np.int32)})
        states = [jax.device_get(self.programs.init(np.uint32(trial))) for trial in range(self.trials)]
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(states[0]["params"]))
        self._state = put(self._mesh, spec("trial"), jax.tree.map(lambda *leaves: np.stack(leaves), *states))
        self._seeds = np.arange(self.trials, dtype=np.uint32)
        self._rng, self._count, self._put = np.random.default_rng(0), len(images), spec("trial", None, "data")

    def steps(self, count: int) -> float:
        """Trains every trial for `count` steps; returns the last loss, waited for."""
        block, schedule = self.programs.block, {"steps": np.float32(1e6), "warmup_steps": np.float32(1e3)}
        for _ in range(count // block):
            rows = self._rng.integers(0, self._count, (self.trials, block, self.config.batch_size), np.int32)
            items = put(self._mesh, self._put, {"row": rows, "position": rows})
            with jax.set_mesh(self._mesh):
                self._state, metrics = self.programs.train(self._state, self._seeds, schedule, self._arrays, items)
        return float(np.asarray(metrics["loss"])[0, -1])


def _torch_forms(device: str) -> dict[str, dict]:
    if device == "cpu":
        return {
            "eager": {"channels_last": False, "compiled": None},
            "eager, channels_last": {"channels_last": True, "compiled": None},
            "compile": {"channels_last": True, "compiled": "default"},
        }
    return {
        "compile, channels_last": {"channels_last": True, "compiled": "default"},
        "compile reduce-overhead, channels_last": {"channels_last": True, "compiled": "reduce-overhead"},
        "eager, channels_last": {"channels_last": True, "compiled": None},
    }


def _torch_training(case: Case, form: Mapping[str, Any], images, labels, device: str):
    """PyTorch's training of the case in one of its forms."""
    import torch

    from benchmarks import torch_training

    if device == "cpu":
        torch.set_num_threads(cores())  # a part of what compiled forms are kept under
    config = config_lib.resolve(case.fields)
    model = make_model(config, case.classes)
    network = torch_training.ResNet(
        model.stage_blocks, model.widths, case.classes, model.bottleneck, model.imagenet_stem
    )
    return torch_training.Training(
        network,
        images,
        labels,
        config.batch_size,
        device,
        bfloat16=config.dtype == "bfloat16",
        pad=config.pad if "crop" in config.augmentation else 0,
        **form,
    )


def _compile_torch(case: Case, form: Mapping[str, Any], device: str) -> None:
    """Compiles one form in a process of its own; PyTorch keeps what it made on disk."""
    _torch_training(case, form, *_data(case, 256), device).steps(1)


def _compile(chosen: Mapping[str, Case], device: str) -> dict[tuple[str, str], "Ours"]:
    """Our trainings by case and entry, and PyTorch's forms on disk: all that must be compiled before anything is timed."""
    context, found = multiprocessing.get_context("spawn"), {}
    children = {
        f"{name}, {form}": context.Process(target=_compile_torch, args=(case, fields, device))
        for name, case in chosen.items()
        for form, fields in _torch_forms(device).items()
        if fields["compiled"]
    }
    for child in children.values():
        child.start()
    for name, case in chosen.items():
        images, labels = _data(case, _IMAGES[case.side])
        for entry, pack in case.packs.items():
            began = time.perf_counter()
            try:
                ours = Ours(case, pack, images, labels)
                ours.steps(ours.programs.block)
            except ConfigError as error:  # kernels of our own want jax_triton
                say(f"  {name}, {entry}: {error}")
                continue
            ours.first_call_s = time.perf_counter() - began
            found[name, entry] = ours
            say(f"  {name}, {entry}: compiled in {ours.first_call_s:.1f} s")
    for name, child in children.items():
        child.join(_LONGEST_COMPILE_S)
        child.kill()
        child.join()
        say(f"  PyTorch, {name}: " + (f"not compiled, exit code {child.exitcode}" if child.exitcode else "compiled"))
    return found


def _fastest_torch(case: Case, ours: Ours, images, labels, device: str, steps: int) -> tuple[Any, dict[str, float]]:
    """PyTorch's training in its fastest form, and images/s of every form."""
    from benchmarks import torch_training

    best, rates = None, {}
    for name, form in _torch_forms(device).items():
        training = _torch_training(case, form, images, labels, device)
        if torch_training.parameters(training.network) != ours.parameters:
            raise AssertionError("PyTorch's network has another number of parameters than ours")
        try:
            timing = common.repeat(lambda training=training: training.steps(steps), 2)
        except Exception as error:
            say(f"  PyTorch, {name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}")
            continue
        rates[name] = steps * ours.config.batch_size / timing.median_s
        say(f"  PyTorch, {name}: {rates[name]:,.0f} images/s, first call {timing.first_call_s:.1f} s")
        if rates[name] == max(rates.values()):
            best = training
    if best is None:
        raise SystemExit("PyTorch trained in none of its forms; see the messages above")
    return best, rates


def _roofline(device, dtype: str) -> tuple[float, str]:
    """Peak FLOP/s: published where known, else of a float32 matrix product here and now."""
    if published := peak_flops(device.device_kind, dtype):
        return published, "published"
    side = 2048
    x = jax.numpy.ones((side, side), jax.numpy.float32)
    product = jax.jit(lambda x: x @ x)
    timing = common.repeat(lambda: product(x).block_until_ready(), 5)
    return 2 * side**3 / min(timing.seconds), "of a float32 matrix product of 2,048 x 2,048, measured"


def _entry(ours: Ours, peer, steps: int, repeats: int, peak: float) -> dict[str, Any]:
    """A pack beside as many trainings of the peer, one after the other."""
    timing = common.alternate(lambda: ours.steps(steps), lambda: peer.steps(steps * ours.trials), repeats)
    rate, peer_rate = (steps * ours.config.batch_size * ours.trials / of.median_s for of in (timing.ours, timing.peer))
    flops = 6 * ours.multiply_adds
    return {
        "median_s": timing.ours.median_s,
        "first_call_s": ours.first_call_s,
        "seconds": timing.ours.seconds,
        "peer_seconds": timing.peer.seconds,
        "ratio": timing.ratio,
        "ratios": timing.ratios,
        "images_per_second": rate,
        "peer_images_per_second": peer_rate,
        "share_of_peak": rate * flops / peak,
        "peer_share_of_peak": peer_rate * flops / peak,
    }


def _steps(ours: Ours, quick: bool) -> int:
    """Steps between two looks at the clock."""
    accelerator, block = jax.devices()[0].platform != "cpu", ours.programs.block
    steps = block * max(1, (4 if quick else 12) // (block * (1 if accelerator else ours.trials)))
    return steps * (4 if accelerator and not quick else 1)


def measure(names: Sequence[str], quick: bool, repeats: int, budget: float) -> dict[str, Any]:
    """Cases and ratios, as for JSON; what has not begun after `budget` seconds is left out."""
    began, device = time.perf_counter(), jax.devices()[0]
    torch_device = "cuda" if device.platform in ("gpu", "cuda") else "cpu"
    every = cases(device.platform != "cpu", quick)
    chosen = {name: case for name, case in every.items() if not names or name in names}
    compiled = _compile(chosen, torch_device)
    found, ratios = {}, {}
    for name, case in chosen.items():
        entries = {entry: ours for (of, entry), ours in compiled.items() if of == name}
        results, ours = {entry: {"not_run": "it does not compile"} for entry in case.packs}, entries["single"]
        if time.perf_counter() - began > budget:
            say(f"{name}: the time is over")
            continue
        say(name)
        peer, forms = _fastest_torch(case, ours, *_data(case, _IMAGES[case.side]), torch_device, _steps(ours, quick))
        peak, source = _roofline(device, ours.config.dtype)
        for entry, ours in entries.items():
            if time.perf_counter() - began > budget:
                results[entry] = {"not_run": "the time was over"}
                continue
            results[entry] = _entry(ours, peer, _steps(ours, quick), repeats, peak)
            ratios[f"{name}/{entry}"] = results[entry]["ratio"]
            say(f"  {entry}: {remark(results[entry])}")
        found[name] = {
            "batch_size": ours.config.batch_size,
            "dtype": ours.config.dtype,
            "parameters": ours.parameters,
            "multiply_adds": ours.multiply_adds,
            "pytorch_images_per_second": forms,
            "peak_flops": peak,
            "peak": source,
            "results": results,
        }
    return {"ratios": ratios, "cases": found, "seconds": time.perf_counter() - began}


def remark(entry: Mapping[str, Any]) -> str:
    """Images a second, of both."""
    if "not_run" in entry:
        return ""
    return (
        f"{entry['images_per_second']:,.0f} images/s, {100 * entry['share_of_peak']:.0f} % of the peak; "
        f"PyTorch {entry['peer_images_per_second']:,.0f}, {100 * entry['peer_share_of_peak']:.0f} %"
    )


def notes(result: Mapping[str, Any]) -> list[str]:
    """What the table does not say."""
    lines = []
    for name, case in result["cases"].items():
        forms = "; ".join(f"{form} {rate:,.0f}" for form, rate in case["pytorch_images_per_second"].items())
        lines.append(
            f"{name}: batch {case['batch_size']}, {case['dtype']}, {case['parameters']:,} parameters, "
            f"{case['multiply_adds'] / 1e6:,.0f} M multiply-adds; peak {case['peak_flops'] / 1e12:.2f} TFLOP/s, "
            f"{case['peak']}; PyTorch, images/s: {forms}"
        )
    return lines


def main(arguments: Sequence[str]) -> None:
    """Measures what the flags ask for and prints it."""
    parser = common.parser(__doc__, ["resnet32", "resnet32-bfloat16", "resnet50"])
    parser.add_argument("--repeats", type=int, default=0, help="alternating repetitions (default: 3 quick, 7 else)")
    parser.add_argument(
        "--seconds", type=float, default=0, help="after which nothing new begins (default: 220 on an accelerator)"
    )
    flags = parser.parse_args(arguments)
    # PyTorch needs memory of the same device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    names = flags.only or (["resnet32"] if flags.quick else [])
    budget = flags.seconds or (math.inf if jax.devices()[0].platform == "cpu" else 220)
    found = measure(names, flags.quick, flags.repeats or (3 if flags.quick else 7), budget)
    result = common.header("training", arguments, _PACKAGES) | found
    print(json.dumps(result, indent=2) if flags.json else common.text(result, remark, notes(result)))
    say("done")


if __name__ == "__main__":
    main(sys.argv[1:])
