"""Training steps of ResNet-32 on CIFAR's shape and ResNet-50 on ImageNet's, beside PyTorch, on the device there is.

    python -m benchmarks.training [--quick] [--json] [--only NAME …]

Whole steps: batches gathered on the device, crops and flips, forward, backward, SGD with momentum and L2; images are
noise. A ratio is ours over PyTorch's images/s, the median over repetitions in which the two alternate, PyTorch in the
fastest of the forms that were tried; above 1 ours is faster.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import common
from benchmarks.common import say
from redundancy import config as config_lib
from redundancy.models.flops import multiply_adds
from redundancy.training.mesh import make_mesh, put
from redundancy.training.peaks import peak_flops
from redundancy.training.programs import Programs

_PACKAGES = ("numpy", "jax", "jaxlib", "flax", "optax", "torch", "redundancy")
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
    packs = {"single": {"pack": 1}}
    modes = ("loop", "vmap") if accelerator else ("loop",)
    packs |= {
        f"pack of {trials}, {mode}": {"pack": trials, "pack_mode": mode}
        for trials in ((4,) if quick else (4, 8))
        for mode in modes
    }
    dtype = {"dtype": "bfloat16"} if accelerator else {}
    found = {"resnet32": Case({**_RESNET32, "steps_per_dispatch": 50 if accelerator else 1}, 32, 10, packs)}
    if accelerator:
        found["resnet32-bfloat16"] = dataclasses.replace(
            found["resnet32"], fields={**found["resnet32"].fields, **dtype}
        )
    batch = {"batch_size": 256 if accelerator else 16, "steps_per_dispatch": 10 if accelerator else 1}
    found["resnet50"] = Case({**_RESNET50, **dtype, **batch}, 224, 1000, {"single": {"pack": 1}})
    return found


class Ours:
    """Steps of a pack through the programs that `redundancy train` runs."""

    def __init__(self, case: Case, pack: Mapping[str, Any], images: np.ndarray, labels: np.ndarray):
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


def _fastest_torch(case: Case, ours: Ours, images, labels, device: str, steps: int) -> tuple[Any, dict[str, float]]:
    """PyTorch's training in its fastest form, and images/s of every form."""
    from benchmarks import torch_training

    best, rates = None, {}
    for name, form in _torch_forms(device).items():
        model = ours.programs.model
        network = torch_training.ResNet(
            model.stage_blocks, model.widths, case.classes, model.bottleneck, model.imagenet_stem
        )
        if torch_training.parameters(network) != ours.parameters:
            raise AssertionError("PyTorch's network has another number of parameters than ours")
        config = ours.config
        training = torch_training.Training(
            network,
            images,
            labels,
            config.batch_size,
            device,
            bfloat16=config.dtype == "bfloat16",
            pad=config.pad if "crop" in config.augmentation else 0,
            **form,
        )
        try:
            timing = common.repeat(lambda training=training: training.steps(steps), 2)
        except Exception as error:  # torch.compile wants a C++ compiler, CUDA graphs a recent GPU
            say(f"  PyTorch, {name}: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
            continue
        rates[name] = steps * config.batch_size / timing.median_s
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


def measure(names: Sequence[str], quick: bool, repeats: int) -> dict[str, Any]:
    """Cases and ratios, as for JSON."""
    device = jax.devices()[0]
    accelerator = device.platform != "cpu"
    torch_device = "cuda" if device.platform in ("gpu", "cuda") else "cpu"
    if device.platform == "cpu":
        import torch

        from redundancy.runtime.machine import cores

        torch.set_num_threads(cores())
    found, ratios = {}, {}
    for name, case in cases(accelerator, quick).items():
        if names and name not in names:
            continue
        say(name)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (_IMAGES[case.side], case.side, case.side, 3), np.uint8)
        labels = rng.integers(0, case.classes, len(images))
        results, peer, forms = {}, None, {}
        for entry, pack in case.packs.items():
            ours = Ours(case, pack, images, labels)
            batch, block = ours.config.batch_size, ours.programs.block
            steps = block * max(1, (4 if quick else 12) // (block * (1 if accelerator else ours.trials)))
            steps *= 4 if accelerator and not quick else 1
            if peer is None:
                peer, forms = _fastest_torch(case, ours, images, labels, torch_device, steps)
            # The trials of a pack are as many trainings of the peer, one after the other.
            timing = common.alternate(
                lambda ours=ours, steps=steps: ours.steps(steps),
                lambda peer=peer, steps=steps, ours=ours: peer.steps(steps * ours.trials),
                repeats,
            )
            trained = steps * batch * ours.trials
            peak, source = _roofline(device, ours.config.dtype)
            flops = 6 * ours.multiply_adds
            results[entry] = {
                "median_s": timing.ours.median_s,
                "first_call_s": timing.ours.first_call_s,
                "seconds": timing.ours.seconds,
                "peer_seconds": timing.peer.seconds,
                "ratio": timing.ratio,
                "ratios": timing.ratios,
                "images_per_second": trained / timing.ours.median_s,
                "peer_images_per_second": trained / timing.peer.median_s,
                "share_of_peak": trained / timing.ours.median_s * flops / peak,
                "peer_share_of_peak": trained / timing.peer.median_s * flops / peak,
            }
            ratios[f"{name}/{entry}"] = timing.ratio
            say(f"  {entry}: {results[entry]['images_per_second']:,.0f} images/s, ratio {timing.ratio:.2f}")
        found[name] = {
            "batch_size": batch,
            "dtype": ours.config.dtype,
            "parameters": ours.parameters,
            "multiply_adds": ours.multiply_adds,
            "pytorch_images_per_second": forms,
            "peak_flops": peak,
            "peak": source,
            "results": results,
        }
    return {"ratios": ratios, "cases": found}


def remark(entry: Mapping[str, Any]) -> str:
    """Images a second, of both."""
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
    flags = parser.parse_args(arguments)
    names = flags.only or (["resnet32"] if flags.quick else [])
    found = measure(names, flags.quick, flags.repeats or (3 if flags.quick else 7))
    result = common.header("training", arguments, _PACKAGES) | found
    print(json.dumps(result, indent=2) if flags.json else common.text(result, remark, notes(result)))
    say("done")


if __name__ == "__main__":
    main(sys.argv[1:])
