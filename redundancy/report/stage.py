"""The stage "report": from results, subsets, embeddings and images to report/index.html and its figures."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import logging

import redundancy
from redundancy import storage
from redundancy.data import shared_dataset
from redundancy.embedding.store import EmbeddingStore
from redundancy.errors import DataError, WorkdirError
from redundancy.report import figures, gallery, images, page, statistics, words
from redundancy.selection.methods import mean_dissimilarity
from redundancy.selection.subset import need_subset
from redundancy.workdir import Workdir, need_manifest, read_manifest, subset_name, write_manifest

_FIGURE_CLASSES = 2
_NEIGHBOUR_ROWS = 6
_IMAGES_OF_GROUP = 12
_OPEN_CLASSES = 3


def report_fraction(config) -> float:
    """The one of `config.fractions` nearest `config.report_fraction`, the larger of two as near; the full set, which
    has no group to show, only where nothing else was asked for."""
    below = [item for item in config.fractions if item < 1] or [1.0]
    return min(below, key=lambda item: (round(abs(item - config.report_fraction), 9), -item))


def report_layer(config) -> str:
    """The layer whose groups are shown: 'end' where it was embedded, else the last one."""
    return "end" if "end" in config.layers or not config.layers else config.layers[-1]


def _inputs(workdir: Workdir) -> dict[str, str]:
    return {
        "results.csv": storage.sha256(workdir.results),
        "subsets/manifest.json": storage.sha256(storage.join(workdir.subsets, "manifest.json")),
        "redundancy": redundancy.__version__,
    }


def find_neighbours(
    workdir: Workdir, layer: str, sha256: str | None, groups: gallery.Groups, labels: Iterable[int]
) -> list[dict]:
    """Figure 12's rows, one a class: the kept image, another of its group, and the nearest image outside.

    Args:
      workdir: without the embeddings there are no rows.
      layer: whose groups they are.
      sha256: of the manifest of the embeddings that the groups were made of, where known.
      groups: of the subset that is shown.
      labels: classes to choose from.

    Returns:
      Rows with label, kept, other, other_dissimilarity, outside, outside_dissimilarity (positions and 1 - cos).

    Raises:
      WorkdirError: the groups were made of other embeddings.
      DataError: the embeddings are damaged.
    """
    folder = workdir.embeddings(layer)
    if read_manifest(folder) is None:
        return []
    path = storage.join(folder, "manifest.json")
    if sha256 not in (None, storage.sha256(path)):
        raise WorkdirError(
            f"{workdir.subsets} was made from other embeddings than those that {path} names now. Bring the right ones "
            f"back; or delete {folder} to report without the neighbours of its groups."
        )
    store = EmbeddingStore(folder)
    rows = []
    for label in labels:
        index = gallery.choose_groups(groups, label, 1)[0]
        members = groups.members(index)
        found = gallery.nearest_outside(*store.read_class(label), members, int(members[0]))
        if found is None:
            continue
        rows.append(
            dict(
                label=label,
                kept=int(members[0]),
                other=int(members[-1]),
                other_dissimilarity=float(groups.distances(index)[-1]),
                outside=found[0],
                outside_dissimilarity=found[1],
            )
        )
        if len(rows) == _NEIGHBOUR_ROWS:
            break
    return rows


def _read_thumbnails(dataset, positions: Iterable[int]) -> dict[int, str]:
    """Position -> data URI."""
    wanted = np.unique(np.fromiter(positions, np.int64))
    if not wanted.size:
        return {}
    return {
        int(position): images.encode(image)
        for position, image in zip(wanted, dataset.read("train", wanted), strict=True)
    }


def _gallery_context(config, groups: gallery.Groups, labels: list[int]) -> list[dict[str, Any]]:
    """For each class its chosen groups: positions (kept first, cut to what is shown), size and spread."""
    shown = []
    for number, label in enumerate(labels[: config.report_classes]):
        chosen = gallery.choose_groups(groups, label, config.report_groups)
        shown.append(
            dict(
                label=label,
                open=number < _OPEN_CLASSES,
                count=int(((groups.labels == label) & (groups.sizes > 1)).sum()),
                groups=[
                    dict(
                        positions=groups.members(index)[:_IMAGES_OF_GROUP].tolist(),
                        dissimilarity=groups.distances(index)[:_IMAGES_OF_GROUP].tolist(),
                        size=int(groups.sizes[index]),
                        spread=float(groups.spread[index]),
                    )
                    for index in chosen
                ],
            )
        )
    return shown


def _class_rows(subset, groups: gallery.Groups, class_names) -> list[dict[str, Any]]:
    """Table 1: a row for each class, and last the data set's."""
    by_label, overall = mean_dissimilarity(subset)
    rows = []
    for label in [*range(len(class_names)), None]:
        of_class = slice(None) if label is None else groups.labels == label
        sizes = groups.sizes[of_class]
        rows.append(
            dict(
                name="All classes" if label is None else class_names[label],
                images=int(sizes.sum()),
                kept=len(sizes),
                groups=int((sizes > 1).sum()),
                largest=int(sizes.max(initial=0)),
                mean=overall if label is None else by_label.get(label, math.nan),
            )
        )
    return rows


def _plots(config, summaries, groups, labels, class_names, full_size: int) -> dict[str, figures.Plot]:
    layer = report_layer(config)
    plots = {"figure2": figures.accuracy_plot(summaries, [layer], full_size, "figure2")}
    if "semantic" in config.methods and len(config.layers) > 1:
        plots["figure8"] = figures.accuracy_plot(summaries, list(config.layers), full_size, "figure8")
    if labels:
        counts = [
            (words.class_title(class_names[label]), gallery.size_counts(groups, label))
            for label in labels[:_FIGURE_CLASSES]
        ]
        if len(class_names) > 1:
            counts.append((f"All {len(class_names):,} classes", gallery.size_counts(groups)))
        plots["figure4"] = figures.group_size_plot(counts, "figure4")
    return plots


def _write(workdir: Workdir, html: str, plots: Mapping[str, figures.Plot], inputs: Mapping[str, str]) -> None:
    data = {f"figures/{name}.{kind}": getattr(plot, kind) for name, plot in plots.items() for kind in ("svg", "png")}
    data["index.html"] = html.encode()
    for name, content in data.items():
        storage.write_bytes(storage.join(workdir.report, name), content)
    files = {name: hashlib.sha256(content).hexdigest() for name, content in data.items()}
    write_manifest(workdir.report, {"inputs": dict(inputs), "files": files})


def _is_finished(workdir: Workdir, inputs: Mapping[str, str]) -> bool:
    """Whether the report there is of these inputs, and no file is missing; else it may be written again.

    A page that was changed since is left as it is: it is read by people alone, and may be theirs.
    """
    try:
        manifest = read_manifest(workdir.report, inputs=dict, files=dict)
    except DataError:
        logging.warning(
            "%s/manifest.json is damaged or of another version; the report is written again", workdir.report
        )
        return False
    if manifest is None or manifest["inputs"] != inputs:
        return False
    for name, sha256 in manifest["files"].items():
        path = storage.join(workdir.report, name)
        if not storage.exists(path):
            logging.warning("%s is missing; the report is written again", path)
            return False
        if storage.sha256(path) != sha256:
            logging.warning(
                "%s was changed since it was written, or is damaged, and is left so; delete %s and run "
                '"redundancy report" to make it again',
                path, workdir.report,
            )  # fmt: skip
    return True


def _results(workdir: Workdir, sweep: Mapping[str, Any], subsets: Mapping[str, Any]) -> list[statistics.Run]:
    """The rows of results.csv.

    Raises:
      WorkdirError: they are of other subsets than the present ones.
      DataError: the file is missing, damaged or has no rows.
    """
    path, again = workdir.results, f'Delete {workdir.runs} and run "redundancy sweep" again.'
    if not storage.exists(path) or storage.sha256(path) != sweep["results_sha256"]:
        raise DataError(
            f"{path} is missing or was changed since the sweep. "
            'Run "redundancy sweep" again: it writes the file from the runs, without training.'
        )
    runs = statistics.parse_results(storage.read_bytes(path).decode())
    if not runs:
        raise DataError(f"{path} has no rows; delete it and runs/manifest.json, and run the sweep again.")
    present = {entry["file"].removesuffix(".parquet"): entry["sha256"] for entry in subsets["files"]}
    for name, sha256 in sweep.get("subsets", {}).items():
        if present.get(name) != sha256:
            raise WorkdirError(
                f"{path} is of runs on another {workdir.subset(name)} than the present one. Bring the right subsets "
                f"back; or: {again}"
            )
    return runs


def report(config, workdir: Workdir) -> None:
    """Writes report/index.html, report/figures/ and, last, report/manifest.json; a no-op where they are up to date.

    Args:
      config: resolved config.
      workdir: with finished sweep.

    Raises:
      WorkdirError: an earlier stage has not finished, or artifacts are not of one run or not of this data set.
      DataError: an artifact is missing or damaged.
    """
    subsets = need_manifest(workdir.subsets, "select", inputs=dict, files=list)
    runs = _results(workdir, need_manifest(workdir.runs, "sweep", results_sha256=str), subsets)
    inputs = _inputs(workdir)
    if _is_finished(workdir, inputs):
        logging.info("report: finished already")
        return

    dataset = shared_dataset(config)
    recorded = storage.read_json(workdir.config)
    if recorded.get("dataset"):
        workdir.check_fingerprint(recorded["dataset"], dataset.fingerprint, workdir.config)
    summaries = statistics.summarise(runs)
    fraction, layer = report_fraction(config), report_layer(config)
    full_size = len(dataset.train.positions)

    groups, class_rows, labels, neighbours = None, [], [], []
    if "semantic" in config.methods and fraction < 1:
        name = subset_name("semantic", fraction, layer=layer)
        subset = need_subset(workdir.subsets, subsets["files"], name)
        workdir.check_fingerprint(subset.metadata["fingerprint"], dataset.fingerprint, workdir.subset(name))
        groups = gallery.make_groups(subset.positions, subset.labels, subset.group, subset.kept, subset.dissimilarity)
        class_rows = _class_rows(subset, groups, dataset.class_names)
        labels = gallery.classes_with_groups(groups).tolist()
        made_of = subsets["inputs"].get(f"embeddings/{layer}")
        neighbours = find_neighbours(workdir, layer, made_of, groups, labels[: config.report_classes])
    shown = _gallery_context(config, groups, labels) if labels else []
    plots = _plots(config, summaries, groups, labels, dataset.class_names, full_size)
    positions = [position for item in shown for group in item["groups"] for position in group["positions"]]
    positions += [row[role] for row in neighbours for role in ("kept", "other", "outside")]

    html = page.render(
        config=config,
        name=dataset.name,
        class_names=dataset.class_names,
        image_shape=dataset.image_shape,
        full_size=full_size,
        test_size=max(run.test_size for run in runs),
        run_count=len(runs),
        fraction=fraction,
        layer=layer,
        summaries=summaries,
        plots=plots,
        class_rows=class_rows,
        shown=shown,
        neighbours=neighbours,
        thumbnails=_read_thumbnails(dataset, positions),
        versions=recorded.get("versions", {}),
        fingerprint=recorded.get("dataset") or dataset.fingerprint,
    )
    _write(workdir, html, plots, inputs)
    logging.info("report: %s", storage.join(workdir.report, "index.html"))
