"""Trains a pack of runs from their last checkpoint to their result. The training loop is here, on one screen."""

import dataclasses
import time
from collections.abc import Iterable

import jax
import numpy as np
from absl import logging

from redundancy import storage
from redundancy.progress import Progress
from redundancy.training.checkpoints import Checkpoints, common_step
from redundancy.training.meter import DivergedError, Line, Meter
from redundancy.training.metrics import MetricsWriter
from redundancy.training.profiling import Profiler
from redundancy.training.schedule import Schedule
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


def result_path(folder: str) -> str:
    return storage.join(folder, "result.json")


def _diverged(error: DivergedError, jobs: list[Job], checkpoints: list[Checkpoints]) -> DivergedError:
    """The error with what is left and what to do; the checkpoints are closed."""
    for saved in checkpoints:
        saved.wait()
    steps = sorted(set.intersection(*(set(saved.steps()) for saved in checkpoints)))
    last = f"The last good checkpoint is {checkpoints[0].folder}/{steps[-1]}" if steps else "There is no checkpoint yet"
    for saved in checkpoints:
        saved.close()
    return DivergedError(
        f"{error}: the training diverged. {last}; metrics are in {jobs[0].folder}. "
        "Lower config.lr_per_256 or raise config.warmup_steps, with a new --workdir."
    )


def _write(lines: Iterable[Line], writers: list[MetricsWriter]) -> str:
    """Writes lines of metrics; returns the last in a few words."""
    note = ""
    for step, values in lines:
        for writer, of_run in zip(writers, values, strict=True):
            writer.write(step, of_run)
        note = f"loss {np.mean([of_run['loss'] for of_run in values]):.4f}"
    return note


def train_pack(
    trainer: Trainer, jobs: list[Job], size: int, schedule: Schedule, what: str, profile: bool = False
) -> list[dict]:
    """Trains jobs at once and writes each one's result.json.

    Starts from the last step that all of them have a checkpoint of. Copies of the last job fill the pack up
    to `size`; nothing is written for them.

    Args:
      trainer: of the data set.
      jobs: one for each run.
      size: trials in the pack.
      schedule: of every job.
      what: name of this work, for its progress.
      profile: whether some steps are traced, into the first job's folder.

    Returns:
      the results, one per job: test_accuracy, test_correct, test_size, test_loss, seconds.

    Raises:
      DivergedError: a loss or a parameter is no number; names the step and the last good checkpoint.
    """
    config, steps = trainer.config, schedule.steps
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
    meter = Meter(
        [job.name for job in jobs],
        start,
        steps,
        config.log_every,
        config.batch_size,
        size,
        trainer.mesh.devices.flatten(),
        trainer.flops_per_image,
        config.dtype,
    )
    profiler = Profiler(jobs[0].folder, profile)

    began = time.monotonic()
    items = trainer.feed.train_items(
        [job.kept for job in filled],
        [(config.seed, job.seed) for job in filled],
        config.batch_size,
        start,
        steps,
        trainer.block,
    )
    try:
        with Progress(what, steps, "steps", done=start) as progress:
            step = start
            for item in items:
                first, step = step, step + item["position"].shape[1]
                state, metrics = trainer.train(state, seeds, schedule, item)
                profiler.dispatched(metrics)
                # Metrics of the dispatch before are fetched while this one runs; the device never waits.
                note = _write(meter.sent(step, metrics), writers)
                if step // config.checkpoint_every > first // config.checkpoint_every or step == steps:
                    note = _write(meter.rest(), writers) or note
                    for job, saved, one in zip(jobs, checkpoints, trainer.unstack(state, len(jobs)), strict=True):
                        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one)):
                            raise DivergedError(f"the parameters of {job.name} are not finite after step {step}")
                        saved.save(step, one)
                    for writer in writers:
                        writer.flush()
                    meter.resume()
                progress.advance(step - first, note)
    except DivergedError as error:
        raise _diverged(error, jobs, checkpoints) from None
    finally:
        profiler.close()

    correct, loss = trainer.evaluate(state)
    for job, of_job in zip(jobs, loss, strict=False):
        if not np.isfinite(of_job):
            error = DivergedError(f"the test loss of {job.name} is {of_job} after step {steps}")
            raise _diverged(error, jobs, checkpoints)
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
