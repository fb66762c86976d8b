"""The stage select: merges to subsets (the paper's section 3.2)."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from redundancy import methods, storage
from redundancy.embedding.store import EmbeddingStore
from redundancy.linkage.classes import Linked
from redundancy.methods.choose import Choice, choose
from redundancy.methods.counts import beyond_fractions, num_asked
from redundancy.runtime import processes
from redundancy.runtime.errors import ConfigError, DataError, WorkdirError
from redundancy.runtime.progress import Progress
from redundancy.scoring import files as scores_lib
from redundancy.scoring.files import Score
from redundancy.selection import merges
from redundancy.selection.inputs import are_those, check_depth, check_embeddings, manifest_sha256, open_store
from redundancy.selection.subset import Subset, check_file, read_subset, write_subset
from redundancy.workdir import Workdir, finished, need_manifest, read_manifest, subset_name, table, write_manifest
from redundancy.workdir.table import Asked

_FIELDS = sorted({name for method in methods.METHODS.values() for name in method.fields})


def select(config: ml_collections.FrozenConfigDict, workdir: Workdir) -> None:
    """Writes a subset for every method, layer, fraction and, for random methods, trial (the paper's section 3.2).

    If there are several processes, process 0 does it. Existing subsets of other fractions, methods, layers or trials stay, and
    the manifest lists all.

    Raises:
      WorkdirError: embeddings or merges are not finished, do not match each other or the workdir's data set; or existing
        subsets were made from other embeddings or merges, or with another rule or seed.
      DataError: an artifact is damaged, or the embeddings' labels are not the data set's.
    """
    processes.first(lambda: _select(config, workdir))


def _select(config: ml_collections.FrozenConfigDict, workdir: Workdir) -> None:
    inputs = _find_inputs(config, workdir)
    earlier = _read_earlier(config, workdir, inputs)
    missing = finished.missing(config, earlier)
    if not missing:
        logging.info("select: finished already")
        return
    stores = _open_stores(config, workdir, earlier["files"])
    # Everything is read first, so that damage is found before anything is written.
    linked, scores = _read_merges(workdir, stores, inputs, missing), _read_scores(config, workdir, stores[0], missing)
    files = [_write(workdir, subset) for subset in _choose(missing, config, stores, linked, scores)]
    for said in beyond_fractions(np.array([*stores[0].class_counts.values()]), files):
        logging.warning("select: %s.", said)
    fields = [name for method in methods.chosen(config) for name in method.fields]
    manifest = {
        "fingerprint": stores[0].manifest["fingerprint"],
        "inputs": earlier["inputs"] | {name: sha256 for name, sha256 in inputs.items() if sha256 is not None},
        **{name: earlier[name] for name in _FIELDS if name in earlier},
        **{name: config[name] if name in fields else earlier.get(name) for name in ("rule", "seed", *fields)},
        "files": sorted([*earlier["files"], *files], key=_in_order),
    }
    write_manifest(workdir.subsets, manifest)


def _layers(config: ml_collections.FrozenConfigDict) -> Sequence[str]:
    """Layers to read. If no method reads embeddings, only one is read, for its labels."""
    return config.layers if any(method.per_layer for method in methods.chosen(config)) else config.layers[:1]


def _find_inputs(config: ml_collections.FrozenConfigDict, workdir: Workdir) -> dict[str, str | None]:
    """SHA-256 of the manifest of each input, None if it has none."""
    inputs = {f"embeddings/{layer}": manifest_sha256(workdir.embeddings(layer)) for layer in _layers(config)}
    if methods.grouped(config):
        inputs |= {f"merges/{layer}": manifest_sha256(workdir.merges(layer)) for layer in _layers(config)}
    listed = scores_lib.listed(workdir)
    return inputs | {f"scores/{name}": listed[name]["sha256"] for name in methods.scores(config) if name in listed}


def _read_scores(
    config: ml_collections.FrozenConfigDict, workdir: Workdir, store: EmbeddingStore, missing: Sequence[Asked]
) -> dict[str, Score]:
    """The scores that determine the missing subsets; raises WorkdirError if a score is of other images or labels."""
    readers = map(methods.get, {each.method for each in missing})
    names = {method.score(config) for method in readers if method.score}
    found, (positions, labels) = {}, store.labels()
    for name in sorted(names):
        score, where = scores_lib.read(workdir, name), scores_lib.path(workdir, name)
        workdir.check_fingerprint(store.manifest["fingerprint"] or {}, score.made["fingerprint"], where)
        if not name.startswith(methods.IMPORTED):
            scores_lib.check_made(config, workdir, score)
        if not (np.array_equal(score.positions, positions) and np.array_equal(score.labels, labels)):
            raise WorkdirError(
                f"{where} scores other images, or has other labels, than {store.folder}. Delete {workdir.scores} and make or "
                "import the scores again."
            )
        found[name] = score
    _check_lists(config, workdir, found, missing)
    return found


def check_imported(config: ml_collections.FrozenConfigDict, workdir: Workdir) -> None:
    """Raises the errors of the stage select for imported scores early, before the stages ahead of it begin.

    Raises:
      WorkdirError: a score that the config's methods read is missing.
      ConfigError: a score is a list of kept images, and its fraction is not the config's.
    """
    names = [name for name in methods.scores(config) if name.startswith(methods.IMPORTED)]
    found = {name: scores_lib.read(workdir, name) for name in names}
    _check_lists(config, workdir, found, table.subsets(config))


def _check_lists(
    config: ml_collections.FrozenConfigDict, workdir: Workdir, found: Mapping[str, Score], asked: Sequence[Asked]
) -> None:
    """Raises ConfigError if a list of kept images does not suit the subsets that are asked for."""
    for each in asked:
        method = methods.get(each.method)
        score = found.get(method.score(config)) if method.score else None
        if score is None or score.keep != "listed":
            continue
        size, total, where = int(score.values.sum()), len(score.values), scores_lib.path(workdir, score.name)
        if method.easy or not method.order:
            raise ConfigError(
                f"config.methods has {method.name}, but {where} is a list of kept images, which have no order. Give {score.name} "
                "instead."
            )
        if num_asked(total, each.fraction) != size and each.fraction != 1:
            raise ConfigError(
                f"{where} lists {size} of {total} images, so its only fraction is {size / total:.9g}; config.fractions has "
                f"{each.fraction:g}. Use {score.name} in a workdir with that fraction alone."
            )


def _read_earlier(
    config: ml_collections.FrozenConfigDict, workdir: Workdir, inputs: Mapping[str, str | None]
) -> dict[str, Any]:
    """The manifest of existing subsets, to which those of this config are added; an empty one if there is none.

    Raises:
      WorkdirError: the subsets were made from inputs other than the present ones, or with another rule or seed.
      DataError: a subset is missing or damaged.
    """
    manifest = read_manifest(workdir.subsets, inputs=dict, files=list)
    if manifest is None:
        return {"inputs": {}, "files": []}
    remedy = f'Delete {workdir.subsets} and run "redundancy select" again.'
    recorded = manifest["inputs"]
    for name, present in inputs.items():
        kind, _, layer = name.partition("/")
        same = are_those(workdir, layer, recorded) if kind == "merges" else recorded.get(name, present) == present
        if present is not None and not same:
            raise WorkdirError(f"{workdir.subsets} was made from other {name} than the present ones. {remedy}")
    for field in itertools.chain(*(method.fields for method in methods.chosen(config))):
        if manifest.get(field) not in (None, config[field]):
            raise WorkdirError(
                f"{workdir.subsets} was made with {field} {manifest[field]!r}, and config.{field} is {config[field]!r}"
                f". Use that value; or: {remedy}"
            )
    for file in manifest["files"]:
        check_file(workdir.subsets, file)
    return manifest


def _open_stores(
    config: ml_collections.FrozenConfigDict, workdir: Workdir, earlier: Sequence[Mapping[str, Any]]
) -> list[EmbeddingStore]:
    """The layers' embeddings; raises DataError if they, or existing subsets, have different images or labels."""
    stores = [open_store(workdir, layer) for layer in _layers(config)]
    positions, labels = stores[0].labels()
    for store in stores[1:]:
        if not all(map(np.array_equal, store.labels(), (positions, labels))):
            raise DataError(
                f"{store.folder} and {stores[0].folder} hold other images or labels; wanted the same in every layer. "
                'Delete both and run "redundancy embed" again.'
            )
    for file in earlier[:1]:
        path = storage.join(workdir.subsets, file["file"])
        before = read_subset(path)
        if not (np.array_equal(before.positions, positions) and np.array_equal(before.labels, labels)):
            raise DataError(
                f"{path} holds other images or labels than the embeddings do now; wanted the same in every layer. "
                f'Delete {workdir.subsets} and run "redundancy select" again, or choose another --workdir.'
            )
    return stores


def _read_merges(
    workdir: Workdir, stores: Sequence[EmbeddingStore], inputs: Mapping[str, str | None], missing: Sequence[Asked]
) -> dict[str, Linked]:
    """The merges from which the missing subsets are cut: layer -> label -> merges."""
    linked = {}
    for store in stores:
        fractions = [
            each.fraction for each in missing if each.layer == store.layer and methods.get(each.method).has_groups
        ]
        if fractions:
            linked[store.layer] = _need_merges(workdir, store, inputs[f"embeddings/{store.layer}"], fractions)
    return linked


def _need_merges(workdir: Workdir, store: EmbeddingStore, embeddings: str | None, fractions: Sequence[float]) -> Linked:
    """The layer's merges by label; raises WorkdirError if they belong to other embeddings or are too few."""
    folder = workdir.merges(store.layer)
    manifest = need_manifest(folder, "link", embeddings=str, classes=dict, fractions=list, parts=list)
    check_embeddings(folder, manifest, embeddings)
    check_depth(folder, manifest, fractions)
    counts = {int(label): of_class["images"] for label, of_class in manifest["classes"].items()}
    found = merges.read(folder, manifest["parts"], counts) if counts == store.class_counts else None
    if found is None or found.num_merges.tolist() != [manifest["classes"][str(label)]["merges"] for label in found]:
        raise DataError(
            f"{folder} has the merges of other classes than its manifest or the embeddings have. Delete {folder} and run "
            '"redundancy link" again.'
        )
    return found


def _choose(
    missing: Sequence[Asked],
    config: ml_collections.FrozenConfigDict,
    stores: Sequence[EmbeddingStore],
    linked: Mapping[str, Linked],
    scores: Mapping[str, Score],
) -> Iterator[Subset]:
    """Yields the missing subsets. Those of one method and layer are chosen together, so that embeddings are read only once."""
    for _, together in itertools.groupby(missing, lambda each: (each.method, each.layer) if each.layer else each.name):
        asked = list(together)
        store = next((store for store in stores if store.layer == asked[0].layer), stores[0])
        yield from _subsets(asked, config, store, linked.get(store.layer), scores)


def _subsets(
    asked: Sequence[Asked],
    config: ml_collections.FrozenConfigDict,
    store: EmbeddingStore,
    linked: Linked | None,
    scores: Mapping[str, Score],
) -> list[Subset]:
    """The subsets of one method and layer; each class is read at most once."""
    method, (positions, labels) = methods.get(asked[0].method), store.labels()
    score = scores[method.score(config)] if method.score else None
    shown = Progress(f"select {store.layer}", len(labels), "images") if method.per_layer else contextlib.nullcontext()
    with shown as progress:
        choices = [_listed(score, each) for each in asked] if score is not None and score.keep == "listed" else choose(
            method, labels, positions, [(each.fraction, each.trial) for each in asked], config,
            read=lambda some, _: store.read_classes(some)[2], linked=linked,
            advance=lambda images: progress and progress.advance(images),
            score=None if score is None else score.priority,
        )  # fmt: skip
    return [
        Subset(
            positions,
            labels,
            choice.group,
            choice.kept,
            choice.dissimilarity,
            {
                "fingerprint": store.manifest["fingerprint"],
                "num_stored": store.manifest["num_stored"],
                **dataclasses.asdict(each),
                "rule": config.rule if "rule" in method.fields else None,
                "seed": [config.seed, each.trial] if "seed" in method.fields else None,
                "size": int(choice.kept.sum()),
            },
        )
        for each, choice in zip(asked, choices, strict=True)
    ]


def _listed(score: Score, asked: Asked) -> Choice:
    """The choice that a list of kept images makes, whatever share of each class it keeps."""
    n = len(score.values)
    kept = score.values > 0 if asked.fraction < 1 else np.ones(n, bool)
    return Choice(kept, np.full(n, -1, np.int64), np.full(n, np.nan))


def _write(workdir: Workdir, subset: Subset) -> dict[str, Any]:
    """Writes a subset; returns its entry in the manifest."""
    of = subset.metadata
    path = workdir.subset(subset_name(of["method"], of["fraction"], of["trial"], of["layer"] or "end"))
    sha256 = write_subset(path, subset)
    shown = {key: of[key] for key in ("method", "layer", "fraction", "trial", "size")}
    return {"file": path.rsplit("/", 1)[-1], "sha256": sha256, **shown}


def _in_order(file: Mapping[str, Any]) -> tuple:
    return *methods.place(file["method"]), file["layer"] or "", -file["fraction"], file["trial"] or 0
