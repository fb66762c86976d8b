"""Test accuracy of the same network, recipe and data, trained by this package and by PyTorch.

    python -m benchmarks.accuracy --data cifar10.npz --config cifar10 --depth 20 --epochs 3 --seeds 2

It does not measure speed, but whether a short training reaches the same accuracy. `python -m redundancy.data.to_npz
cifar10 cifar10.npz` writes the data.
"""

import argparse
import json
import runpy
import statistics
import sys
import tempfile
from collections.abc import Sequence

import jax
import numpy as np

from benchmarks import common
from benchmarks.common import say
from redundancy import config as config_lib
from redundancy.data import open_dataset
from redundancy.training.learning_rate import learning_rate, peak_learning_rate
from redundancy.training.loop import Job, train_pack
from redundancy.training.mesh import make_mesh
from redundancy.training.trainer import Trainer
from redundancy.workdir.table import full_schedule

_PACKAGES = ("numpy", "jax", "jaxlib", "flax", "optax", "torch", "redundancy")


def ours(config, dataset, seeds: int) -> list[float]:
    """Test accuracy of each seed."""
    trainer = Trainer(config, dataset, make_mesh(config, num_trials=1))
    schedule, found = full_schedule(config, len(dataset.train.positions)), []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            job = Job(f"seed {seed}", folder, dataset.train.positions, seed + 1)
            (result,) = train_pack(trainer, [job], trainer.mesh.shape["trial"], schedule, job.name)
        found.append(result["test_accuracy"])
        say(f"ours, seed {seed}: {found[-1]:.4f}, {result['seconds']:.0f} s")
    return found


def pytorch(config, dataset, seeds: int) -> list[float]:
    """Test accuracy of each seed, the peer's."""
    import torch

    from benchmarks import torch_training
    from redundancy.models import make_model

    device = "cpu" if jax.devices()[0].platform == "cpu" else "cuda"
    model, found = make_model(config, len(dataset.class_names)), []
    schedule = full_schedule(config, len(dataset.train.positions))
    steps = np.arange(schedule.steps)
    rates = np.asarray(learning_rate(steps, schedule.steps, peak_learning_rate(config), schedule.warmup_steps))
    images = {part.name: dataset.read(part.name, part.positions) for part in (dataset.train, dataset.test)}
    for seed in range(seeds):
        torch.manual_seed(seed)
        network = torch_training.ResNet(
            model.stage_blocks, model.widths, len(dataset.class_names), model.bottleneck, model.imagenet_stem
        )
        training = torch_training.Training(
            network,
            images["train"],
            dataset.train.labels,
            config.batch_size,
            device,
            channels_last=True,
            bfloat16=config.dtype == "bfloat16",
            compiled=None if device == "cpu" else "default",
            pad=config.pad,
            rate=lambda step: float(rates[step]),
            mean=config.mean,
            std=config.std,
        )
        training.epochs(schedule.steps)
        found.append(training.accuracy(images["test"], dataset.test.labels))
        say(f"PyTorch, seed {seed}: {found[-1]:.4f}")
    return found


def main(arguments: Sequence[str]) -> None:
    """Trains and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help=".npz file of images")
    parser.add_argument("--config", default="cifar10")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--epochs", type=float, default=3.0, help="0: the config's own steps")
    parser.add_argument("--warmup-epochs", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=2)
    flags = parser.parse_args(arguments)
    given = runpy.run_path(flags.config)["get_config"]()
    given.update({"dataset": flags.data, "depth": flags.depth})
    if flags.epochs:
        given.update({"epochs": flags.epochs, "warmup_epochs": flags.warmup_epochs})
    config = config_lib.resolve(given)
    if config.augmentation != "crop_flip":
        parser.error(f"the config's augmentation is {config.augmentation!r}; wanted crop_flip, which PyTorch's has")
    dataset = open_dataset(config)
    found = {"ours": ours(config, dataset, flags.seeds), "pytorch": pytorch(config, dataset, flags.seeds)}
    summary = {
        name: {"mean": statistics.mean(accuracies), "accuracies": accuracies} for name, accuracies in found.items()
    }
    schedule = full_schedule(config, len(dataset.train.positions))
    recipe = {"steps": schedule.steps, "warmup_steps": schedule.warmup_steps, "config": config_lib.to_json(config)}
    print(
        json.dumps(
            common.header("accuracy", arguments, _PACKAGES) | {"test_accuracy": summary, "recipe": recipe}, indent=2
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
