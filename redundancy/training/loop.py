"""The training loop: trains a pack of runs from their last checkpoint to their result."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from redundancy import config as config_lib
from redundancy import storage
from redundancy.runtime import preemption, processes
from redundancy.runtime.errors import Preempted
from redundancy.runtime.progress import Progress
from redundancy.training import checkpoints as checkpoints_lib
from redundancy.training.checkpoints import Checkpoints, common_step
from redundancy.training.meter import DivergedError, Line, Meter
from redundancy.training.metrics import MetricsWriter
from redundancy.training.profiling import Profiler
from redundancy.training.trainer import Trainer
from redundancy.workdir.table import Schedule

PRETRAIN_SEED = 0  # trial t has seed t + 1, so no trial repeats the training of the embedding network


@dataclasses.dataclass(frozen=True)
class Job:
    """One training: its folder, the positions that it trains on, and its seed.

    Runs with the same seed start from the same parameters and see their common images in the same order.
    """

    name: str
    folder: str
    kept: np.ndarray  # int64 [n] positions
    seed: int


def result_path(folder: str) -> str:
    return storage.join(folder, "result.json")


def identity(config, job: Job, schedule: Schedule) -> dict[str, Any]:
    """JSON that identifies a training by config, schedule, seed and images; only its own checkpoints continue it."""
    kept = hashlib.sha256(np.ascontiguousarray(job.kept, "<i8").data).hexdigest()
    return {
        **config_lib.identity(config),
        **dataclasses.asdict(schedule),
        "trial seed": job.seed,
        "kept positions": kept,
    }


def digest(identity: Mapping[str, Any]) -> str:
    """Checksum of an identity. It is stored in the result, so that this is not taken for that of another training."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _diverged(error: DivergedError, jobs: list[Job], checkpoints: list[Checkpoints]) -> DivergedError:
    """Closes the checkpoints; returns the error with the last good checkpoint and a remedy added to its text."""
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
    """Writes lines of metrics; returns a summary of the last one."""
    note = ""
    for step, values in lines:
        for writer, of_run in zip(writers, values, strict=True):
            writer.write(step, of_run)
        note = f"loss {np.mean([of_run['loss'] for of_run in values]):.4f}"
    return note


def train_pack(
    trainer: Trainer,
    jobs: list[Job],
    size: int,
    schedule: Schedule,
    what: str,
    profile: bool = False,
    until: int | None = None,
) -> list[dict]:
    """Trains several jobs at once and writes a result.json for each.

    Starts at the last step at which all jobs have a checkpoint. Copies of the last job fill the pack up to `size`; nothing is
    written for them. If any process of the run is asked to end, all processes save the same step and end.

    Args:
      trainer: trainer for the data set.
      jobs: one for each run.
      size: trials in the pack.
      schedule: schedule of every job.
      what: name of this work, for the progress display.
      profile: whether to trace some steps into the first job's folder.
      until: step at which to save and stop; None for the last step. A training that stops earlier has no results, and another
        call continues it.

    Returns:
      one result per job: test_accuracy, test_correct, test_size, test_loss, seconds; [] if it stops before the end.

    Raises:
      DivergedError: a loss or a parameter is not finite; names the step and the last good checkpoint.
      Preempted: the process was asked to end; the state is saved.
      WorkdirError: a checkpoint is damaged or belongs to another training.
    """
    config, steps = trainer.config, schedule.steps if until is None else until
    filled = jobs + [jobs[-1]] * (size - len(jobs))
    seeds = np.array([job.seed for job in filled], np.uint32)
    checkpoints = [Checkpoints(job.folder, config.checkpoints_kept) for job in jobs]
    states = [trainer.init_state(job.seed) for job in jobs]
    identities = [identity(config, job, schedule) for job in jobs]
    start, before = common_step(checkpoints) or 0, []
    if start:
        logging.info("%s: continues at step %d", what, start)
        states = [saved.restore(start, *each) for saved, *each in zip(checkpoints, states, identities, strict=True)]
        before = [saved.progress(start) for saved in checkpoints]
    state = trainer.stack(states + [states[-1]] * (size - len(jobs)))
    # One trial of a pack may be further than the others, and packs may be divided differently in the next run.
    writers = [
        MetricsWriter(job.folder, max(saved.steps(), default=0)) for job, saved in zip(jobs, checkpoints, strict=True)
    ]
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
        [progress.pending for progress in before],
    )
    profiler = Profiler(jobs[0].folder, profile and processes.is_first())

    began = time.monotonic() - max([progress.at.get("seconds", 0) for progress in before], default=0)
    items = trainer.feed.train_items(
        [job.kept for job in filled],
        [(config.seed, job.seed) for job in filled],
        config.batch_size,
        start,
        steps,
        trainer.programs.block,
    )
    try:
        with Progress(what, steps, "steps", done=start) as progress, preemption.deferred():
            step = start
            for item in items:
                first, step = step, step + item["position"].shape[1]
                state, metrics = trainer.train(state, seeds, schedule, item)
                profiler.dispatched(metrics)
                # Fetches metrics of the previous dispatch while this one runs, so that the device never waits.
                note = _write(meter.sent(step, metrics), writers)
                ending = processes.ending()
                if ending or step // config.checkpoint_every > first // config.checkpoint_every or step == steps:
                    note = _write(meter.rest(), writers) or note
                    ones = trainer.unstack(state, len(jobs))
                    for job, one in zip(jobs, ones, strict=True):
                        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one)):
                            raise DivergedError(f"the parameters of {job.name} are not finite after step {step}")
                    # The order matters: a checkpoint is written only after all lines up to it, and no run starts its next
                    # checkpoint before all runs have the previous one.
                    for writer in writers:
                        writer.flush()
                    for saved in checkpoints:
                        saved.wait()
                    seconds, pending = time.monotonic() - began, meter.pending()
                    for job, of, saved, one, values in zip(jobs, identities, checkpoints, ones, pending, strict=True):
                        at = {"epoch": step * config.batch_size / len(job.kept), "seconds": seconds}
                        saved.save(step, one, checkpoints_lib.Progress(of, at, values))
                    if ending:
                        for saved in checkpoints:
                            saved.close()
                        logging.info("%s: asked to end; saved step %d", what, step)
                        raise Preempted
                    meter.resume()
                progress.advance(step - first, note)
    except DivergedError as error:
        raise _diverged(error, jobs, checkpoints) from None
    finally:
        profiler.close()

    if steps < schedule.steps:
        for saved in checkpoints:
            saved.close()
        return []
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
            "training": digest(identities[index]),
            "seconds": round(time.monotonic() - began, 3),
            "time": round(time.time(), 3),
        }
        if processes.is_first():
            storage.write_json(result_path(job.folder), result)
        results.append(result)
    return results
