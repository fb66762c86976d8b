"""A finished workdir of a small experiment, made once for all tests that only read it or change a copy."""

import contextlib
import fcntl
import functools
import os
import pathlib
import shutil
from collections.abc import Iterator

import jax

from redundancy import config as config_lib
from redundancy.embedding.extract import embed
from redundancy.experiment.sweep import sweep
from redundancy.report.stage import report
from redundancy.scoring.stage import score
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.training.pretrain import train
from redundancy.workdir import STAGES, Workdir

_FUNCTIONS = dict(zip(STAGES, (train, embed, score, link, select, sweep, report), strict=True))


def small_config(data, **fields):
    """As configs/digits.py:smoke, and still smaller."""
    return config_lib.resolve(
        {
            "dataset": str(data), "augmentation": "none", "depth": 8, "widths": (4, 8, 8), "steps": 6,
            "warmup_steps": 1, "batch_size": 64, "fractions": (0.5,), "trials": 1, "embedding_parts": 2, "log_every": 2,
            "checkpoint_every": 2, **fields,
        }
    )  # fmt: skip


def run_stages(config, workdir: Workdir, *names: str) -> None:
    """Stages as the command line runs them; all without names."""
    workdir.claim(config)
    for name in names or STAGES:
        _FUNCTIONS[name](config, workdir)


@contextlib.contextmanager
def quick_programs() -> Iterator[None]:
    """Programs are compiled quickly rather than well; results are those of other programs but for rounding."""
    before = jax.config.values["jax_disable_most_optimizations"]

    def switch(value):
        if value != jax.config.values["jax_disable_most_optimizations"]:
            jax.config.update("jax_disable_most_optimizations", value)
            jax.clear_caches()

    switch(True)
    try:
        yield
    finally:
        switch(before)


@functools.cache
def finished(base: pathlib.Path, data: pathlib.Path, seed: int = 0):
    """Config and workdir of a whole run, by quick programs; made once for all workers of a session.

    Args:
      base: the worker's folder of temporary files.
      data: a copy of it is the run's data set.
    """
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished_run"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (copy := folder / "digits.npz").exists():
            shutil.copy(data, copy)
        config, workdir = small_config(copy, seed=seed), Workdir(str(folder / f"seed{seed}"))
        if not (done := folder / f"seed{seed}.done").exists():
            shutil.rmtree(workdir.root, ignore_errors=True)
            with quick_programs():
                run_stages(config, workdir)
            done.touch()
    return config, workdir
