"""What the stages of a config still need of disk and memory, as far as shapes and sizes tell it before they begin.

Nothing is compiled, and neither embeddings nor images are read. Each need is a bound below and an estimate.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from redundancy import storage
from redundancy.data import Dataset
from redundancy.experiment import table
from redundancy.runtime import machine, processes
from redundancy.selection import choices, methods
from redundancy.selection.linkage import complete
from redundancy.workdir import Workdir, read_manifest

if TYPE_CHECKING:  # link and select alone do without all that trains
    from redundancy.training.programs import Programs

_FILE = 4096  # bytes that the smallest file or folder takes on a disk
# Measured, in bytes: Orbax's own files of a checkpoint, and for each of its arrays; a row group of embeddings, and one of
# merges; a line of metrics, also in TensorBoard's form; page and figures of a report, and an image on it.
_CHECKPOINT, _ARRAY, _ROW_GROUP, _CLASS, _LINE, _PAGE = 80_000, 500, 650, 2600, 420, 400_000
_THUMBNAILS, _THUMBNAIL = 600, 6000
_MERGES_PARTS = 16
# Compiled programs and their temporaries, which the estimate of the devices' memory leaves out; on every platform.
_PROGRAMS, _LINKER = 400 << 20, 100 << 20
_LARGE = 10_000  # images of a class that is linked alone, see selection.local
# Bytes of a pair where all are computed, and where the nearest are sorted, see linkage.
_ALL_PAIRS, _SOME_PAIRS = 12, 88
_SMALL, _MOST_PAIRS = 256, 1 << 27  # images up to which all pairs are computed, and pairs at one time


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes: at least, and about."""

    least: float = 0.0
    about: float = 0.0

    def __add__(self, other: "Need") -> "Need":
        return Need(self.least + other.least, self.about + other.about)

    def __mul__(self, factor: float) -> "Need":
        return Need(factor * self.least, factor * self.about)

    def without(self, there: float) -> "Need":
        """What is left of it where some bytes are there already."""
        return Need(max(0.0, self.least - there), max(0.0, self.about - there))


Needs = dict[str, Need]  # by what the bytes hold


@dataclasses.dataclass(frozen=True)
class Network:
    """The network that is trained, and what its state and its forward pass take.

    Attributes:
      programs: of each stage that trains or embeds.
      pack: trials at once in each such stage.
      steps: of the training of the network that embeds.
      runs: of the sweep.
      resident: images that lie on each device.
      state: bytes of one trial's state.
      arrays: in the state.
      inference: bytes of the state that a forward pass needs.
      largest: bytes of the largest output of a layer, for one image.
      dimensions: numbers of each pooled layer.
    """

    programs: Mapping[str, "Programs"]
    pack: Mapping[str, int]
    steps: int
    runs: list[table.Run]
    resident: int
    state: int
    arrays: int
    inference: int
    largest: int
    dimensions: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be done, and on what.

    Attributes:
      config: resolved.
      workdir: where.
      todo: stages that are not finished, in order.
      images: in the training set, or embedded.
      counts: of the images of each label.
      dimensions: numbers of each layer's embeddings, as far as they are known.
      dataset: None where no stage opens it.
      network: None where no stage trains or embeds.
    """

    config: Any
    workdir: Workdir
    todo: tuple[str, ...]
    images: int
    counts: dict[int, int]
    dimensions: dict[str, int]
    dataset: Dataset | None
    network: Network | None

    @property
    def widest(self) -> int:
        return max((self.dimensions[layer] for layer in self.layers), default=0)

    @property
    def layers(self) -> list[str]:
        """Layers whose dimension is known."""
        return [layer for layer in self.config.layers if layer in self.dimensions]


def total(needs: Iterable[Need]) -> Need:
    return sum(needs, Need())


def _bytes(tree) -> int:
    import jax

    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _is_whole(folder: str) -> bool:
    return storage.exists(storage.join(folder, "manifest.json"))


def _missing_subsets(config, workdir: Workdir) -> list[table.Asked]:
    """The subsets that the stage select has still to write."""
    manifest = read_manifest(workdir.subsets, files=list) or {"files": []}
    made = {entry["file"].removesuffix(".parquet") for entry in manifest["files"]}
    return [each for each in table.subsets(config) if each.name not in made]


def is_finished(config, workdir: Workdir, stage: str) -> bool:
    match stage:
        case "train":
            return _is_whole(workdir.pretrain)
        case "embed":
            return all(_is_whole(workdir.embeddings(layer)) for layer in config.layers)
        case "link":
            return not methods.grouped(config) or all(_is_whole(workdir.merges(layer)) for layer in config.layers)
        case "select":
            return not _missing_subsets(config, workdir)
        case "sweep":
            return _is_whole(workdir.runs)
    return _is_whole(workdir.report)


def _network(config, dataset: Dataset, todo: tuple[str, ...]) -> Network | None:
    """The network, where a stage trains or embeds; JAX's devices are asked for only then."""
    if not {"train", "embed", "sweep"} & {*todo}:
        return None
    import jax
    import jax.numpy as jnp

    from redundancy.training.feed import resident_images
    from redundancy.training.mesh import make_mesh, pack_size
    from redundancy.training.packing import candidates
    from redundancy.training.programs import Programs

    num_images, shape, classes = len(dataset.train.positions), dataset.image_shape, len(dataset.class_names)
    table.check(config, num_images)
    runs, alone = table.runs(config, num_images), make_mesh(config, num_trials=1)
    single = Programs(config, shape, classes, alone, dataset.resident)
    programs = {stage: single for stage in ("train", "embed") if stage in todo}
    pack = {stage: pack_size(config, alone, 1) for stage in programs}
    if "sweep" in todo:
        mesh = make_mesh(config, num_trials=len(runs))
        smallest = candidates(config, mesh, len(runs))[0]  # which is taken where no larger one fits
        same = dict(mesh.shape) == dict(alone.shape) and not smallest.vmap
        programs["sweep"] = single if same else Programs(config, shape, classes, mesh, dataset.resident, smallest.vmap)
        pack["sweep"] = smallest.pack
    state = jax.eval_shape(single.init, jax.ShapeDtypeStruct((), jnp.uint32))
    variables = {"params": state["params"], "batch_stats": state["batch_stats"]}
    (_, layers), inside = jax.eval_shape(
        lambda v, x: single.model.apply(v, x, train=False, capture_intermediates=True, mutable=["intermediates"]),
        variables,
        jax.ShapeDtypeStruct((1, *shape), jnp.dtype(config.dtype)),
    )
    return Network(
        programs=programs,
        pack=pack,
        steps=table.num_steps(config, num_images),
        runs=runs,
        resident=resident_images(dataset),
        state=_bytes(state),
        arrays=len(jax.tree.leaves(state)),
        inference=_bytes(variables),
        largest=max(map(_bytes, jax.tree.leaves(inside))),
        dimensions={name: layer.shape[1] for name, layer in layers.items()},
    )


def work_of(config, workdir: Workdir, dataset: Dataset | None, todo: tuple[str, ...]) -> Work | None:
    """What is to be done; None where the embeddings that would tell it are not there: the stage says so itself."""
    found = {
        layer: read_manifest(workdir.embeddings(layer), dimension=int, class_counts=dict) for layer in config.layers
    }
    manifests = {layer: manifest for layer, manifest in found.items() if manifest is not None}
    if dataset is not None:
        counts = dict(enumerate(np.bincount(dataset.train.labels).tolist()))
    elif manifests:
        counts = {int(label): n for label, n in next(iter(manifests.values()))["class_counts"].items()}
    else:
        return None
    counts = {label: n for label, n in counts.items() if n}
    network = _network(config, dataset, todo) if dataset is not None else None
    dimensions = dict(network.dimensions) if network else {}
    dimensions |= {layer: manifest["dimension"] for layer, manifest in manifests.items()}
    return Work(config, workdir, todo, sum(counts.values()), counts, dimensions, dataset, network)


def _num_merges(work: Work) -> dict[int, int]:
    """Merges that the stage link makes of each class."""
    kept = choices.class_counts(work.counts, min(work.config.fractions))
    return {label: min(size - kept[label] + 1, size - 1) for label, size in work.counts.items()}


# Disk


def written(folder: str) -> int:
    """Bytes that a local folder takes."""
    total = 0
    for root, folders, files in os.walk(storage.local_path(folder)):
        for name in (*folders, *files):
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except (OSError, AttributeError):  # gone meanwhile; or a system that does not tell
                continue
    return total


def _checkpoint(network: Network) -> Need:
    # Trained numbers shrink by a few per cent.
    return Need(0.85 * network.state, network.state + _CHECKPOINT + _ARRAY * network.arrays)


def _saves(config, steps: int) -> int:
    return -(-steps // config.checkpoint_every)


def _run(work: Work, folder: str, steps: int) -> Need:
    """What a training has still to write into its folder."""
    metrics = Need(0, 9 * _FILE + _LINE * -(-steps // work.config.log_every))
    return (
        _checkpoint(work.network) * min(work.config.checkpoints_kept, _saves(work.config, steps)) + metrics
    ).without(written(folder))


def _embeddings(work: Work, layer: str) -> Need:
    parts = min(work.config.embedding_parts, work.images)
    numbers = 4 * work.images * work.dimensions[layer]
    row_groups = min(work.images, parts * len(work.counts))
    # Numbers that no two images share take a dictionary and places in it; those of dead units shrink to nothing.
    return Need(0.3 * numbers, 1.4 * numbers + 8 * work.images + _ROW_GROUP * row_groups + _FILE * (2 + parts))


def _merges(work: Work) -> Need:
    rows, classes = sum(_num_merges(work).values()), len(work.counts)
    return Need(4 * rows, 25 * rows + _CLASS * classes + _FILE * (4 + min(_MERGES_PARTS, classes)))


def _subset(work: Work, asked: table.Asked) -> Need:
    row = 7 + 8 * (1 - asked.fraction) if methods.get(asked.method).has_groups else 4
    return Need(work.images, row * work.images + 2 * _FILE)


def _report(work: Work) -> Need:
    if work.dataset is None:
        return Need()
    image = min(_THUMBNAIL, 1.4 * math.prod(work.dataset.image_shape) + 350)
    return Need(0, _PAGE + min(work.images, _THUMBNAILS) * image)


def disk(work: Work) -> tuple[Needs, Need]:
    """What is still to be written to a local workdir, by kind; and the most of it that is there at one time."""
    config, workdir, network = work.config, work.workdir, work.network
    needs: Needs = {}
    most = Need()

    def write(kind: str, stays: Need, goes: Need | None = None) -> None:
        nonlocal most
        needs[kind] = needs.get(kind, Need()) + stays
        now = total(needs.values()) + (goes or Need())
        most = Need(max(most.least, now.least), max(most.about, now.about))

    def train(folders: Mapping[str, int], at_once: int) -> None:
        """Trainings in folders, by their steps; of so many at once another checkpoint is written beside those kept."""
        growing = 0
        for folder, steps in folders.items():
            need = _run(work, folder, steps)
            growing += need.least > 0 and _saves(config, steps) > config.checkpoints_kept
            write("checkpoints", need)
        write("checkpoints", Need(), _checkpoint(network) * min(growing, at_once))

    if "train" in work.todo and network:
        train({workdir.pretrain: network.steps}, 1)
    for layer in work.layers:
        if "embed" in work.todo and not _is_whole(folder := workdir.embeddings(layer)):
            write("embeddings", _embeddings(work, layer).without(written(folder)))
    for layer in config.layers:
        if "link" in work.todo and not _is_whole(folder := workdir.merges(layer)):
            files = _merges(work) + Need(0, _FILE * len(work.counts))
            write("merges", _merges(work), files.without(written(folder)))
    if "select" in work.todo:
        for asked in _missing_subsets(config, workdir):
            write("subsets", _subset(work, asked))
    if "sweep" in work.todo and network:
        folders = {workdir.run(run.name): run.steps for run in network.runs}
        left = {folder: n for folder, n in folders.items() if not storage.exists(storage.join(folder, "result.json"))}
        train(left, network.pack["sweep"])
    if "report" in work.todo:
        write("report", _report(work))
    return needs, most


# Memory of the host


def _images_in_memory(work: Work, trials: int) -> Need:
    pixels, config = math.prod(work.dataset.image_shape), work.config
    if work.network.resident:
        # Once where they are read, and once more on their way to the devices.
        return Need(1, 2) * (work.network.resident * pixels)
    # Batches that are decoded, stacked, on their way and in use.
    return Need(3, 8) * (trials * config.batch_size // processes.count() * pixels)


def _class_in_memory(size: int, dimension: int, num_merges: int) -> Need:
    if not num_merges:
        return Need(1, 3) * (4 * size * dimension)
    pairs = size * (size - 1) // 2
    # Fewer at a time where memory is short.
    room = machine.available_memory() // 2
    some = min(_SOME_PAIRS * min(complete.first_target(size, num_merges), _MOST_PAIRS), room)
    found = _ALL_PAIRS * pairs if size <= _SMALL else min(_ALL_PAIRS * pairs, some)
    # Embeddings and unit vectors; these once more around their mean, and what is copied while the class is read.
    return Need(2, 4) * (4 * size * dimension) + Need(0, found + 300 * size)


def _largest_classes(work: Work) -> Need:
    num_merges = _num_merges(work)
    ordered = sorted(work.counts, key=lambda label: -work.counts[label])
    alone = [label for label in ordered[:1] if work.counts[label] >= _LARGE]
    together = [label for label in ordered if work.counts[label] < _LARGE][: machine.cores()]
    first, others = (
        [_class_in_memory(work.counts[label], work.widest, num_merges[label]) for label in labels]
        for labels in (alone, together)
    )
    least = max((need.least for need in first + others), default=0)
    return Need(least, max(total(first).about, total(others).about))


def memory(work: Work, stage: str, cluster: bool = False) -> Needs:
    """What a stage takes of the host's memory at one time, by what it holds; {} where that is little or not known."""
    config, n, network = work.config, work.images, work.network
    rows = Need(20, 120) * n  # positions, labels, orders of them
    match stage:
        case "train" | "sweep" if network:
            pack = network.pack[stage]
            images = _images_in_memory(work, pack)
            states = Need(1, 3) * (pack * network.state)
            return {"images": images, "states": states, "positions": rows, "programs": Need(0, _PROGRAMS)}
        case "embed" if network:
            part = 4 * -(-n // config.embedding_parts)
            every = sum(work.dimensions[layer] for layer in work.layers)
            # Of a part all layers; and one layer's rows put together, in order, as Parquet and as bytes.
            embeddings = Need(every + work.widest, every + 5 * work.widest) * part
            return {
                "images": _images_in_memory(work, 1),
                "a part's embeddings": embeddings,
                "positions": rows,
                "programs": Need(0, _PROGRAMS),
            }
        case "link" if not cluster:
            return {"the largest classes": _largest_classes(work), "positions": rows, "programs": Need(0, _LINKER)}
        case "select":
            missing = [each for each in _missing_subsets(config, work.workdir) if each.layer]
            of_layer = -(-len(missing) // len(config.layers))
            merges = (
                sum(_num_merges(work).values()) if any(methods.get(each.method).has_groups for each in missing) else 0
            )
            return {
                "subsets": Need(17 * of_layer, 35 * of_layer + 60) * n,
                "merges": Need(36, 110) * merges,
                "positions": rows,
            }
    return {}
