"""Which stages of a config are finished in a workdir: those whose manifests exist, since manifests are written last."""

from collections.abc import Mapping
from typing import Any

from redundancy import methods, storage
from redundancy.workdir import Workdir, read_manifest, table

_FOLDERS = {
    "train": "pretrain",
    "embed": "embeddings",
    "link": "merges",
    "select": "subsets",
    "sweep": "runs",
    "report": "report",
}


def folders(config: Mapping[str, Any], stage: str) -> list[str]:
    """Folders of a stage's manifests, relative to the workdir: one, or one for each layer."""
    folder = _FOLDERS[stage]
    return [f"{folder}/{layer}" for layer in config["layers"]] if stage in ("embed", "link") else [folder]


def is_whole(folder: str) -> bool:
    return storage.exists(storage.join(folder, "manifest.json"))


def missing(config: Mapping[str, Any], manifest: Mapping[str, Any] | None) -> list[table.Asked]:
    """The subsets of a config that the manifest of subsets does not list; all of them if it is None."""
    made = {entry["file"].removesuffix(".parquet") for entry in manifest["files"]} if manifest else set()
    return [each for each in table.subsets(config) if each.name not in made]


def missing_subsets(config, workdir: Workdir) -> list[table.Asked]:
    """The subsets that the stage select still has to write."""
    return missing(config, read_manifest(workdir.subsets, files=list))


def finished(config: Mapping[str, Any], stage: str, manifests: Mapping[str, Any]) -> bool:
    """Whether a stage is finished, given the manifests of its `folders`; None stands for a missing manifest."""
    if stage == "select":
        return not missing(config, manifests["subsets"])
    return all(manifests[folder] for folder in folders(config, stage))


def is_finished(config, workdir: Workdir, stage: str) -> bool:
    """Whether the stage has nothing left to do in a workdir."""
    if stage == "link" and not methods.grouped(config):
        return True
    if stage == "select":
        return not missing_subsets(config, workdir)
    return finished(config, stage, {each: is_whole(workdir.path(each)) for each in folders(config, stage)})
