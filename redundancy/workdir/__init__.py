"""Where each artifact of a workdir lies, whose config the workdir is, and which stages are finished.

A stage's manifest is written last: a stage with a manifest is finished, and its outputs are whole.
"""

import csv
import importlib.metadata
import io
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redundancy import config as config_lib
from redundancy import processes, storage
from redundancy.config import Affects, fraction_name
from redundancy.errors import ConfigError, DataError, WorkdirError
from redundancy.selection.methods import METHODS

# What only a run of a config can have made; embeddings may be anybody's.
_OF_A_CONFIG = {"pretrain", "merges", "subsets", "runs", "results.csv"}
# Fields of a data set's fingerprint that those of earlier versions lack.
_ADDED = {"labels_sha256", "files"}
_ATTEMPTS = 10
STAGES = ("train", "embed", "link", "select", "sweep", "report")
_PACKAGES = ("redundancy", "jax", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "pyarrow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


class Workdir:
    """Paths of one experiment's artifacts below `root` (local or gs://)."""

    def __init__(self, root: str):
        self.root = root.rstrip("/") or "/"

    def path(self, *parts: str) -> str:
        return storage.join(self.root, *parts)

    @property
    def config(self) -> str:
        return self.path("config.json")

    @property
    def pretrain(self) -> str:
        return self.path("pretrain")

    def embeddings(self, layer: str) -> str:
        return self.path("embeddings", layer)

    def merges(self, layer: str) -> str:
        return self.path("merges", layer)

    @property
    def subsets(self) -> str:
        return self.path("subsets")

    def subset(self, name: str) -> str:
        """File of the subset `name`, see `subset_name`."""
        return self.path("subsets", f"{name}.parquet")

    @property
    def runs(self) -> str:
        return self.path("runs")

    def run(self, name: str) -> str:
        """Folder of the run `name`, see `run_name`."""
        return self.path("runs", name)

    @property
    def results(self) -> str:
        return self.path("results.csv")

    @property
    def report(self) -> str:
        return self.path("report")

    def claim(self, config: Mapping[str, Any]) -> None:
        """Makes the workdir this config's, or checks that all that lies there can be this config's too.

        A field may differ from the workdir's as long as nothing there depends on it, see `_dependents`. The workdir's
        config.json is then written with the new config. Of several processes the first does it.

        Raises:
          WorkdirError: something there was made with another value of a field; names the fields and what depends.
        """
        wanted = config_lib.to_json(config)

        def claim():
            self._claim(wanted)
            return wanted

        first = processes.first(claim)
        if fields := config_lib.differing(first, wanted):
            shown = "; ".join(f"{name}: {first.get(name)!r} there, {wanted.get(name)!r} here" for name in fields)
            raise ConfigError(
                f"process 0 of this run has another config. Differing: {shown}. Give all the same command."
            )

    def _claim(self, wanted: Mapping[str, Any]) -> None:
        storage.remove_scratch(self.root)
        self._until_written(lambda: self._try_claim(wanted))

    def _until_written(self, attempt: Callable[[], bool]) -> None:
        """Repeats what reads config.json and writes it again, where another part of a sweep wrote it in between."""
        if not any(attempt() for _ in range(_ATTEMPTS)):
            raise WorkdirError(
                f"{self.config} is written by others again and again, or cannot be replaced. Look who does."
            )

    def _try_claim(self, wanted: Mapping[str, Any]) -> bool:
        seen = storage.generation(self.config)
        made = set(storage.list_dir(self.root))
        if seen is not None:
            made.add("config.json")  # whatever a listing that comes late says
        if "config.json" not in made and made & _OF_A_CONFIG:
            raise WorkdirError(
                f"{self.root} holds {', '.join(sorted(made & _OF_A_CONFIG))} but no config.json, so nothing tells which "
                "config made them. Restore config.json, or choose another --workdir."
            )
        recorded = {"config": wanted, "versions": versions()}
        if "config.json" in made and made != {"config.json"}:
            recorded = need_fields(self.config, storage.read_json(self.config), config=dict)
            # An earlier version, which lacked a field, did what the field's default asks for.
            defaults = config_lib.to_json(config_lib.defaults())
            recorded = {**recorded, "config": {**defaults, **recorded["config"]}}
            fields = config_lib.differing(recorded["config"], wanted)
            if not fields:
                return True
            self._check_free(recorded["config"], wanted, fields, made)
            recorded = {**recorded, "config": wanted}
        try:
            return storage.change_json(self.config, seen, recorded)
        except OSError as error:
            raise WorkdirError(
                f"--workdir {self.root} cannot be written to ({error.strerror or error}). Choose another folder."
            ) from error

    def _check_free(
        self, found: Mapping[str, Any], wanted: Mapping[str, Any], fields: Sequence[str], made: set[str]
    ) -> None:
        """Raises WorkdirError where something in the workdir depends on one of the differing `fields`."""
        dependents = self._dependents(made)
        if dependents:  # a field of another version of this program may matter to anything
            dependents = dict.fromkeys(set(fields) - set(config_lib.FIELDS), self.root) | dependents
        fixed = [name for name in fields if name in dependents]
        if not fixed:
            return
        shown = "; ".join(
            f"{name}: {found.get(name, 'absent')!r} there, {wanted.get(name, 'absent')!r} here" for name in fixed
        )
        folders = sorted({dependents[name] for name in fixed})
        again = f"delete {' and '.join(folders)}, " if {*folders} <= {self.subsets, self.report} else ""
        raise WorkdirError(
            f"{self.root} was made with another config. Differing: {shown} ({' and '.join(folders)} made with it). "
            f"Use these values, {again}or choose another --workdir."
        )

    def _dependents(self, made: set[str]) -> dict[str, str]:
        """For each field of the config that something in the workdir depends on, what does.

        Imported embeddings depend on none, merges neither: they tell how deep they are. Subsets of other fractions,
        methods, layers and trials have other names, and lie side by side until there are runs.
        """
        fields: dict[str, str] = {}

        def depends(what: str, affected: Affects) -> None:
            for name, field in config_lib.FIELDS.items():
                if field.affects & affected:
                    fields.setdefault(name, what)

        runs = next((self.path(name) for name in ("runs", "results.csv") if name in made), None)
        if runs is not None:
            depends(runs, Affects.RUNS)
        if "pretrain" in made:
            depends(self.pretrain, Affects.NETWORK)
        if "embeddings" in made and (folder := self._embedded_layer(unfinished="pretrain" in made)):
            depends(folder, Affects.NETWORK | Affects.EMBEDDINGS)
        names = storage.list_dir(self.subsets) if "subsets" in made else []
        for method in METHODS.values():
            if any(file.startswith(f"{method.name}-") for file in names):
                fields |= {name: self.subsets for name in method.fields if name not in fields}
        if "report" in made:
            depends(self.report, Affects.REPORT)
        return fields

    def _embedded_layer(self, unfinished: bool) -> str | None:
        """Folder of a layer that the stage `embed` made, or, with `unfinished`, may have begun; None without one."""
        for layer in storage.list_dir(self.path("embeddings")):
            manifest = read_manifest(self.embeddings(layer))
            checkpoint = manifest.get("checkpoint") if isinstance(manifest, dict) else None
            if (manifest is None and unfinished) or str(checkpoint).startswith("pretrain/"):
                return self.embeddings(layer)
        return None

    def claim_dataset(self, fingerprint: Mapping[str, Any], skipped: Sequence[tuple[str, str]] = ()) -> None:
        """Records the data set's fingerprint beside the config, or checks that it is the recorded one.

        Args:
          fingerprint: of the data set.
          skipped: files that it leaves out, and why; written to skipped_images.csv.

        Raises:
          WorkdirError: positions in this workdir are those of another data set.
        """
        processes.first(lambda: self._until_written(lambda: self._claim_dataset(fingerprint, skipped)))

    def _claim_dataset(self, fingerprint: Mapping[str, Any], skipped: Sequence[tuple[str, str]]) -> bool:
        seen = storage.generation(self.config)
        found = need_fields(self.config, storage.read_json(self.config), config=dict)
        recorded = found.get("dataset")
        if recorded is not None:
            self.check_fingerprint(need_fields(self.config, found, dataset=dict)["dataset"], fingerprint, self.config)
            return True
        if skipped:
            buffer = io.StringIO()
            csv.writer(buffer, lineterminator="\n").writerows([("file", "reason"), *skipped])
            storage.write_text(self.path("skipped_images.csv"), buffer.getvalue())
        return storage.change_json(self.config, seen, {**found, "dataset": dict(fingerprint)})

    def check_fingerprint(self, recorded: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
        """Raises WorkdirError where two fingerprints differ; `where` is the file that holds `recorded`."""
        one_sided = recorded.keys() ^ given.keys()
        fields = [
            name
            for name in config_lib.differing(dict(recorded), dict(given))
            if not (name in _ADDED and name in one_sided)
        ]
        if fields:
            shown = "; ".join(f"{name}: {recorded.get(name)!r} recorded, {given.get(name)!r} now" for name in fields)
            raise WorkdirError(
                f"{where} belongs to another data set. Differing: {shown}. "
                "Positions would name other images: restore that data set or choose another --workdir."
            )

    def dataset_fingerprint(self) -> dict[str, Any] | None:
        """The recorded fingerprint, or None before the first stage that opens the data set."""
        if not storage.exists(self.config):
            return None
        found = need_fields(self.config, storage.read_json(self.config), config=dict)
        return need_fields(self.config, found, dataset=dict)["dataset"] if "dataset" in found else None


# What the entries of a manifest's lists and tables hold.
_ENTRIES: dict[str, dict[str, Any]] = {
    "parts": {"file": str, "sha256": str},
    "files": {"file": str, "sha256": str, "method": str, "fraction": (int, float)},
    "classes": {"images": int, "merges": int},
}


def need_fields(path: str, value: Any, **fields: type) -> dict[str, Any]:
    """`value`, read from the file `path`, if it is an object with these fields of these types.

    Raises:
      DataError: it is not.
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
    """The manifest of a finished folder of artifacts, or None where the folder is not finished.

    Raises:
      DataError: the manifest is no JSON, or lacks one of `fields` with its type.
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
    """Raises DataError where an entry of a manifest's list or table is not as this program writes it."""
    table = isinstance(entries, dict)
    if not isinstance(entries, list | dict) or table != (name == "classes"):
        return  # of another kind of manifest
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
            sound = file not in ("", ".", "..") and "/" not in file and not config_lib.CONTROLS.search(file)
        if name == "files":
            layer, trial = entry.get("layer", ""), entry.get("trial", "")
            sound &= entry["method"] in METHODS and 0 < entry["fraction"] <= 1
            sound &= layer is None or layer in config_lib.LAYERS
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


def write_manifest(folder: str, manifest: Mapping[str, Any]) -> None:
    """Marks `folder` as finished. Call it last."""
    storage.write_json(storage.join(folder, "manifest.json"), dict(manifest))


def subset_name(method: str, fraction: float, trial: int | None = None, layer: str = "end") -> str:
    """'semantic-0.9000', 'random-0.9000-trial2', 'semantic-start-0.9000' for another layer than end."""
    middle = "" if layer == "end" else f"-{layer}"
    suffix = "" if trial is None else f"-trial{trial}"
    return f"{method}{middle}-{fraction_name(fraction)}{suffix}"


def run_name(method: str, fraction: float, trial: int, layer: str = "end") -> str:
    """'semantic-0.9000-trial2', 'full-1.0000-trial0'."""
    return subset_name(method, fraction, trial, layer)
