"""Reads, checks and writes the manifests of a workdir's folders.

A stage writes its manifest last: a stage with a manifest is finished, and its outputs are complete.
"""

from collections.abc import Mapping
from typing import Any

from redundancy import methods, storage
from redundancy.config import CONTROLS, LAYERS
from redundancy.runtime.errors import DataError, WorkdirError
from redundancy.workdir.layout import Layout

# Fields of the entries of a manifest's lists and tables.
_ENTRIES: dict[str, dict[str, Any]] = {
    "parts": {"file": str, "sha256": str},
    "files": {"file": str, "sha256": str, "method": str, "fraction": (int, float)},
    "classes": {"images": int, "merges": int},
}


def need_fields(path: str, value: Any, **fields: type) -> dict[str, Any]:
    """Returns `value`, read from the file `path`, if it is an object with these fields of these types.

    Raises:
      DataError: it is not such an object.
    """
    for name, kind in fields.items():
        if not isinstance(value, dict) or not isinstance(value.get(name), kind):
            wanted = getattr(kind, "__name__", "number")
            raise DataError(
                f"{path} has no {name!r} that is a {wanted}: it was not written by this program, or was changed since. "
                "Delete it and run the stage that writes it again."
            )
    return value


def read_manifest(folder: str, **fields: type) -> dict[str, Any] | None:
    """The manifest of a finished folder of artifacts, or None if the folder is not finished.

    Raises:
      DataError: the manifest is not JSON, or a field is missing or has another type.
    """
    path = storage.join(folder, "manifest.json")
    try:
        manifest = need_fields(path, storage.read_json(path), **fields)
    except FileNotFoundError:
        return None
    for name in _ENTRIES.keys() & manifest.keys() if isinstance(manifest, dict) else ():
        _check_entries(path, name, manifest[name])
    return manifest


def _check_entries(path: str, name: str, entries: Any) -> None:
    """Raises DataError if an entry of a manifest's list or table does not have the fields that this program writes."""
    table = isinstance(entries, dict)
    if not isinstance(entries, list | dict) or table != (name == "classes"):
        return  # an entry of another kind of manifest
    where = f"{path}, in {name},"
    if name == "parts" and not entries:
        raise DataError(
            f"{path} names no parts: it was changed since. Delete it and run the stage that writes it again."
        )
    for key, entry in entries.items() if table else enumerate(entries):
        need_fields(where, entry, **_ENTRIES[name])
        if name == "classes":
            sound = key.isdecimal() and key == str(int(key)) and 0 <= entry["merges"] < entry["images"]
        else:
            file = entry["file"]
            sound = file not in ("", ".", "..") and "/" not in file and not CONTROLS.search(file)
        if name == "files":
            layer, trial = entry.get("layer", ""), entry.get("trial", "")
            sound &= methods.find(entry["method"]) is not None and 0 < entry["fraction"] <= 1
            sound &= layer is None or layer in LAYERS
            sound &= trial is None or (isinstance(trial, int) and trial >= 0)
        if not sound:
            raise DataError(
                f"{where} has {str({key: entry} if table else entry)[:200]}: it was not written by this program, or was "
                "changed since. Delete it and run the stage that writes it again."
            )


def need_manifest(folder: str, stage: str, **fields: type) -> dict[str, Any]:
    """The manifest of `folder`, as `read_manifest`.

    Raises:
      WorkdirError: the stage that writes it has not finished.
      DataError: as `read_manifest`.
    """
    manifest = read_manifest(folder, **fields)
    if manifest is None:
        imported = ' (or "redundancy import")' if stage == "embed" else ""
        raise WorkdirError(
            f'{folder} has no manifest.json: run "redundancy {stage}"{imported} with this workdir first.'
        )
    return manifest


def need_results(workdir: Layout) -> bytes:
    """The table results.csv.

    Raises:
      WorkdirError: the stage that writes it has not finished.
      DataError: the table was changed afterwards.
    """
    if not storage.exists(workdir.results):
        raise WorkdirError(f'{workdir.root} has no results.csv: run "redundancy sweep" with this workdir first.')
    sweep = read_manifest(workdir.runs, results_sha256=str)
    if sweep is not None and storage.sha256(workdir.results) != sweep["results_sha256"]:
        raise DataError(
            f'{workdir.results} was changed since the sweep. Run "redundancy sweep" again: it writes the file.'
        )
    return storage.read_bytes(workdir.results)


def write_manifest(folder: str, manifest: Mapping[str, Any]) -> None:
    """Marks `folder` as finished. Call it last."""
    storage.write_json(storage.join(folder, "manifest.json"), dict(manifest))
