"""The stage `train`: trains the embedding network on the whole training set."""

from absl import logging

from redundancy.data import shared_dataset
from redundancy.runtime import processes
from redundancy.training.checkpoints import Checkpoints
from redundancy.training.loop import PRETRAIN_SEED, Job, train_pack
from redundancy.training.mesh import make_mesh, pack_size
from redundancy.training.trainer import Trainer
from redundancy.workdir import Workdir, read_manifest, table, write_manifest


def train(config, workdir: Workdir, profile: bool = False) -> None:
    """Trains on the full set and writes pretrain/: checkpoints, metrics, result, manifest and, with `profile`, a trace.

    Raises:
      ConfigError: the warm-up of this training, or of one in the sweep, is longer than the training.
    """
    if read_manifest(workdir.pretrain, step=int) is not None:
        logging.info("train: finished already")
        return
    dataset = shared_dataset(config)
    num_images = len(dataset.train.positions)
    # Checked here, because the sweep would report an error only after this training and the stages between.
    table.check(config, num_images)
    schedule = table.full_schedule(config, num_images)
    workdir.claim_dataset(dataset.fingerprint, dataset.skipped)
    mesh = make_mesh(config, num_trials=1)
    trainer = Trainer(config, dataset, mesh)
    job = Job("pretrain", workdir.pretrain, dataset.train.positions, PRETRAIN_SEED)
    (result,) = train_pack(trainer, [job], pack_size(config, mesh, num_trials=1), schedule, "train", profile)
    logging.info("train: test accuracy %.4f", result["test_accuracy"])
    if processes.is_first():
        checkpoints = Checkpoints(workdir.pretrain)
        manifest = {
            "step": schedule.steps,
            "network": checkpoints.sha256(schedule.steps),
            "fingerprint": dataset.fingerprint,
            "test_accuracy": result["test_accuracy"],
        }
        checkpoints.close()
        write_manifest(workdir.pretrain, manifest)
