"""The stages link (embeddings to merges) and select (merges to subsets)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from redundancy import storage
from redundancy.embedding.store import EmbeddingStore
from redundancy.errors import DataError, WorkdirError
from redundancy.progress import Progress
from redundancy.selection import local, merges, methods
from redundancy.selection.linkage import Merges
from redundancy.selection.subset import Subset, read_subset, write_subset
from redundancy.selection.tasks import ClassTask
from redundancy.workdir import Workdir, need_manifest, read_manifest, subset_name, write_manifest

__all__ = ["Subset", "link", "read_subset", "select"]

# Runs the tasks and calls the function after each: `local.run`, or a cluster's.
Engine = Callable[[Sequence[ClassTask], Callable[[ClassTask], None]], None]


def _manifest_sha256(folder: str) -> str | None:
    path = storage.join(folder, "manifest.json")
    return storage.sha256(path) if storage.exists(path) else None


def _open_store(workdir: Workdir, layer: str) -> EmbeddingStore:
    """The layer's store; raises WorkdirError where it belongs to another data set than the workdir."""
    store = EmbeddingStore(workdir.embeddings(layer))
    dataset = workdir.dataset_fingerprint()
    if dataset is not None:
        where = storage.join(store.folder, "manifest.json")
        workdir.check_fingerprint(store.manifest["fingerprint"] or {}, dataset, where)
    return store


def _check_embeddings(folder: str, manifest: Mapping[str, Any], embeddings: str | None) -> None:
    """Raises WorkdirError where finished merges were made from other embeddings than the present ones, if any are."""
    if embeddings is not None and manifest["embeddings"] != embeddings:
        raise WorkdirError(
            f"{folder} was made from other embeddings (their manifest's SHA-256 was {manifest['embeddings'][:12]}…, "
            f'now it is {embeddings[:12]}…). Delete {folder} and run "redundancy link" again.'
        )


def _num_merges(counts: Mapping[int, int], fractions: Sequence[float]) -> dict[int, int]:
    """Merges of each class that the fractions need."""
    kept = [methods.class_counts(counts, fraction) for fraction in fractions]
    return {label: size - min(of_fraction[label] for of_fraction in kept) for label, size in sorted(counts.items())}


def _link_layer(
    store: EmbeddingStore, folder: str, embeddings: str, fractions: Sequence[float], engine: Engine
) -> None:
    store.labels()
    counts, names = store.class_counts, store.manifest["class_names"]
    empty = [name for label, name in enumerate(names) if label not in counts]
    if empty:
        logging.warning("%s: no images of %d classes, for example %r.", store.folder, len(empty), empty[0])
    num_merges = _num_merges(counts, fractions)
    every = [
        ClassTask(store.folder, embeddings, folder, label, counts[label], number)
        for label, number in num_merges.items()
    ]
    identities = {task.label: task.identity for task in every}
    done = merges.finished_classes(folder, identities)
    todo = [task for task in every if task.label not in done]
    with Progress(
        f"link {store.layer}", store.num_examples, "images", done=sum(counts[label] for label in done)
    ) as progress:
        engine(todo, lambda task: progress.advance(task.num_images, note=names[task.label]))
    merges.pack(
        folder,
        identities,
        {
            "layer": store.layer,
            "fingerprint": store.manifest["fingerprint"],
            "embeddings": embeddings,
            "fractions": list(fractions),
            "classes": {
                str(label): {"images": counts[label], "merges": number} for label, number in num_merges.items()
            },
        },
    )


def link(config: ml_collections.FrozenConfigDict, workdir: Workdir, engine: Engine = local.run) -> None:
    """Links the images of each class as far down as the smallest fraction asks (the paper's section 3.2).

    Classes that an interrupted run finished are kept.

    Args:
      config: layers, fractions and methods count.
      workdir: holds finished embeddings.
      engine: runs the tasks, see `local.run`.

    Raises:
      WorkdirError: the embeddings are not finished or of another data set, or finished merges are of others.
      DataError: the embeddings are damaged, or a class does not fit in memory.
    """
    if "semantic" not in config.methods:
        logging.info("link: nothing to do, the method semantic is not among config.methods.")
        return
    for layer in config.layers:
        folder = workdir.merges(layer)
        embeddings = _manifest_sha256(workdir.embeddings(layer))
        manifest = read_manifest(folder, embeddings=str)
        if manifest is not None:
            _check_embeddings(folder, manifest, embeddings)
            logging.info("link %s: finished already", layer)
            continue
        _link_layer(_open_store(workdir, layer), folder, embeddings, config.fractions, engine)


def _random_subsets(
    config: ml_collections.FrozenConfigDict, base: Mapping[str, Any], positions: np.ndarray, labels: np.ndarray
) -> Iterator[Subset]:
    for fraction in config.fractions:
        for trial in range(config.trials):
            kept = methods.random_subset(labels, positions, fraction, (config.seed, trial))
            metadata = {
                **base,
                "method": "random",
                "layer": None,
                "rule": None,
                "fraction": fraction,
                "trial": trial,
                "seed": [config.seed, trial],
                "size": int(kept.sum()),
            }
            no_group, no_value = np.full(len(labels), -1, np.int64), np.full(len(labels), np.nan)
            yield Subset(positions, labels, no_group, kept, no_value, metadata)


def _semantic_subsets(
    config: ml_collections.FrozenConfigDict,
    base: Mapping[str, Any],
    positions: np.ndarray,
    labels: np.ndarray,
    store: EmbeddingStore,
    linked: Mapping[int, Merges],
) -> list[Subset]:
    """One subset of each fraction; each class is read once."""
    counts = [methods.class_counts(store.class_counts, fraction) for fraction in config.fractions]
    group = np.zeros((len(counts), len(labels)), np.int64)
    kept = np.zeros(group.shape, bool)
    dissimilarity = np.zeros(group.shape)
    first_group = np.zeros(len(counts), np.int64)
    with Progress(f"select {store.layer}", len(labels), "images") as progress:
        for label, rows in methods.rows_by_class(labels).items():
            _, vectors = store.read_class(label)
            for number, of_fraction in enumerate(counts):
                group[number, rows], kept[number, rows], dissimilarity[number, rows] = methods.semantic_subset(
                    linked[label], vectors, of_fraction[label], config.rule
                )
                group[number, rows] += first_group[number]
                first_group[number] += of_fraction[label]
            progress.advance(len(rows))
    return [
        Subset(
            positions,
            labels,
            group[number],
            kept[number],
            dissimilarity[number],
            {
                **base,
                "method": "semantic",
                "layer": store.layer,
                "rule": config.rule,
                "fraction": fraction,
                "trial": None,
                "seed": None,
                "size": int(kept[number].sum()),
            },
        )
        for number, fraction in enumerate(config.fractions)
    ]


def _need_merges(
    workdir: Workdir, store: EmbeddingStore, embeddings: str, fractions: Sequence[float]
) -> dict[int, Merges]:
    """The layer's merges; raises WorkdirError where they are not these embeddings', or not deep enough."""
    folder = workdir.merges(store.layer)
    manifest = need_manifest(folder, "link", embeddings=str, classes=dict, fractions=list, parts=list)
    _check_embeddings(folder, manifest, embeddings)
    for label, needed in _num_merges(store.class_counts, fractions).items():
        if manifest["classes"][str(label)]["merges"] < needed:
            raise WorkdirError(
                f"{folder} was linked for fractions {manifest['fractions']}, and {min(fractions)} needs more merges. "
                f'Delete {folder} and run "redundancy link" again.'
            )
    return merges.read(folder, manifest["parts"], list(map(int, manifest["classes"])))


def _finished(workdir: Workdir, inputs: Mapping[str, Any]) -> bool:
    """Whether the subsets are made; raises where they are not whole, or of other inputs than the present ones."""
    manifest = read_manifest(workdir.subsets, inputs=dict, files=list)
    if manifest is None:
        return False
    remedy = f'Delete {workdir.subsets} and run "redundancy select" again.'
    for name, present in inputs.items():
        if present is not None and manifest["inputs"].get(name) != present:
            raise WorkdirError(f"{workdir.subsets} was made from other {name} than the present ones. {remedy}")
    for file in manifest["files"]:
        path = storage.join(workdir.subsets, file["file"])
        if not storage.exists(path) or storage.sha256(path) != file["sha256"]:
            raise DataError(f"{path} is missing, damaged or another file than the manifest names. {remedy}")
    logging.info("select: finished already")
    return True


def select(config: ml_collections.FrozenConfigDict, workdir: Workdir) -> None:
    """Writes the subset of every method, layer, fraction and, where it is drawn, trial (the paper's section 3.2).

    Raises:
      WorkdirError: embeddings or merges are not finished, or do not belong together or to the workdir's data set.
      DataError: an artifact is damaged.
    """
    semantic = "semantic" in config.methods
    layers = config.layers if semantic else config.layers[:1]
    inputs = {f"embeddings/{layer}": _manifest_sha256(workdir.embeddings(layer)) for layer in layers}
    if semantic:
        inputs |= {f"merges/{layer}": _manifest_sha256(workdir.merges(layer)) for layer in layers}
    if _finished(workdir, inputs):
        return
    stores = [_open_store(workdir, layer) for layer in layers]
    positions, labels = stores[0].labels()
    for store in stores[1:]:
        if not all(map(np.array_equal, store.labels(), (positions, labels))):
            raise DataError(
                f"{store.folder} and {stores[0].folder} hold other images or labels; wanted the same in every layer. "
                'Delete both and run "redundancy embed" again.'
            )
    base = {"fingerprint": stores[0].manifest["fingerprint"], "num_stored": stores[0].manifest["num_stored"]}
    # Read before anything is written: damaged merges end the stage here.
    linked = [
        _need_merges(workdir, store, inputs[f"embeddings/{store.layer}"], config.fractions)
        for store in stores
        if semantic
    ]
    files = []

    def write(subset: Subset) -> None:
        of = subset.metadata
        name = subset_name(of["method"], of["fraction"], of["trial"], of["layer"] or "end")
        path = workdir.subset(name)
        sha256 = write_subset(path, subset)
        shown = {key: of[key] for key in ("method", "layer", "fraction", "trial", "size")}
        files.append({"file": path.rsplit("/", 1)[-1], "sha256": sha256, **shown})

    for store, of_layer in zip(stores if semantic else (), linked, strict=True):
        for subset in _semantic_subsets(config, base, positions, labels, store, of_layer):
            write(subset)
    if "random" in config.methods:
        for subset in _random_subsets(config, base, positions, labels):
            write(subset)
    write_manifest(workdir.subsets, {"fingerprint": base["fingerprint"], "inputs": inputs, "files": files})
