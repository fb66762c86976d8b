"""Run as a program by test_processes.py: the losses of 20 steps of two trials on meshes of all processes' devices.

loss_curves.py NPZ MESHES [PROCESSES INDEX PORT]     MESHES: JSON, [[trial, data], ...]
"""

import json
import sys

import jax

if len(sys.argv) > 3:
    processes, index, port = map(int, sys.argv[3:])
    jax.distributed.initialize(
        f"127.0.0.1:{port}",
        processes,
        index,
        coordinator_bind_address=f"127.0.0.1:{port}",
        heartbeat_timeout_seconds=100,
    )

import numpy as np
from jax.sharding import AxisType

from redundancy import config as config_lib
from redundancy.data import open_dataset
from redundancy.training.mesh import fetch_to_host
from redundancy.training.trainer import Trainer
from redundancy.workdir.table import full_schedule

FIELDS = {
    "depth": 8, "widths": (4, 4, 8), "augmentation": "crop_flip", "pad": 1, "steps": 20, "warmup_steps": 4,
    "batch_size": 32, "bn_group_size": 4, "eval_batch_size": 100,
}  # fmt: skip


def curves(npz, shape, resident):
    config = config_lib.resolve({**FIELDS, "dataset": npz, "resident_mb": 2048 if resident else 0})
    dataset = open_dataset(config)
    devices = np.array(jax.devices())[: shape[0] * shape[1]].reshape(shape)
    trainer = Trainer(config, dataset, jax.sharding.Mesh(devices, ("trial", "data"), axis_types=(AxisType.Auto,) * 2))
    positions = dataset.train.positions
    seeds = np.arange(1, 3, dtype=np.uint32)
    state = trainer.stack([trainer.init_state(int(seed)) for seed in seeds])
    items = trainer.feed.train_items([positions, positions[::2]], [(0, 1), (0, 2)], 32, 0, config.steps, 1)
    metrics = []
    for item in items:
        state, values = trainer.train(state, seeds, full_schedule(config, len(positions)), item)
        metrics.append(values["loss"])
    correct, loss = trainer.evaluate(state)
    (embedded,) = trainer.embed(trainer.unstack(state, 2)[1], positions[:90])
    return {
        "losses": np.concatenate(fetch_to_host(metrics), axis=1).tolist(),
        "correct": correct.tolist(),
        "test_loss": loss.tolist(),
        "embedding": embedded["end"].mean(axis=0).tolist(),
    }


def main(npz, meshes):
    found = {}
    for shape in json.loads(meshes):
        for feed in ("resident", "streamed"):
            if feed == "resident" or jax.process_count() > 1 or shape == [1, 1]:
                found[f"{shape} {feed}"] = curves(npz, tuple(shape), feed == "resident")
    print(json.dumps(found))


main(*sys.argv[1:3])
