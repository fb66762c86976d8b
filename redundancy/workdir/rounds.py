"""A sweep in rounds of trials: the flag --until, and the record of its looks at the results, runs/looks.json."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import ml_collections

from redundancy import storage
from redundancy.runtime.errors import ConfigError, WorkdirError
from redundancy.workdir.layout import Layout
from redundancy.workdir.manifest import need_fields

VERDICT = "verdict"
_LEAST = 4  # trials needed before a width is judged, since the spread of fewer is unreliable


@dataclasses.dataclass(frozen=True)
class Goal:
    """The condition that ends a sweep in rounds.

    Attributes:
      width: half of the width, in percentage points, that no interval may exceed; None for "until every verdict is reached".
      most: largest number of trials.
      looks: number of planned looks, for verdicts.
    """

    width: float | None
    most: int
    looks: int

    @property
    def until(self) -> str:
        """The value of --until."""
        return VERDICT if self.width is None else f"{self.width:g}"

    def check(self, trials: int) -> None:
        """Raises ConfigError if the goal does not suit a config's number of trials, which is the smallest number."""
        if trials > self.most:
            raise ConfigError(f"--most={self.most} is below config.trials, {trials}, which is the least. Raise --most.")
        if (least := _LEAST if self.width is not None else 2) > trials:
            raise ConfigError(
                f"config.trials is {trials}; --until={self.until} wants {least} or more, which is the least that it looks at."
            )


def parse(until: str, most: int | None, looks: int) -> Goal:
    """The goal that the flags name.

    Raises:
      ConfigError: --until is not a valid goal, or --most is missing.
    """
    width = None
    if until != VERDICT:
        try:
            width = float(until)
        except ValueError:
            width = math.nan
        if not 0.0001 <= width <= 100:
            raise ConfigError(
                f"--until={until}: wanted points from 0.0001 to 100, half the width of the widest interval, for example 0.1; "
                f"or {VERDICT}."
            )
    if most is None:
        raise ConfigError(f"--most is missing: the most trials that --until={until} may take, for example --most=40.")
    return Goal(width, most, looks)


def path(workdir: Layout) -> str:
    return workdir.path("runs", "looks.json")


def read(workdir: Layout) -> dict[str, Any] | None:
    """The record: until, margin, least, most, planned (for verdicts), and the looks taken so far; None if there is none.

    Raises:
      DataError: the record is damaged.
    """
    try:
        found = storage.read_json(path(workdir))
    except FileNotFoundError:
        return None
    for look in need_fields(path(workdir), found, until=str, planned=list, taken=list)["taken"]:
        need_fields(path(workdir), look, trials=int)
    return found


def grown(config: Mapping[str, Any], workdir: Layout) -> Mapping[str, Any]:
    """The config with at least as many trials as the rounds of the sweep have reached."""
    record = read(workdir)
    if record is None or not record["taken"]:
        return config
    last = record["taken"][-1]
    trials = max(config["trials"], last.get("next") or last["trials"])
    return with_trials(config, trials)


def with_trials(config: Mapping[str, Any], trials: int) -> ml_collections.FrozenConfigDict:
    return ml_collections.FrozenConfigDict({**config, "trials": trials})


def check(workdir: Layout, wanted: Mapping[str, Any]) -> None:
    """Raises WorkdirError if looks were taken according to another plan than that of the record `wanted`."""
    found = read(workdir)
    if found is None or not found["taken"]:
        return
    if VERDICT in (found["until"], wanted["until"]):
        names = [name for name in wanted if name != "taken" and found.get(name) != wanted[name]]
        if names:
            shown = "; ".join(f"{name}: {found.get(name)!r} there, {wanted[name]!r} here" for name in names)
            raise WorkdirError(
                f"{path(workdir)} was begun with another plan. Differing: {shown}. A plan cannot change after the first look, or its "
                "error rates do not hold: give the same --until, --most, --looks, --config.trials and "
                "--config.report_margin, or choose another --workdir."
            )
