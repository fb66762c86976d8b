"""What the report shows of the groups at one fraction: tables, galleries, lists of files, and the classes of the browser."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from redundancy.config import fraction_name, same_fraction
from redundancy.embedding import ids
from redundancy.report import browser, collect, gallery, words
from redundancy.runtime.errors import ConfigError
from redundancy.selection.subset import Subset, mean_dissimilarity
from redundancy.workdir import Workdir

_NEIGHBOUR_ROWS = 6
_GALLERY_CLASSES = 12
_GALLERY_GROUPS = 24
_GALLERY_IMAGES = 10
_LEADING = 8
_ROLES = ("kept", "other", "outside")


@dataclasses.dataclass
class Grouped:
    """What the report shows of groups; nothing by default.

    Attributes:
      groups: the groups at the main fraction.
      class_rows: Table 1.
      labels: classes that are shown, the most telling first.
      galleries: groups of the figures of images: label -> groups, each a list of positions with the kept one first.
      leading: rows of the largest and of the tightest groups.
      neighbours: rows of pairs beside the nearest image outside their group.
      lists: files with the names of the "kept" and of the "dropped" images.
      list_format: "txt", or "csv" where the names do not fit into lines.
      originals: folder of the images' files, as a URL; "" if unknown.
      cuts: the subset at each fraction that is shown.
      main: which of them is at the main fraction.
      of_classes: classes of the browser.
      planned: how the browser is stored.
      described: their contents, and the positions of their pictures.
      image: position -> image, of those that are shown outside the browser, and of a sample of the browser's.
    """

    groups: gallery.Groups | None = None
    class_rows: Sequence[dict[str, Any]] = ()
    labels: Sequence[int] = ()
    galleries: Mapping[int, list[list[int]]] = dataclasses.field(default_factory=dict)
    leading: Mapping[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    neighbours: Sequence[dict[str, Any]] = ()
    lists: Mapping[str, str] = dataclasses.field(default_factory=dict)
    list_format: str = "txt"
    originals: str = ""
    cuts: Sequence[Subset] = ()
    main: int = 0
    of_classes: Sequence[browser.ClassData] = ()
    planned: browser.Plan | None = None
    described: Sequence[tuple] = ()
    image: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def shown_alone(self) -> set[int]:
        """Positions of the images that stand on the page outside the browser and the figures."""
        of_rows = {row[role] for row in self.neighbours for role in _ROLES}
        return of_rows | {row["position"] for of_order in self.leading.values() for row in of_order}


def find_groups(
    config,
    workdir: Workdir,
    subsets: Mapping[str, Any],
    method: str,
    fraction: float,
    layer: str,
    dataset,
    write: Callable,
) -> Grouped:
    """Reads the subsets of a method and what the report shows of them; writes the lists of files.

    Args:
      config: resolved config.
      workdir: workdir with subsets and embeddings.
      subsets: manifest of the subsets.
      method: a method that has groups.
      fraction: main fraction.
      layer: layer of the groups.
      dataset: the data set.
      write: writes a file of the report, given its name and content.

    Raises:
      WorkdirError: artifacts belong to different runs or to another data set.
      DataError: an artifact is missing or damaged.
    """
    class_names = dataset.class_names
    fractions = collect.shown_fractions(config.fractions, fraction)
    cuts = collect.read_subsets(workdir, subsets["files"], method, layer, fractions, dataset.fingerprint)
    main = [same_fraction(item, fraction) for item in fractions].index(True)
    subset = cuts[main]
    groups = gallery.make_groups(subset.positions, subset.labels, subset.group, subset.kept, subset.dissimilarity)
    made_of = subsets["inputs"]
    store = collect.open_store(workdir, layer, made_of.get(f"embeddings/{layer}"))
    names, list_format, originals = collect.read_names(store, dataset, subset.positions)
    lists = {} if names is None else _write_lists(names, subset.kept, fraction, write)
    if names is not None and not lists:
        list_format = "csv"
    telling = gallery.telling_labels(groups)
    of_classes = collect.make_classes(config, workdir, layer, dataset, cuts, made_of, names, telling)
    shown = {of.label for of in of_classes}
    labels = [label for label in telling if label in shown]
    found = Grouped(
        groups=groups,
        class_rows=_class_rows(subset, groups, class_names),
        labels=labels,
        galleries=_gallery_groups(groups, labels),
        leading=_leading(groups, class_names, shown),
        neighbours=collect.find_neighbours(store, groups, labels, _NEIGHBOUR_ROWS),
        lists=lists,
        list_format=list_format,
        originals=originals,
        cuts=cuts,
        main=main,
        of_classes=of_classes,
    )
    sample = browser.sample_positions(of_classes, config.seed)
    wanted = [each for of_class in found.galleries.values() for members in of_class for each in members]
    # Each call reads a streamed set from end to end: this one, and another for the browser's pictures.
    wanted = np.unique(np.concatenate([np.array([*wanted, *found.shown_alone], np.int64), sample]))
    if wanted.size:
        found.image = dict(zip(wanted.tolist(), dataset.read("train", wanted), strict=True))
    if of_classes:
        found.planned = browser.plan(of_classes, [found.image[position] for position in sample.tolist()])
        found.described = collect.describe(config, of_classes, cuts, main, store, found.planned)
    return found


def _class_rows(subset, groups: gallery.Groups, class_names) -> list[dict[str, Any]]:
    """Table 1: a row for each class, and a last row for the whole data set."""
    by_label, overall = mean_dissimilarity(subset)
    rows = []
    for label in [*range(len(class_names)), None]:
        of_class = slice(None) if label is None else groups.labels == label
        sizes = groups.sizes[of_class]
        numbers = dict(images=int(sizes.sum()), kept=len(sizes), groups=int((sizes > 1).sum()))
        name = "All classes" if label is None else class_names[label]
        mean = overall if label is None else by_label.get(label, math.nan)
        rows.append(dict(name=name, **numbers, largest=int(sizes.max(initial=0)), mean=mean))
    return rows


def _gallery_groups(groups: gallery.Groups, labels) -> dict[int, list[list[int]]]:
    """Groups for the figures of images: label -> groups, each a list of positions with the kept one first."""
    return {
        label: [
            groups.members(index)[:_GALLERY_IMAGES].tolist()
            for index in gallery.choose_groups(groups, label, _GALLERY_GROUPS)
        ]
        for label in labels[:_GALLERY_CLASSES]
    }


def _leading(groups: gallery.Groups, class_names, shown: set[int]) -> dict[str, list[dict[str, Any]]]:
    """The largest and the tightest groups of the classes that the page shows."""

    def row(index: int) -> dict[str, Any]:
        label, position = int(groups.labels[index]), int(groups.members(index)[0])
        numbers = dict(size=int(groups.sizes[index]), spread=float(groups.spread[index]))
        return dict(label=label, name=words.class_title(class_names[label]), position=position, **numbers)

    orders = zip(("largest", "tightest"), gallery.ranked(groups), strict=True)
    of_shown = {name: (index for index in order if int(groups.labels[index]) in shown) for name, order in orders}
    return {name: [row(index) for index in itertools.islice(found, _LEADING)] for name, found in of_shown.items()}


def _write_lists(names: pa.Array, kept: np.ndarray, fraction: float, write) -> dict[str, str]:
    """Writes the lists of the kept and of the dropped images; returns their files, none if a name holds a line break."""
    try:
        contents = {side: ids.lines(names.filter(those)) for side, those in (("kept", kept), ("dropped", ~kept))}
    except ConfigError:
        return {}
    files = {side: f"{side}-{fraction_name(fraction)}.txt" for side in contents}
    for side, content in contents.items():
        write(files[side], content)
    return files
