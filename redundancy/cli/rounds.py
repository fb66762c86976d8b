"""A sweep in rounds: selects and trains more trials until the goal is reached, and logs the state after each round."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from redundancy import config as config_lib
from redundancy import storage
from redundancy.config import fraction_name
from redundancy.report import looks, noninferiority, results, statistics, words
from redundancy.runtime import processes
from redundancy.runtime.errors import ConfigError
from redundancy.selection.select import select
from redundancy.workdir import Workdir, need_manifest, rounds
from redundancy.workdir.rounds import Goal


def begin(config, workdir: Workdir, goal: Goal) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Checks the goal; returns the config of the first round, and the record of the goal before its first look.

    Raises:
      ConfigError: the goal does not suit the config.
      WorkdirError: the workdir has looks that were taken according to another plan.
    """
    goal.check(config.trials)
    config_lib.resolve({**config, "trials": goal.most})  # raises ConfigError for too many trainings
    if all(fraction == 1 for fraction in config.fractions):
        raise ConfigError("--until wants a fraction below 1 in config.fractions: there is nothing to compare.")
    planned = looks.planned(config.trials, goal.most, goal.looks) if goal.width is None else []
    numbers = dict(margin=config.report_margin, least=config.trials, most=goal.most)
    wanted = {"until": goal.until, **numbers, "planned": planned, "taken": []}
    processes.first(lambda: rounds.check(workdir, wanted))
    return rounds.with_trials(config, (planned or [config.trials])[0]), wanted


def sweep_in_rounds(
    config, workdir: Workdir, wanted: Mapping[str, Any], sweep: Callable, fingerprint: Callable
) -> None:
    """Runs the stages select and sweep with more and more trials.

    Args:
      config: config of the current round, which has claimed the workdir.
      workdir: workdir with merges.
      wanted: the record of the goal before its first look.
      sweep: the function of the stage sweep.
      fingerprint: see Workdir.claim.
    """
    while True:
        select(config, workdir)
        processes.barrier()
        sweep(config, workdir)
        following = processes.first(lambda config=config: _look(config, workdir, wanted))
        if following is None:
            return
        config = workdir.claim(rounds.with_trials(config, following), fingerprint)


def _look(config, workdir: Workdir, wanted: Mapping[str, Any]) -> int | None:
    """Takes a look at the results, records it and logs it; returns the number of trials of the next round, None at the end."""
    trials = config.trials
    record = {**wanted, "taken": (rounds.read(workdir) or wanted)["taken"]}
    level = looks.level(record, trials)
    runs = results.read(config, workdir, need_manifest(workdir.subsets, "select", files=list)).runs
    found = noninferiority.answers(statistics.summarise(runs, level), config.report_margin, level)
    rows = [
        (f"{answer.method}{'' if answer.layer == 'end' else f' {answer.layer}'} {fraction_name(test.fraction)}", test)
        for answer in found
        for test in answer.tests
    ]
    if wanted["planned"]:
        following, said = _verdicts(rows, trials, wanted["planned"])
    else:
        following, said = _widths(rows, trials, wanted["most"], float(wanted["until"]))
    taken = [look for look in record["taken"] if look["trials"] < trials]
    storage.write_json(rounds.path(workdir), {**record, "taken": [*taken, {"trials": trials, "next": following}]})
    logging.info("sweep: %s; %s", said, "ends here" if following is None else f"on to {following} trials")
    return following


def _widths(rows, trials: int, most: int, width: float) -> tuple[int | None, str]:
    halves = [(test.difference.half if test.difference.has_interval else math.inf, name) for name, test in rows]
    half, name = max(halves)
    shown = f"±{100 * half:.3g} points ({name})" if math.isfinite(half) else f"unknown ({name}: all pairs alike)"
    said = f"after {words.plural(trials, 'trial')} the widest 95% interval is {shown}, wanted ±{width:g}"
    return looks.next_trials(trials, half, width / 100, most), said + (
        f", --most={most} reached" if trials >= most else ""
    )


def _verdicts(rows, trials: int, planned: list[int]) -> tuple[int | None, str]:
    following = next((each for each in planned if each > trials), None)
    if not any(test.verdict == noninferiority.CANNOT_TELL for _, test in rows):
        following = None
    said = ", ".join(f"{name} {test.verdict}" for name, test in rows)
    return (
        following,
        f"look {planned.index(trials) + 1} of {len(planned)} after {words.plural(trials, 'trial')}: {said}",
    )
