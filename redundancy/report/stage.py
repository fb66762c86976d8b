"""The stage "report": from results, subsets, embeddings and images to report/index.html and its figures."""

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

import redundancy
from redundancy import storage
from redundancy.config import same_fraction
from redundancy.data import shared_dataset
from redundancy.report import browser, collect, figures, gallery, gallery_figures, images, page, statistics, words
from redundancy.runtime.errors import DataError, WorkdirError
from redundancy.runtime.progress import Progress
from redundancy.selection import methods
from redundancy.selection.choices import mean_dissimilarity, rows_by_class
from redundancy.workdir import Workdir, need_manifest, read_manifest, write_manifest

_FIGURE_CLASSES = 2
_NEIGHBOUR_ROWS = 6
_GALLERY_CLASSES = 12
_GALLERY_GROUPS = 24
_GALLERY_IMAGES = 10
_FIGURE3_CLASSES = 4
_KINDS = ("svg", "pdf", "png")
_BATCH = 256


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


def _roles(neighbours: Iterable[Mapping[str, Any]]) -> list[int]:
    """All positions of Figure 12's rows."""
    return [row[role] for row in neighbours for role in ("kept", "other", "outside")]


def _read(dataset, positions: Sequence[int]) -> dict[int, np.ndarray]:
    """Position -> training image uint8 [H, W, C]."""
    wanted = np.unique(np.asarray(positions, np.int64))
    return dict(zip(wanted.tolist(), dataset.read("train", wanted), strict=True)) if wanted.size else {}


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
    if any(method.per_layer for method in methods.chosen(config)) and len(config.layers) > 1:
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


def _gallery_groups(groups: gallery.Groups, labels) -> dict[int, list[list[int]]]:
    """For the figures of images: label -> groups, each with positions, the kept one first."""
    return {
        label: [
            groups.members(index)[:_GALLERY_IMAGES].tolist()
            for index in gallery.choose_groups(groups, label, _GALLERY_GROUPS)
        ]
        for label in labels[:_GALLERY_CLASSES]
    }


def _gallery_plots(class_names, chosen, neighbours, image: Mapping[int, np.ndarray]) -> dict[str, figures.Plot]:
    """Figures 3 (groups of some classes) and 12, and pages for an appendix with more groups of more classes."""
    blocks = [
        gallery_figures.Block(
            words.class_title(class_names[label]),
            [[image[each] for each in members] for members in of_class],
        )
        for label, of_class in chosen.items()
    ]
    plots = {"figure3": gallery_figures.gallery_plot(blocks[:_FIGURE3_CLASSES], "figure3", lines=2)}
    for page_number, first in enumerate(range(0, len(blocks), _FIGURE3_CLASSES), 1):
        name = f"appendix-{page_number}"
        plots[name] = gallery_figures.gallery_plot(blocks[first : first + _FIGURE3_CLASSES], name, lines=4)
    if neighbours:
        pairs = [
            gallery_figures.Block(
                words.class_title(class_names[row["label"]]),
                [[image[row["kept"]], image[row["other"]]], [image[row["outside"]]]],
                [
                    ["kept", words.small(row["other_dissimilarity"])],
                    [f"outside {words.small(row['outside_dissimilarity'])}"],
                ],
                framed=1,
            )
            for row in neighbours
        ]
        plots["figure12"] = gallery_figures.gallery_plot(pairs, "figure12", beside=True)
    return plots


def _write(
    workdir: Workdir, html: str, plots: Mapping[str, figures.Plot], written: dict[str, str], inputs: Mapping[str, str]
) -> None:
    """Writes figures and page, and last the manifest; `written` names the files already written, by their SHA-256."""
    data = {f"figures/{name}.{kind}": getattr(plot, kind) for name, plot in plots.items() for kind in _KINDS}
    data["index.html"] = html.encode()
    for name, content in data.items():
        storage.write_bytes(storage.join(workdir.report, name), content)
    files = written | {name: hashlib.sha256(content).hexdigest() for name, content in data.items()}
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


def _classes(config, workdir: Workdir, dataset, cuts, merges: str | None) -> list[browser.ClassData]:
    """The classes of the browser: those with a redundant group, as many as config.report_classes says."""
    counts = {label: len(rows) for label, rows in rows_by_class(cuts[0].labels).items()}
    labels = np.unique(np.concatenate([cut.labels[~cut.kept] for cut in cuts])).tolist()[
        : config.report_classes or None
    ]
    if not labels:
        return []
    linked = collect.read_merges(workdir, report_layer(config), merges, counts)
    return collect.make_classes(
        cuts, dataset.class_names, linked, labels, lambda positions: dataset.file_names("train", positions)
    )


def _browse(config, workdir: Workdir, dataset, found, cuts, fraction: float, store, sample, written: dict[str, str]):
    """What the class browser holds, see `collect.fill_browser`; None where no class has a redundant group.

    Names and SHA-256 of files that it writes are added to `written`.
    """
    if not found:
        return None

    def write(name: str, content: bytes) -> None:
        storage.write_bytes(storage.join(workdir.report, name), content)
        written[name] = hashlib.sha256(content).hexdigest()

    with Progress("report", len(found), "classes") as progress:
        return collect.fill_browser(
            found,
            cuts,
            fraction,
            store,
            sample,
            lambda positions: dataset.stream("train", positions, _BATCH),
            write,
            rule=cuts[0].metadata.get("rule") or config.rule,
            most_groups=config.report_groups,
            seed=config.seed,
            tell=progress.advance,
        )


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

    groups, class_rows, labels, neighbours, browse = None, [], [], [], None
    written: dict[str, str] = {}
    image: dict[int, np.ndarray] = {}
    galleries: dict[int, list[list[int]]] = {}
    if (grouped := methods.grouped(config)) and fraction < 1:
        fractions = collect.shown_fractions(config.fractions, fraction)
        cuts = collect.read_subsets(workdir, subsets["files"], grouped.name, layer, fractions, dataset.fingerprint)
        subset = cuts[[same_fraction(item, fraction) for item in fractions].index(True)]
        groups = gallery.make_groups(subset.positions, subset.labels, subset.group, subset.kept, subset.dissimilarity)
        class_rows = _class_rows(subset, groups, dataset.class_names)
        labels = gallery.classes_with_groups(groups).tolist()
        made_of = subsets["inputs"]
        store = collect.open_store(workdir, layer, made_of.get(f"embeddings/{layer}"))
        neighbours = collect.find_neighbours(store, groups, labels, _NEIGHBOUR_ROWS)
        galleries = _gallery_groups(groups, labels)
        found = _classes(config, workdir, dataset, cuts, made_of.get(f"merges/{layer}"))
        sample = browser.sample_positions(found, config.seed)
        # A set that streams is read from end to end each time: here, and once more for the browser's pictures.
        image = _read(dataset, [*itertools.chain(*itertools.chain(*galleries.values())), *_roles(neighbours), *sample])
        of_sample = [image[position] for position in sample.tolist()]
        browse = _browse(config, workdir, dataset, found, cuts, fraction, store, of_sample, written)
    plots = _plots(config, summaries, groups, labels, dataset.class_names, full_size)
    if labels:
        plots |= _gallery_plots(dataset.class_names, galleries, neighbours, image)

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
        browse=browse,
        neighbours=neighbours,
        thumbnails={position: images.encode(image[position]) for position in _roles(neighbours)},
        versions=recorded.get("versions", {}),
        fingerprint=recorded.get("dataset") or dataset.fingerprint,
    )
    _write(workdir, html, plots, written, inputs)
    logging.info("report: %s", storage.join(workdir.report, "index.html"))
