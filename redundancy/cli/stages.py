"""Runs stages and imports in a workdir: takes the lease, checks disk and memory, and records errors."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags, logging

from redundancy import methods
from redundancy.cli import commands
from redundancy.cli.explain import verdict
from redundancy.runtime import preemption, processes
from redundancy.runtime.errors import WorkdirError
from redundancy.workdir import Workdir, last_error
from redundancy.workdir.lease import Lease, is_held


def _stage(name: str, lease: Lease, goal: Mapping[str, Any] | None):
    """The stage's function, imported late so that mistakes in the command line are reported fast; `goal` is for rounds."""
    match name:
        case "train":
            from redundancy.training.pretrain import train

            stage = functools.partial(train, profile=flags.FLAGS.profile)
        case "embed":
            from redundancy.embedding.extract import embed as stage
        case "score":
            from redundancy.scoring.stage import score as stage
        case "link":
            from redundancy.selection.link import link

            stage = functools.partial(link, engine=commands.engine())
        case "select":
            from redundancy.selection.select import select as stage
        case "sweep":
            from redundancy.experiment.sweep import sweep

            stage = functools.partial(sweep, profile=flags.FLAGS.profile, part=commands.part(), agree=lease.agree)
            if (root := flags.FLAGS.join) is not None:
                stage = functools.partial(_joined, stage, root)
            if goal is not None:
                from redundancy.cli.rounds import sweep_in_rounds

                stage = functools.partial(sweep_in_rounds, wanted=goal, sweep=stage, fingerprint=_fingerprint)
        case "report":
            from redundancy.report.stage import report

            def stage(config, workdir):
                processes.first(lambda: report(config, workdir))
                if flags.FLAGS.style is not None:
                    from redundancy.report import paper

                    processes.first(lambda: paper.write(config, workdir))

    return stage


def _joined(sweep, root: str, config, workdir: Workdir) -> None:
    """Takes over the results of another workdir, then runs the stage sweep."""
    from redundancy.experiment.join import join

    processes.first(lambda: join(config, workdir, root))
    sweep(config, workdir)


def _check_estimates(names: Sequence[str], config, workdir: Workdir) -> None:
    from redundancy import estimates
    from redundancy.data import shared_dataset
    from redundancy.report.named import named_labels
    from redundancy.workdir.finished import is_finished

    left = [name for name in names if not is_finished(config, workdir, name)]
    dataset = shared_dataset(config) if {"train", "embed", "score", "sweep"} & {*left} else None
    if dataset is not None and "report" in names:
        named_labels(config.report_classes, dataset.class_names)
    cluster = bool(flags.FLAGS.scheduler) and not flags.FLAGS.scheduler.startswith("local")
    estimates.check(config, workdir, dataset, left, cluster)


def _fingerprint(config):
    from redundancy.data import sources

    return sources.fingerprint(config)


def run_stages(names: Sequence[str], config, workdir: Workdir) -> None:
    """Runs the stages in order, on several hosts together with the other processes."""
    lease = Lease(workdir.root, commands.part())
    watch = processes.Watch(before_end=lease.release)
    watch.start()
    with preemption.before_end(lease.release), preemption.stopping_after(commands.stop_after()):
        _work(names, config, workdir, lease, watch)


def _work(names: Sequence[str], config, workdir: Workdir, lease: Lease, watch: processes.Watch) -> None:
    at = goal = None  # the current stage, once the workdir is claimed; and the goal of a sweep in rounds
    command = "run" if len(names) > 1 else names[0]
    try:
        token = processes.first(lease.acquire)
        if not processes.is_first() and not is_held(workdir.root, token, commands.part()):
            raise WorkdirError(
                f"--workdir {workdir.root} is not the folder that process 0 works in: on several hosts it must lie on storage "
                "that all of them share, for example gs://bucket/path."
            )
        if (asked := commands.goal(command)) is not None:
            from redundancy.cli import rounds

            config, goal = rounds.begin(config, workdir, asked)
        config = workdir.claim(config, _fingerprint, part=commands.part() is not None)
        at = command
        if "select" in names and methods.scores(config):
            from redundancy.selection.select import check_imported

            processes.first(lambda: check_imported(config, workdir))
        _check_estimates(names, config, workdir)
        for at in names:
            logging.info("stage %s", at)
            _stage(at, lease, goal)(config, workdir)
            processes.barrier()
        if processes.is_first():
            last_error.forget(workdir.root, command, commands.part())
    except (Exception, KeyboardInterrupt) as error:
        code, message = verdict(error)
        processes.await_verdict(error)
        if at is not None and isinstance(error, Exception):
            last_error.record(workdir.root, command, code, message, at, commands.part())
        processes.fail(code, message)
        raise
    finally:
        watch.stop()
        lease.release()


def run_scores(words: Sequence[str], workdir: Workdir) -> int:
    """Runs the command scores, with the lease if it writes to the workdir; returns the exit code."""
    if words != ["import"]:
        commands.scores(words, workdir)
        return 0
    with Lease(workdir.root):
        commands.scores(words, workdir)
    return 0


def run_import(workdir: Workdir, config) -> int:
    """Runs the command import, with the lease, as for stages; returns the exit code."""
    with Lease(workdir.root):
        try:
            code = commands.run("import", workdir, config)
        except Exception as error:
            last_error.record(workdir.root, "import", *verdict(error))
            raise
        last_error.forget(workdir.root, "import")
    return code
