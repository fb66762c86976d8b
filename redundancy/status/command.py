"""The command `status`: prints the result of `survey` for a workdir, as text or JSON, once or repeatedly."""

import datetime
import sys
import time
from collections.abc import Mapping
from json import dumps
from typing import Any, TextIO

from redundancy.config import fraction_name
from redundancy.runtime.errors import ConfigError
from redundancy.runtime.progress import duration
from redundancy.runtime.sizes import decimal
from redundancy.status.survey import survey

_MOST_SHOWN = 12  # largest number of trainings, and of damaged files, in the text


def status(root: str, json: bool = False, watch: float | None = None, out: TextIO | None = None) -> int:
    """Prints the status of a workdir; returns the exit code, which is 1 if something is damaged.

    Args:
      root: path of the workdir, local or gs://.
      json: whether to print JSON.
      watch: seconds between two reports; None for a single report.
      out: stream to print to; standard output by default.

    Raises:
      ConfigError: `watch` is out of range.
      WorkdirError: the folder is not a workdir.
    """
    out = sys.stdout if out is None else out
    if watch is not None and not 0.1 <= watch <= 86_400:  # also refuses NaN
        raise ConfigError(f"--watch={watch:g}: wanted seconds from 0.1 to 86400, for example --watch=10.")
    painting = out.isatty() and not json
    try:
        while True:
            found = survey(root)
            if json:
                text = dumps(found, indent=None if watch else 1, ensure_ascii=False)
            elif watch and not painting:
                text = line(found)
            else:
                text = render(found)
            # Moves the cursor home and clears the screen before the text.
            print(f"\x1b[H\x1b[2J{text}" if painting and watch else text, file=out, flush=True)
            if watch is None:
                return 1 if found["damaged"] else 0
            time.sleep(watch)
    except KeyboardInterrupt:
        if watch is None:
            raise
        return 0


def _when(iso: str | None) -> str:
    return "?" if iso is None else iso[:16].replace("T", " ")


def _owner(owner: Mapping[str, Any]) -> str:
    silent = "" if owner["silent_s"] is None else f", last sign {duration(owner['silent_s'])} ago"
    who = f"redundancy {owner['command']}, process {owner['pid']} on {owner['host']}, since {_when(owner['since'])}{silent}"
    if owner["state"] == "gone":
        return f"nobody is at work; {who} ended without giving the workdir back (killed, or its machine went down)"
    return f"at work: {who}" + (
        "; this machine cannot see whether it still runs" if owner["state"] == "unknown" else ""
    )


def _training(of: Mapping[str, Any]) -> str:
    total = "" if of["steps"] is None else f" of {of['steps']:,}"
    rate = "" if of["images_per_second"] is None else f", {of['images_per_second']:,.0f} images/s"
    loss = "" if of["loss"] is None else f", loss {of['loss']:.4f}"
    return f"  {of['run']}  {of['state']} at step {of['step']:,}{total}{rate}{loss}"


def _kind(row: Mapping[str, Any]) -> str:
    layer = "" if row["layer"] == "end" else f" {row['layer']}"
    return f"{row['method']}{layer} {fraction_name(row['fraction'])}"


def _runs(runs: Mapping[str, Any]) -> list[str]:
    names = [_kind(row) for row in runs["table"]]
    width = max(map(len, [*names, "all"]))
    lines = [f"  {'runs':{width}}  {'all':>5} {'done':>5} {'running':>8} {'left':>5}"]
    for name, row in zip([*names, "all"], [*runs["table"], runs], strict=True):
        lines.append(f"  {name:{width}}  {row['runs']:5} {row['done']:5} {row['running']:8} {row['left']:5}")
    lines += [_training(of) for of in runs["training"][:_MOST_SHOWN]]
    if (more := len(runs["training"]) - _MOST_SHOWN) > 0:
        lines.append(f"  and {more} more")
    if runs["others"]:
        lines.append(f"  {len(runs['others'])} folders are not runs of this config, for example {runs['others'][0]}")
    return lines


def _sure(found: Mapping[str, Any]) -> list[str]:
    """A line for each row of the comparison with the full set."""
    from redundancy.report import words

    names = [_kind(row) for row in found["rows"]]
    width = max(map(len, names))
    lines = [
        f"how sure: test accuracy less the full set's, in points; no worse is a loss below {words.margin(found['margin'])}"
    ]
    for name, row in zip(names, found["rows"], strict=True):
        between = "no interval"
        if row["low"] is not None:
            between = f"95% interval {words.points(row['low'])} to {words.points(row['high'])}"
        more = ""
        if row["trials_more"] is not None:
            more = f", {words.trials(row['trials_more'])} more {'trial' if row['trials_more'] == 1 else 'trials'} would show no worse"
            more += "" if row["seconds"] is None else f" ({duration(row['seconds'])} at this rate)"
        pairs = words.plural(row["pairs"], "pair")
        lines.append(f"  {name:{width}}  {words.points(row['mean'])}, {between}, {pairs}: {row['verdict']}{more}")
    return lines


def _pace(pace: Mapping[str, Any]) -> list[str]:
    per = pace["per_second"]
    rate = f"{per:,.3g} {pace['unit']}/s" if per >= 0.1 else f"{per * 3600:,.3g} {pace['unit']}/h"
    lines = [f"rate: {rate}, {pace['left']:,.0f} {pace['unit']} of {pace['stage']} left (from {pace['how']})"]
    left = duration(pace["left_s"])
    if pace["end"] is None:
        lines.append(f"expected end: none, since nobody is at work; {left} of work is left")
    else:
        lines.append(
            f"expected end of {pace['stage']}: {_when(pace['end'])}, in {left} (pauses and compiling left out)"
        )
    return lines


def _error(found: Mapping[str, Any]) -> str:
    stage = f" (in {found['stage']})" if found.get("stage", found["command"]) not in found["command"].split() else ""
    return (
        f"last error: {duration(found['age_s'])} ago, redundancy {found['command']}{stage} on {found['host']}, exit code "
        f"{found['code']}: {found['message']}"
    )


def render(found: Mapping[str, Any]) -> str:
    """The status as text of several lines."""
    stages = found["stages"]
    done = sum(stage["state"] == "finished" for stage in stages)
    needed = sum(stage["state"] not in ("not needed", "not here") for stage in stages)
    name = f"data set {found['dataset']}" if found["dataset"] else "no data set"
    lines = [
        f"{found['workdir']}: {name}, {done} of {needed} stages finished, {decimal(found['bytes']['all'])}; "
        f"{_when(found['time'])}"
    ]
    lines += [_owner(owner) for owner in found["at_work"]] or ["nobody is at work"]
    for stage in stages:
        said = f", {stage['files']}" if stage["files"] else ""
        when = stage["last_written"]
        when = (
            "" if when is None else f" {_when(when)}" if stage["state"] == "finished" else f", last file {_when(when)}"
        )
        page = (
            f", {found['workdir']}/report/index.html"
            if (stage["stage"], stage["state"]) == ("report", "finished")
            else ""
        )
        lines.append(f"  {stage['stage']:7} {stage['state']}{when}{said}{page}")
    lines += found["beyond"]
    if found["pretrain"] is not None:
        lines.append(_training({"run": "train", **found["pretrain"]}))
    if found["runs"] is not None:
        lines += _runs(found["runs"])
    if found["sure"] is not None:
        lines += _sure(found["sure"])
    if found["pace"] is not None:
        lines += _pace(found["pace"])
    lines += [_error(each) for each in found["errors"]]
    lines += [f"damaged: {text}" for text in found["damaged"][:_MOST_SHOWN]]
    if (more := len(found["damaged"]) - _MOST_SHOWN) > 0:
        lines.append(f"damaged: and {more} more")
    return "\n".join(lines)


def line(found: Mapping[str, Any]) -> str:
    """The status in one line, for a log."""
    current = next((stage for stage in found["stages"] if stage["state"] in ("running", "stopped", "next")), None)
    parts = [f"{datetime.datetime.fromisoformat(found['time']):%H:%M:%S}"]
    parts.append("all stages finished" if current is None else f"{current['stage']} {current['state']}")
    if (runs := found["runs"]) is not None:
        parts.append(f"{runs['done']} of {runs['runs']} runs done, {runs['running']} running")
    if (pace := found["pace"]) is not None:
        parts.append(f"{duration(pace['left_s'])} left")
    if not any(owner["state"] != "gone" for owner in found["at_work"]):
        parts.append("nobody is at work")
    parts += [_error(each) for each in found["errors"][:1]]
    parts += [f"{len(found['damaged'])} damaged: {found['damaged'][0]}"] if found["damaged"] else []
    return ", ".join(parts)
