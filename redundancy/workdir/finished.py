"""Determines which stages of a config are finished in a workdir, from their manifests, which are written last."""

from collections.abc import Mapping, Sequence
from typing import Any

from redundancy import config as config_lib
from redundancy import methods, storage
from redundancy.config import Affects
from redundancy.methods.counts import merges_needed
from redundancy.workdir import Workdir, read_manifest, table

INTERIM = "interim"  # field of the report's manifest that marks a page made before the sweep was finished
_FOLDERS = {
    "train": "pretrain",
    "embed": "embeddings",
    "link": "merges",
    "score": "scores",
    "select": "subsets",
    "sweep": "runs",
    "report": "report",
}
# Fields of the manifests that determine for which config a stage is finished.
_NEEDED: dict[str, dict[str, type]] = {
    "link": {"classes": dict},
    "score": {"scores": list},
    "select": {"files": list},
    "sweep": {},
}


def folders(config: Mapping[str, Any], stage: str) -> list[str]:
    """Folders of a stage's manifests, relative to the workdir: one, or one per layer."""
    folder = _FOLDERS[stage]
    return [f"{folder}/{layer}" for layer in config["layers"]] if stage in ("embed", "link") else [folder]


def is_whole(folder: str) -> bool:
    return storage.exists(storage.join(folder, "manifest.json"))


def missing(config: Mapping[str, Any], manifest: Mapping[str, Any] | None) -> list[table.Asked]:
    """The subsets of a config that the manifest of subsets does not list; all subsets if it is None."""
    made = {entry["file"].removesuffix(".parquet") for entry in manifest["files"]} if manifest else set()
    return [each for each in table.subsets(config) if each.name not in made]


def missing_scores(config: Mapping[str, Any], manifest: Mapping[str, Any] | None) -> list[str]:
    """The scores of our networks that the config's methods read and that the manifest of scores does not list."""
    entries = manifest["scores"] if manifest else ()
    made = {entry.get("file") for entry in entries if isinstance(entry, dict)}
    names = (name for name in methods.scores(config) if not name.startswith(methods.IMPORTED))
    return [name for name in names if f"{name}.parquet" not in made]


def missing_subsets(config, workdir: Workdir) -> list[table.Asked]:
    """The subsets that the stage select still has to write."""
    return missing(config, read_manifest(workdir.subsets, files=list))


def too_shallow(manifest: Mapping[str, Any], fractions: Sequence[float]) -> bool:
    """Whether the merges of a manifest are too few for some of the fractions."""
    counts = {int(label): of_class["images"] for label, of_class in manifest["classes"].items()}
    needed = merges_needed(counts, fractions)
    return any(manifest["classes"][str(label)]["merges"] < number for label, number in needed.items())


def swept(config: Mapping[str, Any], manifest: Mapping[str, Any] | None) -> bool:
    """Whether the manifest of runs lists the runs of a config; a manifest without a list counts as such."""
    names = [run.name for run in table.runs(config)]
    return manifest is not None and manifest.get("runs", names) == names


def shown(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that determine what the page shows, in JSON form."""
    wanted = config_lib.to_json(config)
    fields = config_lib.FIELDS.items()
    return {name: wanted[name] for name, field in fields if field.affects & (Affects.TABLE | Affects.REPORT)}


def finished(config: Mapping[str, Any], stage: str, manifests: Mapping[str, Any]) -> bool:
    """Whether a stage is finished, given the manifests of its `folders`; None stands for a missing manifest."""
    found = [manifests[folder] for folder in folders(config, stage)]
    match stage:
        case "score":
            return not missing_scores(config, found[0])
        case "select":
            return not missing(config, found[0])
        case "link":
            return all(each and not too_shallow(each, config["fractions"]) for each in found)
        case "sweep":
            return swept(config, found[0])
        case "report":
            page = (found[0] or {}).get("shown", shown(config))
            of_all = isinstance(page, dict) and INTERIM not in page
            return found[0] is not None and of_all and page.items() >= shown(config).items()
    return all(found)


def is_finished(config, workdir: Workdir, stage: str) -> bool:
    """Whether the stage has nothing left to do in a workdir."""
    if stage == "link" and not methods.grouped(config):
        return True
    fields = _NEEDED.get(stage)
    if fields is None:
        return all(is_whole(workdir.path(each)) for each in folders(config, stage))
    manifests = {each: read_manifest(workdir.path(each), **fields) for each in folders(config, stage)}
    return finished(config, stage, manifests)
