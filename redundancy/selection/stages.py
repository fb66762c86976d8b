"""The stages link (embeddings to merges) and select (merges to subsets)."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from redundancy import storage
from redundancy.embedding.store import EmbeddingStore
from redundancy.experiment import table
from redundancy.experiment.table import Asked
from redundancy.runtime import processes
from redundancy.runtime.errors import DataError, WorkdirError
from redundancy.runtime.progress import Progress
from redundancy.selection import choices, local, merges, methods
from redundancy.selection.linkage import Merges
from redundancy.selection.methods import METHODS
from redundancy.selection.subset import Subset, check_file, read_subset, write_subset
from redundancy.selection.tasks import ClassTask
from redundancy.workdir import Workdir, need_manifest, read_manifest, subset_name, write_manifest

__all__ = ["Subset", "link", "read_subset", "select"]

# Runs the tasks and calls the function after each: `local.run`, or a cluster's. A large class may be told of in steps,
# each with how many more of its images are done.
Engine = Callable[[Sequence[ClassTask], Callable[..., None]], None]


def _manifest_sha256(folder: str) -> str | None:
    path = storage.join(folder, "manifest.json")
    return storage.sha256(path) if storage.exists(path) else None


def _open_store(workdir: Workdir, layer: str) -> EmbeddingStore:
    """The layer's store; raises WorkdirError where it is of another data set than the workdir's, or DataError of its labels."""
    store = EmbeddingStore(workdir.embeddings(layer))
    if store.layer != layer:
        raise WorkdirError(
            f"{store.folder} holds embeddings of the layer {store.layer!r}; wanted {layer!r}, as the folder's name says. "
            "Bring the right files back, or make them again."
        )
    network, trained = store.manifest.get("network"), (read_manifest(workdir.pretrain) or {}).get("network")
    if None not in (network, trained) and network != trained:
        raise WorkdirError(
            f"{store.folder}/manifest.json: these embeddings were made by another network ({network[:12]}…) than the one in "
            f'{workdir.pretrain} ({trained[:12]}…). Delete {store.folder} and run "redundancy embed" again, or bring the right '
            "files back."
        )
    dataset = workdir.dataset_fingerprint()
    if dataset is not None:
        where = storage.join(store.folder, "manifest.json")
        workdir.check_fingerprint(store.manifest["fingerprint"] or {}, dataset, where)
        store.check_labels(dataset)
    return store


def _check_embeddings(folder: str, manifest: Mapping[str, Any], embeddings: str | None) -> None:
    """Raises WorkdirError where finished merges were made from other embeddings than the present ones, if any are."""
    if embeddings is not None and manifest["embeddings"] != embeddings:
        raise WorkdirError(
            f"{folder} was made from other embeddings (their manifest's SHA-256 was {manifest['embeddings'][:12]}…, "
            f'now it is {embeddings[:12]}…). Delete {folder} and run "redundancy link" again.'
        )


def _check_depth(workdir: Workdir, folder: str, manifest: Mapping[str, Any], fractions: Sequence[float]) -> None:
    """Raises WorkdirError where finished merges do not go down to all of the fractions."""
    counts = {int(label): of_class["images"] for label, of_class in manifest["classes"].items()}
    for label, needed in _num_merges(counts, fractions).items():
        if manifest["classes"][str(label)]["merges"] < needed:
            made = [folder] + ([workdir.subsets] if storage.exists(workdir.subsets) else [])
            raise WorkdirError(
                f"{folder} was linked for fractions {manifest['fractions']}, and {min(fractions)} needs more merges. "
                f'Delete {" and ".join(made)}, and run "redundancy link" and "redundancy select" again with '
                "all the --config.fractions that you want."
            )


def _num_merges(counts: Mapping[int, int], fractions: Sequence[float]) -> dict[int, int]:
    """Merges of each class that the fractions need."""
    kept = [choices.class_counts(counts, fraction) for fraction in fractions]
    return {label: size - min(of_fraction[label] for of_fraction in kept) for label, size in sorted(counts.items())}


def _link_layer(
    store: EmbeddingStore, folder: str, embeddings: str, fractions: Sequence[float], engine: Engine
) -> None:
    store.labels()
    store.check_vectors()
    counts, names = store.class_counts, store.manifest["class_names"]
    empty = [name for label, name in enumerate(names) if label not in counts]
    if empty:
        logging.warning("%s: no images of %d classes, for example %r.", store.folder, len(empty), empty[0])
    # One more than is needed: with the largest remainder a larger fraction may keep one image fewer of a class.
    more = int(min(fractions) < 1)
    num_merges = {
        label: min(number + more, counts[label] - 1) for label, number in _num_merges(counts, fractions).items()
    }
    every = [
        ClassTask(store.folder, embeddings, folder, label, counts[label], number)
        for label, number in num_merges.items()
    ]
    identities = {task.label: task.identity for task in every}
    # Of several processes each links its own classes: dealt out by size, so that each gets about the same work.
    dealt = sorted(every, key=lambda task: (-task.num_images, task.label))
    own = dealt[processes.index() :: processes.count()]
    done = merges.finished_classes(folder, {task.label: task.identity for task in own})

    def link_own() -> None:
        total, before = sum(task.num_images for task in own), sum(counts[label] for label in done)
        with Progress(f"link {store.layer}", total, "images", done=before) as progress:

            def finished(task: ClassTask, images: int | None = None) -> None:
                progress.advance(task.num_images if images is None else images, note=names[task.label])

            engine([task for task in own if task.label not in done], finished)

    processes.together(link_own)
    classes = {str(label): {"images": counts[label], "merges": number} for label, number in num_merges.items()}
    manifest = {
        "layer": store.layer,
        "fingerprint": store.manifest["fingerprint"],
        "embeddings": embeddings,
        "fractions": list(fractions),
        "classes": classes,
    }
    processes.first(lambda: merges.pack(folder, identities, manifest))


def link(config: ml_collections.FrozenConfigDict, workdir: Workdir, engine: Engine = local.run) -> None:
    """Links the images of each class as far down as the smallest fraction asks (the paper's section 3.2).

    Classes that an interrupted run finished are kept. Of several processes each links its own classes.

    Args:
      config: layers, fractions and methods count.
      workdir: holds finished embeddings.
      engine: runs the tasks, see `local.run`.

    Raises:
      WorkdirError: the embeddings are not finished or of another data set, or finished merges are of others.
      DataError: the embeddings are damaged, or a class does not fit in memory.
    """
    if not methods.grouped(config):
        linked = " or ".join(method.name for method in METHODS.values() if method.has_groups)
        logging.info("link: nothing to do, the method %s is not among config.methods.", linked)
        return
    for layer in config.layers:
        folder = workdir.merges(layer)
        embeddings = _manifest_sha256(workdir.embeddings(layer))
        manifest = read_manifest(folder, embeddings=str, classes=dict, fractions=list)
        if manifest is not None:
            _check_embeddings(folder, manifest, embeddings)
            _check_depth(workdir, folder, manifest, config.fractions)
            if processes.is_first():
                storage.remove(merges.scratch(folder))  # left where the process died before it was done with
            logging.info("link %s: finished already", layer)
            continue
        _link_layer(_open_store(workdir, layer), folder, embeddings, config.fractions, engine)


def _subsets(
    asked: Sequence[Asked],
    config: ml_collections.FrozenConfigDict,
    store: EmbeddingStore,
    linked: Mapping[int, Merges],
) -> list[Subset]:
    """The subsets asked for of one method and layer; each class is read once, if at all."""
    method, (positions, labels) = METHODS[asked[0].method], store.labels()
    counts = [choices.class_counts(store.class_counts, each.fraction) for each in asked]
    group = np.full((len(counts), len(labels)), -1, np.int64)
    kept = np.zeros(group.shape, bool)
    dissimilarity = np.full(group.shape, np.nan)
    first_group = np.zeros(len(counts), np.int64)
    told = Progress(f"select {store.layer}", len(labels), "images") if method.per_layer else contextlib.nullcontext()
    with told as progress:
        for label, rows in choices.rows_by_class(labels).items():
            vectors = store.read_class(label)[1] if method.per_layer else None
            for number, (each, of_fraction) in enumerate(zip(asked, counts, strict=True)):
                kept[number, rows], *groups = method.choose(
                    label=label, positions=positions[rows], k=of_fraction[label], config=config, trial=each.trial,
                    embeddings=vectors, merges=linked[label] if method.has_groups else None,
                )  # fmt: skip
                if groups:
                    group[number, rows], dissimilarity[number, rows] = groups[0] + first_group[number], groups[1]
                    first_group[number] += of_fraction[label]
            if progress is not None:
                progress.advance(len(rows))
    return [
        Subset(
            positions,
            labels,
            group[number],
            kept[number],
            dissimilarity[number],
            {
                **_base(store),
                **dataclasses.asdict(each),
                "rule": config.rule if "rule" in method.fields else None,
                "seed": [config.seed, each.trial] if "seed" in method.fields else None,
                "size": int(kept[number].sum()),
            },
        )
        for number, each in enumerate(asked)
    ]


def _base(store: EmbeddingStore) -> dict[str, Any]:
    """What the metadata of a subset says of the data set."""
    return {"fingerprint": store.manifest["fingerprint"], "num_stored": store.manifest["num_stored"]}


def _need_merges(workdir: Workdir, store: EmbeddingStore, embeddings: str, asked: Sequence[Asked]) -> dict[int, Merges]:
    """The layer's merges; raises WorkdirError where they are not these embeddings', or not deep enough."""
    fractions = [each.fraction for each in asked]
    folder = workdir.merges(store.layer)
    manifest = need_manifest(folder, "link", embeddings=str, classes=dict, fractions=list, parts=list)
    _check_embeddings(folder, manifest, embeddings)
    _check_depth(workdir, folder, manifest, fractions)
    counts = {int(label): of_class["images"] for label, of_class in manifest["classes"].items()}
    found = merges.read(folder, manifest["parts"], list(counts)) if counts == store.class_counts else {}
    short = [label for label in found if len(found[label]) != manifest["classes"][str(label)]["merges"]]
    if short or not found:
        raise DataError(
            f"{folder} has the merges of other classes than its manifest or the embeddings have. Delete {folder} and run "
            '"redundancy link" again.'
        )
    return found


def _earlier(
    config: ml_collections.FrozenConfigDict, workdir: Workdir, inputs: Mapping[str, str | None]
) -> dict[str, Any] | None:
    """The manifest of the subsets made before, to which this config's can be added; None where there is none.

    Raises:
      WorkdirError: they were made of other inputs than the present ones, by another rule or with another seed.
      DataError: they are not whole.
    """
    manifest = read_manifest(workdir.subsets, inputs=dict, files=list)
    if manifest is None:
        return None
    remedy = f'Delete {workdir.subsets} and run "redundancy select" again.'
    recorded = manifest["inputs"]
    for name, present in inputs.items():
        if present is not None and recorded.get(name, present) != present:
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


def _check_same_images(workdir: Workdir, files: Sequence[Mapping[str, Any]], positions, labels) -> None:
    """Raises DataError where the subsets made before, perhaps of another layer, are of other images or labels."""
    for file in files[:1]:
        path = storage.join(workdir.subsets, file["file"])
        before = read_subset(path)
        if not (np.array_equal(before.positions, positions) and np.array_equal(before.labels, labels)):
            raise DataError(
                f"{path} holds other images or labels than the embeddings do now; wanted the same in every layer. "
                f'Delete {workdir.subsets} and run "redundancy select" again, or choose another --workdir.'
            )


def _in_order(file: Mapping[str, Any]) -> tuple:
    return [*METHODS].index(file["method"]), file["layer"] or "", -file["fraction"], file["trial"] or 0


def select(config: ml_collections.FrozenConfigDict, workdir: Workdir) -> None:
    """Writes the subset of every method, layer, fraction and, where it is drawn, trial (the paper's section 3.2).

    Of several processes the first does it. Subsets of other fractions, methods, layers or trials made before stay, and the manifest lists all.

    Raises:
      WorkdirError: embeddings or merges are not finished, do not belong together or to the workdir's data set, or the
        subsets made before are of other ones, or of another rule or seed.
      DataError: an artifact is damaged, or the embeddings' labels are not the data set's.
    """
    processes.first(lambda: _select(config, workdir))


def _select(config: ml_collections.FrozenConfigDict, workdir: Workdir) -> None:
    chosen, grouped = methods.chosen(config), methods.grouped(config)
    layers = config.layers if any(method.per_layer for method in chosen) else config.layers[:1]
    inputs = {f"embeddings/{layer}": _manifest_sha256(workdir.embeddings(layer)) for layer in layers}
    if grouped:
        inputs |= {f"merges/{layer}": _manifest_sha256(workdir.merges(layer)) for layer in layers}
    earlier = _earlier(config, workdir, inputs) or {"inputs": {}, "files": []}
    files = list(earlier["files"])
    made = {file["file"].removesuffix(".parquet") for file in files}
    missing = [each for each in table.subsets(config) if each.name not in made]
    if not missing:
        logging.info("select: finished already")
        return
    stores = [_open_store(workdir, layer) for layer in layers]
    positions, labels = stores[0].labels()
    for store in stores[1:]:
        if not all(map(np.array_equal, store.labels(), (positions, labels))):
            raise DataError(
                f"{store.folder} and {stores[0].folder} hold other images or labels; wanted the same in every layer. "
                'Delete both and run "redundancy embed" again.'
            )
    _check_same_images(workdir, files, positions, labels)
    # Read before anything is written: damaged merges end the stage here.
    linked = {}
    for store in stores if grouped else ():
        of_layer = [each for each in missing if each.layer == store.layer and METHODS[each.method].has_groups]
        if of_layer:
            linked[store.layer] = _need_merges(workdir, store, inputs[f"embeddings/{store.layer}"], of_layer)

    def write(subset: Subset) -> None:
        of = subset.metadata
        name = subset_name(of["method"], of["fraction"], of["trial"], of["layer"] or "end")
        path = workdir.subset(name)
        sha256 = write_subset(path, subset)
        shown = {key: of[key] for key in ("method", "layer", "fraction", "trial", "size")}
        files.append({"file": path.rsplit("/", 1)[-1], "sha256": sha256, **shown})

    def together(each: Asked) -> tuple:
        """What is chosen at once: all of a layer, which is read once, or else one subset."""
        return (each.method, each.layer) if each.layer else (each.name,)

    for _, of_layer in itertools.groupby(missing, together):
        asked = list(of_layer)
        store = next((store for store in stores if store.layer == asked[0].layer), stores[0])
        for subset in _subsets(asked, config, store, linked.get(store.layer, {})):
            write(subset)
    fields = [name for method in chosen for name in method.fields]
    manifest = {
        "fingerprint": stores[0].manifest["fingerprint"],
        "inputs": earlier["inputs"] | {name: sha256 for name, sha256 in inputs.items() if sha256 is not None},
        **{name: config[name] if name in fields else earlier.get(name) for name in ("rule", "seed", *fields)},
        "files": sorted(files, key=_in_order),
    }
    write_manifest(workdir.subsets, manifest)
