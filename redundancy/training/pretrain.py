"""The stage `train`: the network that embeds, trained on the whole training set."""

from absl import logging

from redundancy.data import shared_dataset
from redundancy.training.loop import PRETRAIN_SEED, Job, train_pack
from redundancy.training.mesh import make_mesh, pack_size
from redundancy.training.schedule import full_schedule
from redundancy.training.trainer import Trainer
from redundancy.workdir import Workdir, read_manifest, write_manifest


def train(config, workdir: Workdir, profile: bool = False) -> None:
    """Trains on the full set and writes pretrain/: checkpoints, metrics, result, manifest; and a trace with `profile`."""
    if read_manifest(workdir.pretrain, step=int) is not None:
        logging.info("train: finished already")
        return
    dataset = shared_dataset(config)
    workdir.claim_dataset(dataset.fingerprint)
    mesh = make_mesh(config, num_trials=1)
    trainer = Trainer(config, dataset, mesh)
    job = Job("pretrain", workdir.pretrain, dataset.train.positions, PRETRAIN_SEED)
    schedule = full_schedule(config, len(dataset.train.positions))
    (result,) = train_pack(trainer, [job], pack_size(config, mesh, num_trials=1), schedule, "train", profile)
    logging.info("train: test accuracy %.4f", result["test_accuracy"])
    write_manifest(
        workdir.pretrain,
        {"step": schedule.steps, "fingerprint": dataset.fingerprint, "test_accuracy": result["test_accuracy"]},
    )
