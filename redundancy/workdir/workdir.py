"""Ties a workdir to one config and one data set, which each command claims before it works."""

import csv
import datetime
import importlib.metadata
import io
import itertools
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from redundancy import config as config_lib
from redundancy import methods, storage
from redundancy.config import Affects
from redundancy.runtime import processes
from redundancy.runtime.errors import ConfigError, WorkdirError
from redundancy.workdir import rounds
from redundancy.workdir.layout import Layout
from redundancy.workdir.manifest import need_fields, read_manifest

# Artifacts that always belong to a config; embeddings may also be imported without one.
_OF_A_CONFIG = {"pretrain", "merges", "subsets", "runs", "results.csv"}
# Fields that are missing in fingerprints by earlier versions.
_ADDED = {"labels_sha256", "files"}
_ATTEMPTS = 10
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


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], fields: Iterable[str]) -> str:
    """'depth: 8 there, 14 here; ...' for fields that differ between two configs."""
    return "; ".join(
        f"{name}: {found.get(name, 'absent')!r} there, {wanted.get(name, 'absent')!r} here" for name in fields
    )


def _asked(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The differing fields that determine which runs there are, with both values."""
    return {
        name: {"before": found[name], "after": wanted[name]}
        for name in config_lib.differing(found, wanted)
        if name in config_lib.FIELDS and config_lib.FIELDS[name].affects & Affects.TABLE
    }


class Workdir(Layout):
    """The artifacts of one experiment below `root` (local or gs://), claimed for its config and its data set."""

    def claim(
        self,
        config: Mapping[str, Any],
        fingerprint: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] = lambda config: None,
        part: bool = False,
    ) -> Mapping[str, Any]:
        """Records the config in the workdir, or checks that the existing artifacts are consistent with it.

        A field may differ from the recorded config as long as no artifact depends on it, see `_dependents`; the new config
        is then written to config.json. Fields that only determine which runs there are may always differ; config.json also
        keeps their earlier values. If there are several processes, process 0 does it.

        A different config.dataset is allowed if it is the recorded data set in another place. config.json keeps the path
        with which the artifacts were made. A sweep in rounds gets at least the number of trials that its rounds have reached.

        Args:
          config: resolved.
          fingerprint: config -> fingerprint of its data set, or None to leave it closed. Called if artifacts depend on a
            different config.dataset. By default no data set is opened.
          part: whether other parts of a sweep may be working, whose table of runs must not change.

        Returns:
          the config to work with, see `known`.

        Raises:
          WorkdirError: an artifact was made with another value of a field; names the fields and the artifacts.
        """
        config = rounds.grown(config, self)
        wanted = config_lib.to_json(config)

        def claim():
            storage.remove_scratch(self.root)
            self._until_written(lambda: self._try_claim(wanted, lambda: fingerprint(self.known(config)), part))
            return wanted

        first = processes.first(claim)
        if fields := config_lib.differing(first, wanted):
            shown = "; ".join(f"{name}: {first.get(name)!r} there, {wanted.get(name)!r} here" for name in fields)
            raise ConfigError(
                f"process 0 of this run has another config. Differing: {shown}. Give all processes the same command."
            )
        return self.known(config)

    def known(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config with the path and name under which this workdir has recorded the data set, wherever it lies now."""
        if (fingerprint := self.dataset_fingerprint()) is None:
            return config
        recorded = need_fields(self.config, storage.read_json(self.config), config=dict)["config"]
        dataset, name = recorded.get("dataset"), fingerprint.get("name")
        return config_lib.known_as(
            config,
            dataset if isinstance(dataset, str) else config["dataset"],
            name if isinstance(name, str) else None,
        )

    def _until_written(self, attempt: Callable[[], bool]) -> None:
        """Repeats an attempt to rewrite config.json until no other part of a sweep has changed it concurrently."""
        if not any(attempt() for _ in range(_ATTEMPTS)):
            raise WorkdirError(
                f"{self.config} cannot be replaced, or other processes keep changing it. Find out which do."
            )

    def _try_claim(
        self, wanted: Mapping[str, Any], fingerprint: Callable[[], Mapping[str, Any] | None], part: bool
    ) -> bool:
        seen = storage.generation(self.config)
        made = set(storage.list_dir(self.root))
        if seen is not None:
            made.add("config.json")  # even if the listing is not up to date
        orphans = sorted(made & _OF_A_CONFIG) + ["scores/networks"] * self._has_networks(made)
        if "config.json" not in made and orphans:
            raise WorkdirError(
                f"{self.root} holds {', '.join(orphans)} but no config.json, so nothing says which "
                "config made them. Restore config.json, or choose another --workdir."
            )
        recorded = {"config": wanted, "versions": versions()}
        if "config.json" in made and made != {"config.json"}:
            recorded = need_fields(self.config, storage.read_json(self.config), config=dict)
            # An earlier version without a field behaved as with the field's default.
            defaults = config_lib.to_json(config_lib.defaults())
            recorded = {**recorded, "config": {**defaults, **recorded["config"]}}
            fields = config_lib.differing(recorded["config"], wanted)
            if not fields:
                return True
            fixed = self._fixed(fields, made)
            if others := {name: what for name, what in fixed.items() if name != "dataset"}:
                raise self._refused(recorded["config"], wanted, others)  # before the data set is opened
            if "dataset" in fixed and "dataset" in recorded and (found := fingerprint()) is not None:
                self.check_fingerprint(recorded["dataset"], found, self.config)
                del fixed["dataset"]
                wanted = {**wanted, "dataset": recorded["config"]["dataset"]}
            if fixed:
                raise self._refused(recorded["config"], wanted, fixed)
            if recorded["config"] == wanted:
                return True
            asked = _asked(recorded["config"], wanted)
            if asked and part and "runs" in made:
                raise WorkdirError(
                    f"{self.root} was asked for other runs. Differing: {_differences(recorded['config'], wanted, asked)}. A part "
                    'of a sweep does not change that: run "redundancy select" with these values first, or give the '
                    "recorded ones."
                )
            recorded = {**recorded, "config": wanted}
            if asked:
                recorded["asked"] = [*recorded.get("asked", []), {"time": _now(), "changed": asked}]
        try:
            return storage.change_json(self.config, seen, recorded)
        except OSError as error:
            raise WorkdirError(
                f"--workdir {self.root} cannot be written to ({error.strerror or error}). Choose another folder."
            ) from error

    def _fixed(self, fields: Sequence[str], made: set[str]) -> dict[str, list[str]]:
        """The differing `fields` on which something in the workdir depends, with the dependent artifacts."""
        dependents = self._dependents(made)
        if dependents:  # artifacts may depend on a field that only another version of this program has
            dependents = {name: [self.root] for name in set(fields) - set(config_lib.FIELDS)} | dependents
        return {name: dependents[name] for name in fields if name in dependents}

    def _refused(
        self, found: Mapping[str, Any], wanted: Mapping[str, Any], fixed: Mapping[str, list[str]]
    ) -> WorkdirError:
        together: dict[tuple[str, ...], list[str]] = {}  # fields by the artifacts that hold them
        for name, folders in fixed.items():
            together.setdefault(tuple(folders), []).append(name)
        shown = "; ".join(
            f"{_differences(found, wanted, fields)} ({', '.join(folders)} made with it)"
            for folders, fields in together.items()
        )
        again = f"delete {self.subsets}, " if {*together} == {(self.subsets,)} else ""
        return WorkdirError(
            f"{self.root} was made with another config. Differing: {shown}. Use these values, {again}or choose another "
            "--workdir."
        )

    def _dependents(self, made: set[str]) -> dict[str, list[str]]:
        """Maps each config field to the artifacts in the workdir that depend on it.

        Imported embeddings and merges depend on no field; merges record how deep they go. Subsets and runs of other fractions,
        methods, layers and trials have different names, and may coexist.
        """
        fields: dict[str, list[str]] = {}

        def depends(what: str, affected: Affects) -> None:
            for name, field in config_lib.FIELDS.items():
                if field.affects & affected:
                    fields.setdefault(name, []).append(what)

        runs = next((self.path(name) for name in ("runs", "results.csv") if name in made), None)
        if runs is not None:
            depends(runs, Affects.RUNS)
        if "pretrain" in made:
            depends(self.pretrain, Affects.NETWORK)
        if "embeddings" in made and (folder := self._embedded_layer(unfinished="pretrain" in made)):
            depends(folder, Affects.NETWORK | Affects.EMBEDDINGS)
        if self._has_networks(made):
            depends(self.scores, Affects.NETWORK | Affects.SCORES)
        names = storage.list_dir(self.subsets) if "subsets" in made else []
        of_subsets = [methods.get(name).fields for name in methods.in_order(file.partition("-")[0] for file in names)]
        for name in dict.fromkeys(itertools.chain(*of_subsets)):
            fields.setdefault(name, []).append(self.subsets)
        return fields

    def _has_networks(self, made: set[str]) -> bool:
        """Whether the stage `score` has started training; imported scores depend on no field."""
        return "scores" in made and "networks" in storage.list_dir(self.scores)

    def _embedded_layer(self, unfinished: bool) -> str | None:
        """Folder of a layer that the stage `embed` has finished or, if `unfinished`, may have started; None without one."""
        for layer in storage.list_dir(self.path("embeddings")):
            manifest = read_manifest(self.embeddings(layer))
            checkpoint = manifest.get("checkpoint") if isinstance(manifest, dict) else None
            if (manifest is None and unfinished) or str(checkpoint).startswith("pretrain/"):
                return self.embeddings(layer)
        return None

    def claim_dataset(self, fingerprint: Mapping[str, Any], skipped: Sequence[tuple[str, str]] = ()) -> None:
        """Records the data set's fingerprint beside the config, or checks that it equals the recorded one.

        Args:
          fingerprint: fingerprint of the data set.
          skipped: (file, reason) of each file that the data set leaves out; written to skipped_images.csv.

        Raises:
          WorkdirError: positions in this workdir refer to another data set.
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
        """Raises WorkdirError if two fingerprints differ; `where` is the file that holds `recorded`."""
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
        """The recorded fingerprint; None until a stage opens the data set."""
        if not storage.exists(self.config):
            return None
        found = need_fields(self.config, storage.read_json(self.config), config=dict)
        return need_fields(self.config, found, dataset=dict)["dataset"] if "dataset" in found else None
