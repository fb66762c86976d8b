"""Bytes of disk and of memory that each stage needs: a lower bound and an estimate."""

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Mapping

from redundancy import methods, storage
from redundancy.estimates.work import Work
from redundancy.methods.counts import merges_to_make
from redundancy.runtime import machine, processes
from redundancy.selection import local
from redundancy.selection.merges import MAX_PARTS
from redundancy.workdir import read_manifest, table
from redundancy.workdir.finished import is_whole, missing_subsets, too_shallow

_FILE = 4096  # bytes of the smallest file or folder on a disk
# Measured bytes: of a checkpoint's files without arrays; of a row group of embeddings, and of merges; of a line of metrics,
# with TensorBoard's events.
_CHECKPOINT, _ROW_GROUP, _CLASS, _LINE = 130_000, 650, 2600, 420
# Bytes of compiled programs and their temporaries, which the estimate of device memory does not include on any platform.
_PROGRAMS, _LINKER = 400 << 20, 100 << 20


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes that are needed: a lower bound and an estimate."""

    least: float = 0.0
    about: float = 0.0

    def __add__(self, other: "Need") -> "Need":
        return Need(self.least + other.least, self.about + other.about)

    def __mul__(self, factor: float) -> "Need":
        return Need(factor * self.least, factor * self.about)

    def without(self, there: float) -> "Need":
        """The remaining need if some bytes already exist."""
        return Need(max(0.0, self.least - there), max(0.0, self.about - there))


Needs = dict[str, Need]  # by the kind of data


def total(needs: Iterable[Need]) -> Need:
    return sum(needs, Need())


# Disk


def written(folder: str) -> int:
    """Bytes that a local folder takes on the disk."""
    total = 0
    for root, folders, files in os.walk(storage.local_path(folder)):
        for name in (*folders, *files):
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except (OSError, AttributeError):  # the file was removed, or the system reports no block counts
                continue
    return total


def _trainings(work: Work, folders: Mapping[str, int], at_once: int) -> Iterator[tuple[str, Need, Need]]:
    """Checkpoints and metrics of trainings, given folder -> steps; long trainings briefly hold one checkpoint more."""
    config, network = work.config, work.network
    # Compression shrinks trained parameters by a few per cent.
    checkpoint = Need(0.85 * network.state, network.state + _CHECKPOINT)
    saves = {folder: -(-steps // config.checkpoint_every) for folder, steps in folders.items()}
    for folder, steps in folders.items():
        metrics = Need(0, 9 * _FILE + _LINE * -(-steps // config.log_every))
        need = checkpoint * min(config.checkpoints_kept, saves[folder]) + metrics
        yield "checkpoints", need.without(written(folder)), Need()
    growing = sum(count > config.checkpoints_kept for count in saves.values())
    yield "checkpoints", Need(), Need(0, checkpoint.about) * min(growing, at_once)


def embeddings(work: Work, layer: str) -> Need:
    parts = min(work.config.embedding_parts, work.images)
    numbers = 4 * work.images * work.dimensions[layer]
    row_groups = min(work.images, parts * len(work.counts))
    # Parquet may store numbers as indices into a dictionary; constant columns of dead units take no space.
    return Need(0.3 * numbers, 1.4 * numbers + 8 * work.images + _ROW_GROUP * row_groups + _FILE * (2 + parts))


def _merges(work: Work) -> Need:
    rows, classes = sum(merges_to_make(work.counts, work.config.fractions).values()), len(work.counts)
    return Need(4 * rows, 25 * rows + _CLASS * classes + _FILE * (4 + min(MAX_PARTS, classes)))


def _subset(work: Work, asked: table.Asked) -> Need:
    row = 7 + 8 * (1 - asked.fraction) if methods.get(asked.method).has_groups else 4
    return Need(work.images, row * work.images + 2 * _FILE)


def _writes(work: Work, stage: str) -> Iterator[tuple[str, Need, Need]]:
    """What a stage still has to write: for each kind of data, the permanent bytes and the temporary bytes."""
    config, workdir, network = work.config, work.workdir, work.network
    match stage:
        case "train" if network:
            yield from _trainings(work, {workdir.pretrain: table.num_steps(config, work.images)}, 1)
        case "embed":
            for folder, layer in [(workdir.embeddings(layer), layer) for layer in work.layers]:
                if not is_whole(folder):
                    yield "embeddings", embeddings(work, layer).without(written(folder)), Need()
        case "score" if network:
            folders = [workdir.path("scores", "networks", f"network{number}") for number in range(config.score_trials)]
            yield from _trainings(
                work, dict.fromkeys(folders, table.num_steps(config, work.images)), network.pack["score"]
            )
            columns = 8 * (3 + config.score_trials)
            yield "scores", Need(0, columns * work.images) * len(methods.scores(config)), Need()
        case "link":
            for folder in map(workdir.merges, config.layers):
                manifest = read_manifest(folder, classes=dict)
                if manifest is None or too_shallow(manifest, config.fractions):
                    # A file for each class, and finally a copy of all of them in parts.
                    files = _merges(work) + Need(0, _FILE * len(work.counts))
                    yield "merges", _merges(work), files.without(written(folder))
        case "select":
            for asked in missing_subsets(config, workdir):
                yield "subsets", _subset(work, asked), Need()
        case "sweep" if network:
            steps = {workdir.run(run.name): run.steps for run in table.runs(config, work.images)}
            left = {folder: n for folder, n in steps.items() if not storage.exists(storage.join(folder, "result.json"))}
            yield from _trainings(work, left, network.pack["sweep"])
        case "report" if work.dataset is not None:
            from redundancy.estimates.page import page_bytes  # with Pillow, which not every command needs

            asked = config.fractions, config.report_fraction, methods.grouped(config) is not None
            yield "report", Need(0, page_bytes(work.counts, work.dataset.image_shape, *asked)), Need()


def disk(work: Work) -> tuple[Needs, Need]:
    """Bytes still to be written to a local workdir, by kind, and the largest number that exist at one time."""
    needs: Needs = {}
    most = Need()
    for stage in work.todo:
        for kind, stays, beside in _writes(work, stage):
            needs[kind] = needs.get(kind, Need()) + stays
            now = total(needs.values()) + beside
            most = Need(max(most.least, now.least), max(most.about, now.about))
    return needs, most


# Memory of the host


def _images(work: Work, trials: int) -> Need:
    pixels, config = math.prod(work.dataset.image_shape), work.config
    if work.network.resident:
        # One copy for reading the images, and one for the transfer to the devices.
        return Need(1, 2) * (work.network.resident * pixels)
    # Batches that are being decoded, stacked, transferred and used.
    return Need(3, 8) * (trials * config.batch_size // processes.count() * pixels)


def _classes(work: Work) -> Need:
    """Memory of the classes that are linked at one time, without pairs, whose number the linker adapts to the memory."""
    sizes, widest = sorted(work.counts.values(), reverse=True), max(map(work.dimensions.get, work.layers), default=0)
    # Embeddings and unit vectors; at most also unit vectors that are centred, and sorted by leaf.
    image = Need(2, 4) * (4 * widest) + Need(0, 300)
    largest, together = sum(sizes[:1]), sum([size for size in sizes if size < local.LARGE][: machine.cores()])
    return Need(image.least * largest, image.about * max(largest, together))


def memory(work: Work, stage: str, cluster: bool = False) -> Needs:
    """Peak memory of the host during a stage, by kind of data; {} if that is little or unknown."""
    config, n, network = work.config, work.images, work.network
    rows = Need(20, 120) * n  # positions, labels, and their sorting
    match stage:
        case "train" | "score" | "sweep" if network:
            pack = network.pack[stage]
            states = Need(1, 3) * (pack * network.state)
            needs = {"images": _images(work, pack), "states": states, "programs": Need(0, _PROGRAMS)}
        case "embed" if network:
            numbers = [work.dimensions[layer] for layer in work.layers]
            # All layers of one part, and one layer's rows concatenated, sorted, as Parquet and as bytes.
            part = Need(sum(numbers) + max(numbers), sum(numbers) + 5 * max(numbers))
            part *= 4 * -(-n // config.embedding_parts)
            needs = {"images": _images(work, 1), "a part's embeddings": part, "programs": Need(0, _PROGRAMS)}
        case "link" if not cluster:
            needs = {"the largest classes": _classes(work), "programs": Need(0, _LINKER)}
        case "select":
            missing = sum(each.layer is not None for each in missing_subsets(config, work.workdir))
            # All subsets of one layer are made together, with its merges in memory.
            of_layer = -(-missing // len(config.layers))
            needs = {"subsets": Need(17 * of_layer, 35 * of_layer + 170 * (missing > 0)) * n}
        case _:
            return {}
    return needs | {"positions": rows}
