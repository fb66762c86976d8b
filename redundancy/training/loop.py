"""Trains a pack of runs from their last checkpoint to their result. The training loop is here, on one screen."""

import dataclasses
import time

import jax
import numpy as np
from absl import logging

from redundancy import storage
from redundancy.errors import UserError
from redundancy.progress import Progress
from redundancy.training.checkpoints import Checkpoints, common_step
from redundancy.training.metrics import MetricsWriter
from redundancy.training.trainer import Trainer

PRETRAIN_SEED = 0  # trial t has seed t + 1, so the network that embeds is none of the trials


@dataclasses.dataclass(frozen=True)
class Job:
    """One training: where it writes, which positions it sees, and its seed.

    Runs of the same seed start from the same parameters and see their common images in the same order.
    """

    name: str
    folder: str
    kept: np.ndarray  # int64 [n] positions
    seed: int


class DivergedError(UserError):
    """The loss of a run is not a number."""


def result_path(folder: str) -> str:
    return storage.join(folder, "result.json")


def _write_metrics(jobs, writers, waiting, step):
    """Means over the dispatches since the last line; `waiting` holds device arrays of [T, K]."""
    means = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1).mean(axis=1), *jax.device_get(waiting))
    for index, (job, writer) in enumerate(zip(jobs, writers, strict=True)):
        values = {name: float(value[index]) for name, value in means.items()}
        if not np.isfinite(values["loss"]):
            raise DivergedError(
                f"the loss of {job.name} is {values['loss']} at step {step}: the training diverged. Lower config.lr "
                f"or raise config.warmup_steps, with a new --workdir; metrics are in {job.folder}."
            )
        writer.write(step, values)
    return float(means["loss"].mean())


def train_pack(trainer: Trainer, jobs: list[Job], size: int, steps: int, what: str) -> list[dict]:
    """Trains jobs at once for `steps` steps and writes each one's result.json.

    Starts from the last step that all of them have a checkpoint of. Copies of the last job fill the pack up
    to `size`; nothing is written for them.

    Returns:
      the results, one per job: test_accuracy, test_correct, test_size, test_loss, seconds.
    """
    config = trainer.config
    filled = jobs + [jobs[-1]] * (size - len(jobs))
    seeds = np.array([job.seed for job in filled], np.uint32)
    checkpoints = [Checkpoints(job.folder) for job in jobs]
    states = [trainer.init_state(job.seed) for job in jobs]
    start = common_step(checkpoints) or 0
    if start:
        logging.info("%s: continues at step %d", what, start)
        states = [saved.restore(start, like) for saved, like in zip(checkpoints, states, strict=True)]
    state = trainer.stack(states + [states[-1]] * (size - len(jobs)))
    writers = [MetricsWriter(job.folder, start) for job in jobs]

    began, waiting = time.monotonic(), []
    items = trainer.feed.train_items(
        [job.kept for job in filled],
        [(config.seed, job.seed) for job in filled],
        config.batch_size,
        start,
        steps,
        trainer.block,
    )
    with Progress(what, steps, "steps", done=start) as progress:
        step = start
        for item in items:
            first, step = step, step + item["position"].shape[1]
            state, metrics = trainer.train(state, seeds, steps, trainer.put_items(item))
            # Metrics of the step before are fetched while this step runs; the device never waits.
            waiting.append(metrics)
            if len(waiting) > 1:
                jax.block_until_ready(waiting[-2])
            note = ""
            if step // config.log_every > first // config.log_every or step == steps:
                note = f"loss {_write_metrics(jobs, writers, waiting, step):.4f}"
                waiting = []
            if step // config.checkpoint_every > first // config.checkpoint_every or step == steps:
                for saved, one in zip(checkpoints, trainer.unstack(state, len(jobs)), strict=True):
                    saved.save(step, one)
                for writer in writers:
                    writer.flush()
            progress.advance(step - first, note)

    correct, loss = trainer.evaluate(state)
    test_size = len(trainer.dataset.test.positions)
    results = []
    for index, (job, saved) in enumerate(zip(jobs, checkpoints, strict=True)):
        saved.close()
        result = {
            "test_accuracy": int(correct[index]) / test_size,
            "test_correct": int(correct[index]),
            "test_size": test_size,
            "test_loss": float(loss[index]),
            "images": len(job.kept),
            "steps": steps,
            "seconds": round(time.monotonic() - began, 3),
        }
        storage.write_json(result_path(job.folder), result)
        results.append(result)
    return results
