"""Determines the contents of a workdir, who works there, and when it will be done, from one listing and a few small files.

Takes no lease, writes nothing, and works in any workdir, even while other machines work there, after a kill, or if files are
damaged. Imports neither JAX nor TensorFlow.
"""

import datetime
import re
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from redundancy import config as config_lib
from redundancy import methods, storage
from redundancy.methods.counts import beyond_fraction, beyond_fractions
from redundancy.runtime.errors import ConfigError, WorkdirError
from redundancy.status import pace, sure
from redundancy.status import runs as survey_runs
from redundancy.status.files import Files, at_work
from redundancy.storage.listing import is_folder
from redundancy.workdir import STAGES, Workdir, finished, last_error, lease, need_fields, table

_OURS = {"config.json", "pretrain", "embeddings", "merges", "scores", "subsets", "runs", "results.csv", "report"}
_OF_TASK = re.compile(r"class(?:es)?-([0-9]+)(?:-([0-9]+))?\.parquet")  # a task's file, see `merges.task_path`
_FIELDS: dict[str, dict[str, type]] = {  # fields of each stage's manifest
    "train": {"step": int},
    "embed": {"parts": list},
    "score": {"scores": list},
    "link": {"parts": list, "classes": dict},
    "select": {"files": list},
    "sweep": {"results_sha256": str},
    "report": {"files": dict},
}


def survey(root: str, now: float | None = None) -> dict[str, Any]:
    """Everything that `status --json` prints about a workdir.

    Raises:
      WorkdirError: the folder is not a workdir.
      StorageError: the storage cannot be reached.
    """
    root = Workdir(root).root
    files = Files(root, time.time() if now is None else now)
    tops = {name.split("/")[0] for name in files.files}
    _check_workdir(root, tops)
    config = _config(files, tops)
    owners = at_work(files)
    working = any(owner["state"] != "gone" for owner in owners)
    runs = None
    if config["dataset"]:
        runs = survey_runs.sweep(files, config, _num_images(files, config), working)
    stages = [_stage(files, name, config, runs) for name in STAGES if name != "score" or methods.scores(config)]
    _set_states(stages, config, owners)
    pretrain = _pretrain(files, config, stages[0])
    found = {
        "workdir": root,
        "time": _iso(files.now),
        "dataset": config["dataset"],
        "at_work": owners,
        "stages": stages,
        "beyond": _beyond(files, config),
        "pretrain": pretrain,
        "runs": runs,
        "sure": None,
        "pace": _pace(files, config, stages, pretrain, runs, working),
        "errors": _errors(files),
        "bytes": _bytes(files),
    }
    if runs is not None:
        found["sure"] = sure.survey(files, config, runs)
        del runs["all"]
    return {**found, "damaged": list(dict.fromkeys(files.damaged))}


def _check_workdir(root: str, tops: set[str]) -> None:
    if not tops and not is_folder(root):
        raise WorkdirError(f"--workdir {root} is no workdir: nothing is there. Check the path.")
    if tops and not tops & _OURS and not any(map(lease.is_name, tops)):
        raise WorkdirError(
            f"--workdir {root} is no workdir: it holds {', '.join(sorted(tops)[:3])}, and none of {', '.join(sorted(_OURS))}. "
            "Check the path."
        )


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _config(files: Files, tops: set[str]) -> Mapping[str, Any]:
    """The recorded config; if there is none, a config without a data set and with the layers that have embeddings."""
    layers = [layer for layer in config_lib.LAYERS if files.below(f"embeddings/{layer}")]
    found = files.read("config.json", lambda path: need_fields(path, storage.read_json(path), config=dict))
    if found is not None:
        try:
            return config_lib.resolve(
                {name: found["config"][name] for name in config_lib.FIELDS if name in found["config"]}
            )
        except ConfigError as error:
            files.damaged.append(f"{files.path('config.json')}: {error}")
    elif "config.json" not in tops and (made := sorted(tops & _OURS - {"embeddings"})):
        files.damaged.append(f"{files.path('config.json')} is missing, but {', '.join(made)} is there.")
    return config_lib.resolve({"dataset": "", "layers": layers or ("end",)})


def _num_images(files: Files, config: Mapping[str, Any]) -> int:
    """Number of training images, if the steps depend on it and a manifest records it; else 0."""
    for layer in config["layers"] if config["epochs"] else ():
        if manifest := files.manifest(f"embeddings/{layer}", num_examples=int):
            return manifest["num_examples"]
    return 0


def _stage(files: Files, name: str, config: Mapping[str, Any], runs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Describes a stage: whether it is finished, the time of its last file (None without files), and its files in words."""
    manifests = {folder: files.manifest(folder, **_FIELDS[name]) for folder in finished.folders(config, name)}
    there = {(folder, each): file for folder in manifests for each, file in files.below(folder).items()}
    said, imported = [], False
    for folder, manifest in manifests.items():
        for kind in ("files", "parts") if manifest else ():
            if kind in _FIELDS[name]:
                files.need(folder, [each["file"] if isinstance(each, dict) else each for each in manifest[kind]])
        if name in ("embed", "link"):
            layer = folder.split("/")[1]
            pieces = sum(of == folder and each.endswith(".parquet") and each != "ids.parquet" for of, each in there)
            if manifest:
                imported |= name == "embed" and isinstance(manifest.get("checkpoint"), dict)
                counts = manifest.get("class_counts")
                one_class = ", one class" if isinstance(counts, dict) and len(counts) == 1 else ""
                said.append(f"{layer}: {len(manifest['parts'])} parts{one_class}")
            elif pieces:
                said.append(f"{layer}: {pieces} {'parts' if name == 'embed' else 'files of classes'} so far")
    if name == "score" and manifests["scores"]:
        said.append(f"{len(manifests['scores']['scores'])} scores")
    if name == "select" and there:
        said.append(f"{sum(each.endswith('.parquet') for _, each in there)} subsets")
    elif name == "sweep":
        if manifests["runs"] and not files.is_there("results.csv"):
            files.damaged.append(f'{files.path("results.csv")} is missing; "redundancy sweep" writes it from the runs.')
        said += [f"{runs['done']} of {runs['runs']} runs done"] if runs else []
    shown = (manifests.get("report") or {}).get("shown")
    if isinstance(shown, dict) and finished.INTERIM in shown:
        said.append(f"interim page, {shown[finished.INTERIM]}")
    # The sweep first writes a run.json for every run, so these files do not show that training has begun.
    begun = [file.time for (_, each), file in there.items() if name != "sweep" or not each.endswith("/run.json")]
    whole, words = finished.finished(config, name, manifests), ", ".join(said) + (", imported" if imported else "")
    return dict(stage=name, finished=whole, imported=imported, written=max(begun, default=None), files=words)


def _beyond(files: Files, config: Mapping[str, Any]) -> list[str]:
    """Messages about fractions of which more is kept than requested: from the subsets or, without any, from the merges."""
    stores = (files.manifest(f"embeddings/{layer}", class_counts=dict) for layer in config["layers"])
    counts = next((store["class_counts"] for store in stores if store), {})
    if not counts or not all(isinstance(count, int) for count in counts.values()):
        return []
    sizes = np.array([*counts.values()])
    if subsets := files.manifest("subsets", files=list):
        return beyond_fractions(sizes, subsets["files"])
    linked = (files.manifest(f"merges/{layer}", fractions=list) for layer in config["layers"])
    fractions = {each for merges in linked if merges for each in merges["fractions"]}
    return [said for each in sorted(fractions, reverse=True) if (said := beyond_fraction(sizes, each))]


def _set_states(stages: list[dict[str, Any]], config: Mapping[str, Any], owners: list[dict[str, Any]]) -> None:
    """Gives each stage a state: finished, running, stopped, next, waiting, not here or not needed."""
    alive = [str(owner["command"]).split(" ")[0] for owner in owners if owner["state"] != "gone"]
    imported = True in [stage.pop("imported") for stage in stages]
    idle = set() if config["dataset"] else {"train", "sweep", "report"}
    idle |= {"train"} if imported else set()
    idle |= set() if methods.grouped(config) else {"link"}
    whole = {stage["stage"]: stage["finished"] for stage in stages}
    before = None  # the first unfinished stage
    for stage in stages:
        name = stage["stage"]
        if stage.pop("finished"):
            state = "finished"
        elif name in idle:
            state = "not needed"
        elif name in alive or ("run" in alive and before is None) or (name == "embed" and "import" in alive):
            state = "running"
        elif stage["written"] is not None:
            state = "stopped"
        elif name in ("train", "embed", "link") and whole["select"]:
            state = "not here"  # in a copied workdir, from which the sweep continues without this stage
        else:
            state = "waiting" if before else "next"
        if state not in ("finished", "not needed", "not here"):
            before = before or name
        stage["state"] = state
        written = stage.pop("written")
        stage["last_written"] = None if written is None else _iso(written)


def _pretrain(files: Files, config: Mapping[str, Any], stage: Mapping[str, Any]) -> dict[str, Any] | None:
    """The progress of the stage train; None if it has not begun or has ended."""
    if stage["state"] not in ("running", "stopped"):
        return None
    steps = table.runs(config, _num_images(files, config))[0].steps
    of = survey_runs.training(files, config, "pretrain", files.below("pretrain"), steps)
    return {**of, "state": stage["state"]}


def _pieces(files: Files, name: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pace of embed in parts, or of link in images, from the times of files."""
    ends, total = [], 0.0
    for layer in config["layers"]:
        store = files.manifest(f"embeddings/{layer}", class_counts=dict)
        merges = files.manifest(f"merges/{layer}", classes=dict)
        if name == "embed":
            ends += [(f.time, 1.0) for n, f in files.below(f"embeddings/{layer}").items() if n.startswith("part-")]
            total += config["embedding_parts"]
        elif store is not None and (merges is None or finished.too_shallow(merges, config["fractions"])):
            counts = sorted((int(label), count) for label, count in store["class_counts"].items() if label.isdecimal())
            labels, images = [label for label, _ in counts], np.cumsum([0, *(count for _, count in counts)])
            total += int(images[-1])
            for each, file in files.below(f"merges/{layer}/classes").items():
                if (of := _OF_TASK.fullmatch(each)) is not None:
                    first, last = (
                        np.searchsorted(labels, int(of[1])),
                        np.searchsorted(labels, int(of[2] or of[1]), "right"),
                    )
                    ends.append((file.time, float(images[last] - images[first])))
    rate = pace.of_ends(ends) if len(ends) > 1 else None
    if rate is None:
        return None
    left = max(0.0, total - sum(amount for _, amount in ends))
    unit = "parts" if name == "embed" else "images"
    return dict(unit=unit, per_second=rate, left=left, how="the times of the files there are")


def _pace(
    files: Files,
    config: Mapping[str, Any],
    stages: list[dict[str, Any]],
    pretrain: Mapping[str, Any] | None,
    runs: Mapping[str, Any] | None,
    working: bool,
) -> dict[str, Any] | None:
    """The pace of the first running or stopped stage, its remaining work, and its expected end."""
    stage = next((each["stage"] for each in stages if each["state"] in ("running", "stopped")), None)
    match stage:
        case "train" if pretrain is not None:
            found = survey_runs.of_training(files, config, pretrain)
        case "sweep" if runs is not None:
            found = survey_runs.of_sweep(files, config, runs)
        case "embed" | "link":
            found = _pieces(files, stage, config)
        case _:
            found = None
    if found is None:
        return None
    left_s = found["left"] / found["per_second"]
    return {"stage": stage, **found, "left_s": left_s, "end": _iso(files.now + left_s) if working else None}


def _errors(files: Files) -> list[dict[str, Any]]:
    """The recorded errors of commands that have not succeeded since then, the latest first."""
    fields = dict(command=str, time=str, host=str, code=int, message=str)
    found = []
    for name in filter(last_error.is_name, files.files):
        error = files.read(name, lambda path: need_fields(path, storage.read_json(path), **fields))
        if error is not None:
            found.append({**error, "age_s": max(0.0, files.now - files.files[name].time)})
    return sorted(found, key=lambda error: error["age_s"])


def _bytes(files: Files) -> dict[str, int]:
    """Bytes of each folder or file in the workdir, and their sum."""
    found: dict[str, int] = {}
    for name, file in files.files.items():
        top = name.split("/")[0]
        if top[0] != ".":
            found[top] = found.get(top, 0) + file.size
    return {"all": sum(found.values()), **dict(sorted(found.items()))}
