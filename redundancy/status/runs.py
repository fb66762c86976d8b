"""The runs of a workdir according to their files: which are done, and the progress and rate of the others."""

import concurrent.futures
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from redundancy import storage
from redundancy.status import pace
from redundancy.status.files import Files
from redundancy.storage.listing import File, read_tail
from redundancy.workdir import need_fields, table

_TAIL = 1 << 14  # bytes read from the end of a run's metrics, about sixty lines
_MOST_READ = 64  # largest number of runs whose metrics are read
_READERS = 16
_SILENT_S, _COMPILING_S = 600.0, 3600.0  # a run that has written nothing for this time is not being trained
_RESULT = {"steps": int, "test_correct": int, "test_size": int}
_STEP = re.compile(r"checkpoints/(\d+)/")


def training(
    files: Files, config: Mapping[str, Any], folder: str, of_folder: Mapping[str, File], steps: int | None
) -> dict[str, Any]:
    """The progress of an unfinished training, from its last lines of metrics and its checkpoints.

    Args:
      files: files of the workdir.
      config: the recorded config.
      folder: folder of the training.
      of_folder: files of that folder.
      steps: steps of the whole training.

    Returns:
      step, steps, images_per_second, loss, steps_per_second (None if unknown), `told`: the time at which it wrote its step,
      and `fresh`: whether it has written recently.
    """
    tail = files.read(f"{folder}/metrics.jsonl", lambda path: read_tail(path, _TAIL))
    lines = storage.json_lines(tail or b"", "step", "time")
    last = lines[-1] if lines else {}
    saved = [int(found[1]) for name in of_folder if (found := _STEP.match(name))]
    rate = pace.of_lines(lines)
    written = max((file.time for file in of_folder.values()), default=0.0)
    # On storage that cannot append, lines are written only with checkpoints.
    patience = max(_SILENT_S, 3 * config["checkpoint_every"] / rate) if rate else _COMPILING_S
    return {
        "step": max([last.get("step", 0), *saved]),
        "steps": steps,
        "images_per_second": last.get("images_per_second"),
        "loss": last.get("loss"),
        "steps_per_second": rate,
        "told": last.get("time"),
        "fresh": files.now - written <= patience,
    }


def sweep(files: Files, config: Mapping[str, Any], num_images: int, working: bool) -> dict[str, Any]:
    """Counts the done, running and remaining runs of each method, layer and fraction, and describes the unfinished ones.

    Args:
      files: files of the workdir.
      config: the recorded config.
      num_images: training images, 0 if unknown.
      working: whether a process may be working.
    """
    runs = [{**dataclasses.asdict(run), "run": run.name} for run in table.runs(config, num_images)]
    by_run = {}
    for name, file in files.below("runs").items():
        run, inside, rest = name.partition("/")
        if inside:
            by_run.setdefault(run, {})[rest] = file
    begun = []
    for run in runs:
        of_folder, name = by_run.get(run["run"], {}), f"runs/{run['run']}/result.json"
        run["ended"] = of_folder["result.json"].time if "result.json" in of_folder else None
        run["result"] = None
        if run["ended"] is None:
            if any(each == "metrics.jsonl" or each.startswith("checkpoints/") for each in of_folder):
                begun.append(run)
        elif not of_folder["result.json"].size:
            files.damaged.append(f"{files.path(name)} is empty. Delete it and run the stage that writes it again.")
        elif storage.is_local(files.root):  # on remote storage, each run would take a request
            found = files.read(name, lambda path: need_fields(path, storage.read_json(path), **_RESULT))
            run["result"] = found if found and found["test_size"] > 0 else None

    def look(run: Mapping[str, Any]) -> dict[str, Any]:
        name = run["run"]
        return {"run": name, **training(files, config, f"runs/{name}", by_run[name], run["steps"])}

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        trained = [*pool.map(look, begun[:_MOST_READ])]
    for each in trained:
        each["state"] = "running" if each.pop("fresh") and working else "stopped"
    running = {each["run"] for each in trained if each["state"] == "running"}
    rows: dict[tuple, dict[str, Any]] = {}
    for run in runs:
        kind = {name: run[name] for name in ("method", "layer", "fraction")}
        row = rows.setdefault((*kind.values(),), {**kind, "runs": 0, "done": 0, "running": 0, "left": 0})
        row["runs"] += 1
        row["done" if run["ended"] is not None else "running" if run["run"] in running else "left"] += 1
    return {
        **{name: sum(row[name] for row in rows.values()) for name in ("runs", "done", "running", "left")},
        "table": [*rows.values()],
        "training": trained,
        "others": sorted(by_run.keys() - {run["run"] for run in runs}),
        "all": runs,
    }


def _reached(files: Files, config: Mapping[str, Any], of: Mapping[str, Any]) -> float:
    """Estimated present step of a training; the last step that it wrote may be as old as its last checkpoint."""
    rate, told = of["steps_per_second"], of["told"]
    if not rate or told is None:
        return of["step"]
    return of["step"] + min(max(0.0, files.now - told) * rate, config["checkpoint_every"])


def of_training(files: Files, config: Mapping[str, Any], of: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pace of one training: its steps per second, and the remaining steps."""
    rate = of["steps_per_second"]
    if not rate or of["steps"] is None:
        return None
    left = max(0.0, of["steps"] - _reached(files, config, of))
    return dict(unit="steps", per_second=rate, left=left, how="its metrics")


def of_sweep(files: Files, config: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pace of a sweep: steps per second of all runs together, and the remaining steps; None if unknown.

    It is measured on the runs in training or, between two packs, on the runs that ended last.
    """
    runs = found["all"]
    if any(run["steps"] is None for run in runs):
        return None
    left = {run["run"]: run["steps"] for run in runs if run["ended"] is None}
    going = [each for each in found["training"] if each["state"] == "running" and each["steps_per_second"]]
    for each in found["training"]:
        left[each["run"]] -= _reached(files, config, each) if each in going else each["step"]
    rate, how = sum(each["steps_per_second"] for each in going), f"the metrics of {len(going)} runs under way"
    if not rate:
        ended = [(run["ended"], run["steps"]) for run in runs if run["ended"] is not None]
        rate, how = pace.of_ends(ended), "the times of the results there are"
    if not rate:  # the stage train trains the same network
        trained = training(files, config, "pretrain", files.below("pretrain"), None)
        rate, how = trained["steps_per_second"], "the metrics of the stage train"
    return dict(unit="steps", per_second=rate, left=max(0.0, sum(left.values())), how=how) if rate else None
