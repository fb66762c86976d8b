"""Run by test_multidevice.py with 8 host devices: trains the same two trials on several meshes, prints JSON."""

import json
import re
import sys
import tempfile

import jax
import numpy as np
from jax.sharding import AxisType

from redundancy import config as config_lib
from redundancy.data import open_dataset
from redundancy.runtime import preemption
from redundancy.runtime.errors import Preempted
from redundancy.training.loop import Job, train_pack
from redundancy.training.mesh import make_mesh
from redundancy.training.trainer import Trainer
from redundancy.workdir.table import full_schedule

FIELDS = {
    "depth": 8, "widths": (4, 4, 8), "augmentation": "crop", "pad": 1, "steps": 4, "warmup_steps": 1, "batch_size": 32,
    "eval_batch_size": 100,
}  # fmt: skip


def collectives(trainer, trials):
    """Of every collective in the compiled training step its kind and its device groups."""
    with jax.set_mesh(trainer.mesh):
        text = trainer.programs.train.lower(*trainer.programs.train_arguments(trials, 1, 1347)).compile().as_text()
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
    lines = re.findall(rf" ((?:{kinds})(?:-start)?\(.*)", text)
    return [
        (line.split("(")[0], re.search(r"(?:replica_groups|source_target_pairs)=(\S+?),? ", line + " ")[1])
        for line in lines
    ]


def moved(first, second, kept, schedule):
    """Test losses of two trials that are stopped on one mesh after two steps and go on on another."""
    train, sent = first.train, []

    def stopping(*arguments):
        sent.append(1)
        if len(sent) == 2:
            preemption.notice()
        return train(*arguments)

    first.train = stopping
    with tempfile.TemporaryDirectory() as folder:
        jobs = [Job(f"run{i}", f"{folder}/run{i}", positions, i + 1) for i, positions in enumerate(kept)]
        try:
            train_pack(first, jobs, 2, schedule, "first")
        except Preempted:
            preemption._asked.clear()
        results = train_pack(second, jobs, 2, schedule, "second")
    assert len(sent) == 2
    return [result["test_loss"] for result in results]


def main(npz):
    out, alone = {"devices": jax.device_count()}, None
    for group in (0, 4):
        config = config_lib.resolve({**FIELDS, "dataset": npz, "bn_group_size": group})
        dataset = open_dataset(config)
        schedule = full_schedule(config, len(dataset.train.positions))
        # Groups within a device are trained on more meshes by tests/training/test_processes.py.
        for shape in ((1, 1), (2, 1), (2, 4), (1, 8)) if group == 0 else ((1, 1), (2, 4)):
            devices = jax.devices()[: shape[0] * shape[1]]
            mesh = jax.make_mesh(shape, ("trial", "data"), axis_types=(AxisType.Auto,) * 2, devices=devices)
            trainer = Trainer(config, dataset, mesh)
            alone = trainer if shape == (1, 1) else alone
            with tempfile.TemporaryDirectory() as folder:
                kept = (dataset.train.positions, dataset.train.positions[::2])
                jobs = [Job(f"run{i}", f"{folder}/run{i}", positions, i + 1) for i, positions in enumerate(kept)]
                results = train_pack(trainer, jobs, 2, schedule, "pack")
            (layers,) = trainer.embed(trainer.init_state(1), np.arange(90))
            out[f"{group} {shape}"] = {
                "loss": [result["test_loss"] for result in results],
                "size": results[0]["test_size"],
                "embedding": np.asarray(layers["end"]).mean(axis=1).tolist(),
            }
            if shape == (2, 4):
                looped = Trainer(config, dataset, mesh)
                assert not looped.programs.unroll
                with tempfile.TemporaryDirectory() as folder:
                    jobs = [Job(f"run{i}", f"{folder}/run{i}", kept[i % 2], i % 2 + 1) for i in range(4)]
                    results = train_pack(looped, jobs, 4, schedule, "looped")
                out[f"{group} looped"] = [result["test_loss"] for result in results]
                out[f"{group} collectives"] = collectives(trainer, 2)
                out[f"{group} moved"] = moved(alone, trainer, kept, schedule)
    auto = {trials: dict(make_mesh(config, trials).shape) for trials in (1, 2, 3, 8, 100)}
    print(json.dumps({**out, "auto": auto}))


main(sys.argv[1])
