"""The stage link: embeddings to merges, class by class (the paper's section 3.2)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from redundancy import methods, storage
from redundancy.embedding.store import EmbeddingStore
from redundancy.linkage.batches import batches
from redundancy.methods import METHODS
from redundancy.methods.counts import beyond_fraction, merges_to_make
from redundancy.runtime import processes
from redundancy.runtime.progress import Progress
from redundancy.selection import local, merges
from redundancy.selection.inputs import check_embeddings, manifest_sha256, open_store
from redundancy.selection.tasks import ClassTask
from redundancy.workdir import Workdir, finished, read_manifest

# Runs the tasks and calls the function after each one: `local.run`, or a cluster's. During a large class it may call the
# function several times, each time with the number of images finished since the last call.
Engine = Callable[[Sequence[ClassTask], Callable[..., None]], None]


def link(config: ml_collections.FrozenConfigDict, workdir: Workdir, engine: Engine = local.run) -> None:
    """Links the images of each class as far as the smallest fraction needs (the paper's section 3.2).

    If existing merges are too few for the smallest fraction, all are computed again, deeper. Classes that an interrupted run
    finished are kept. If there are several processes, each links its own classes.

    Args:
      config: resolved config; only layers, fractions and methods are used.
      workdir: workdir with finished embeddings.
      engine: runs the tasks, see `local.run`.

    Raises:
      WorkdirError: the embeddings are not finished or of another data set, or existing merges are of other embeddings.
      DataError: the embeddings are damaged, a class does not fit in memory, or deeper merges do not begin with existing ones.
    """
    if not methods.grouped(config):
        linked = " or ".join(method.name for method in METHODS.values() if method.has_groups)
        logging.info("link: nothing to do, the method %s is not among config.methods.", linked)
        return
    for layer in config.layers:
        if _is_finished(config, workdir, layer):
            logging.info("link %s: finished already", layer)
            continue
        _link_layer(config, workdir, layer, engine)


def _link_layer(config: ml_collections.FrozenConfigDict, workdir: Workdir, layer: str, engine: Engine) -> None:
    folder, embeddings = workdir.merges(layer), manifest_sha256(workdir.embeddings(layer))
    store = open_store(workdir, layer)
    store.labels()
    store.check_vectors()
    counts, wanted = store.class_counts, _wanted_merges(store, config.fractions)
    tasks = [
        ClassTask(store.folder, embeddings, folder, *(tuple(map(of, labels)) for of in (int, counts.get, wanted.get)))
        for labels in batches({label: counts[label] for label, number in wanted.items() if number})
    ]
    processes.together(lambda: _run(_own(tasks), folder, store, engine))
    manifest = {
        "layer": store.layer,
        "fingerprint": store.manifest["fingerprint"],
        "embeddings": embeddings,
        "fractions": list(config.fractions),
        "classes": {str(label): {"images": counts[label], "merges": number} for label, number in wanted.items()},
    }
    processes.first(lambda: merges.pack(folder, {task.path: task.identity for task in tasks}, manifest))


def _is_finished(config, workdir: Workdir, layer: str) -> bool:
    """Whether a layer has enough merges; raises WorkdirError if they were made from other embeddings."""
    folder = workdir.merges(layer)
    manifest: Mapping[str, Any] | None = read_manifest(folder, embeddings=str, classes=dict, fractions=list)
    if manifest is None:
        return False
    check_embeddings(folder, manifest, manifest_sha256(workdir.embeddings(layer)))
    if finished.too_shallow(manifest, config.fractions):
        logging.info("link %s: deeper than for the fractions %s", layer, manifest["fractions"])
        return False
    if processes.is_first():
        storage.remove(merges.scratch(folder))  # a killed process may have left it
    return True


def _wanted_merges(store: EmbeddingStore, fractions: Sequence[float]) -> dict[int, int]:
    """Number of merges to make of each class."""
    counts = store.class_counts
    empty = [name for label, name in enumerate(store.manifest["class_names"]) if label not in counts]
    if empty:
        logging.warning("%s: no images of %d classes, for example %r.", store.folder, len(empty), empty[0])
    for fraction in sorted(fractions, reverse=True):
        if said := beyond_fraction(np.array([*counts.values()]), fraction):
            logging.warning("link %s: %s.", store.layer, said)
    return merges_to_make(counts, fractions)


def _own(tasks: Sequence[ClassTask]) -> list[ClassTask]:
    """This process's share of the tasks, which are distributed by size so that each process gets about the same work."""
    dealt = sorted(tasks, key=lambda task: (-task.num_images, task.label))
    return dealt[processes.index() :: processes.count()]


def _run(tasks: Sequence[ClassTask], folder: str, store: EmbeddingStore, engine: Engine) -> None:
    """Links the classes that no earlier run has finished."""
    done = merges.finished(folder, {task.path: task.identity for task in tasks})
    total, before = (sum(task.num_images for task in some) for some in (tasks, [t for t in tasks if t.path in done]))
    with Progress(f"link {store.layer}", total, "images", done=before) as progress:

        def finished(task: ClassTask, images: int | None = None) -> None:
            more = f" and {len(task.labels) - 1} more" if len(task.labels) > 1 else ""
            note = f"class {store.manifest['class_names'][task.label]}{more}"
            progress.advance(task.num_images if images is None else images, note=note)

        engine([task for task in tasks if task.path not in done], finished)
