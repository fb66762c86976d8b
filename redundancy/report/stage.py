"""The stage "report": from results, subsets, embeddings and images to report/index.html and its figures."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

import redundancy
from redundancy import methods, storage
from redundancy.data import shared_dataset
from redundancy.embedding import ids
from redundancy.methods.counts import beyond_fractions
from redundancy.report import (
    collect,
    cost,
    figures,
    forecast,
    gallery,
    gallery_figures,
    images,
    learnt,
    looks,
    page,
    results,
    rivals,
    statistics,
    words,
)
from redundancy.report.grouped import Grouped, find_groups
from redundancy.report.named import named_labels
from redundancy.runtime.errors import DataError
from redundancy.workdir import Workdir, finished, need_manifest, read_manifest, rounds, write_manifest

_FIGURE_CLASSES = 2
_FIGURE3_CLASSES = 4


def report_fraction(config) -> float:
    """The fraction below 1 in the config that is nearest to `config.report_fraction`, the larger of a tie; 1 if none."""
    below = [item for item in config.fractions if item < 1] or [1.0]
    return min(below, key=lambda item: (round(abs(item - config.report_fraction), 9), -item))


def report_layer(config) -> str:
    """The layer whose groups are shown: 'end' if it was embedded, else the last one."""
    return "end" if "end" in config.layers or not config.layers else config.layers[-1]


def _plots(config, summaries, of_groups: Grouped, class_names, full_size: int) -> dict[str, figures.Plot]:
    layer, groups, labels = report_layer(config), of_groups.groups, of_groups.labels
    plots = {"figure2": figures.accuracy_plot(summaries, [layer], full_size, "figure2")}
    if any(method.per_layer for method in methods.chosen(config)) and len(config.layers) > 1:
        plots["figure8"] = figures.accuracy_plot(summaries, list(config.layers), full_size, "figure8")
    if groups is not None and (groups.sizes > 1).any():
        counts = [
            (words.class_title(class_names[label]), gallery.size_counts(groups, label))
            for label in labels[:_FIGURE_CLASSES]
        ]
        if len(class_names) > 1:
            counts.append((f"All {len(class_names):,} classes", gallery.size_counts(groups)))
        plots["figure4"] = figures.group_size_plot(counts, "figure4")
    if labels:
        plots |= _gallery_plots(class_names, of_groups)
    return plots


def _gallery_plots(class_names, of_groups: Grouped) -> dict[str, figures.Plot]:
    """Figures 3 (groups of some classes) and 12, and pages for an appendix with more groups of more classes."""
    image, neighbours = of_groups.image, of_groups.neighbours
    blocks = [
        gallery_figures.Block(
            words.class_title(class_names[label]), [[image[each] for each in row] for row in of_class]
        )
        for label, of_class in of_groups.galleries.items()
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


def _compared(
    config, workdir: Workdir, files, runs, level: float, dataset, image: dict[int, np.ndarray]
) -> dict[str, Any]:
    """What the page's section on methods shows; adds the images of its gallery to `image`."""
    fraction, layer = report_fraction(config), report_layer(config)
    fractions, tables, count = rivals.tables(runs, layer, level)
    kept = rivals.read(config, workdir, files, fraction, layer)
    rows = rivals.disagreements(kept, config.seed)
    wanted = np.setdiff1d([each for row in rows for each in (*row["kept"], *row["dropped"])], [*image]).astype(np.int64)
    if wanted.size:
        image |= zip(wanted.tolist(), dataset.read("train", wanted), strict=True)
    return dict(
        fractions=fractions, tables=tables, count=count, names=[*kept], overlaps=rivals.overlaps(kept),
        chance=rivals.by_chance(next(iter(kept.values()))), rows=rows,
    )  # fmt: skip


def _shown_alone(of_groups: Grouped, compared) -> list[int]:
    """Positions of the images that stand on the page outside the browser of groups and the figures."""
    rows = compared["rows"] if compared else []
    return sorted(of_groups.shown_alone | {each for row in rows for each in (*row["kept"], *row["dropped"])})


def _is_finished(workdir: Workdir, inputs: Mapping[str, str], shown: Mapping[str, Any]) -> bool:
    """Whether the report was made from these inputs, shows this and lacks no file; a page that was edited since is kept."""
    try:
        manifest = read_manifest(workdir.report, inputs=dict, files=dict)
    except DataError:
        logging.warning("%s/manifest.json is damaged or of another version; writing the report again", workdir.report)
        return False
    if manifest is None or manifest["inputs"] != inputs or manifest.get("shown") != shown:
        return False
    for name, sha256 in manifest["files"].items():
        path = storage.join(workdir.report, name)
        if not storage.exists(path):
            logging.warning("%s is missing; writing the report again", path)
            return False
        if storage.sha256(path) != sha256:
            logging.warning(
                '%s was changed since it was written; delete %s and run "redundancy report" to write it again',
                path,
                workdir.report,
            )
    return True


def report(config, workdir: Workdir) -> None:
    """Writes report/index.html, what lies beside it and, last, report/manifest.json; a no-op if they are up to date.

    The page of an unfinished sweep shows its complete trials and says so.

    Args:
      config: resolved config.
      workdir: workdir with a sweep of which a trial is complete.

    Raises:
      WorkdirError: an earlier stage has not finished, or artifacts belong to different runs or to another data set.
      DataError: an artifact is missing or damaged.
    """
    subsets = need_manifest(workdir.subsets, "select", inputs=dict, files=list)
    found = results.read(config, workdir, subsets)
    inputs = {
        "results.csv": found.sha256,
        "subsets/manifest.json": storage.sha256(storage.join(workdir.subsets, "manifest.json")),
        "redundancy": redundancy.__version__,
    }
    if storage.exists(names_file := ids.path(workdir.embeddings(report_layer(config)))):
        inputs["ids.parquet"] = storage.sha256(names_file)
    if storage.exists(looks_file := rounds.path(workdir)):
        inputs["runs/looks.json"] = storage.sha256(looks_file)
    shown = {**finished.shown(config), "runs left out": found.left_out}
    if found.interim:
        shown[finished.INTERIM] = f"{found.trials} of {found.asked} trials"
    if _is_finished(workdir, inputs, shown):
        logging.info("report: finished already")
        return

    dataset = shared_dataset(config)
    recorded = storage.read_json(workdir.config)
    if recorded.get("dataset"):
        workdir.check_fingerprint(recorded["dataset"], dataset.fingerprint, workdir.config)
    record = rounds.read(workdir)
    level = looks.level(record, found.trials)
    summaries = statistics.summarise(found.runs, level)
    fraction, layer = report_fraction(config), report_layer(config)
    full_size, class_names = len(dataset.train.positions), dataset.class_names
    named_labels(config.report_classes, class_names)  # so that a wrong name is reported where there are no groups, too
    counts = np.bincount(dataset.train.labels, minlength=len(class_names))
    written: dict[str, str] = {}

    def write(name: str, content: bytes) -> None:
        storage.write_bytes(storage.join(workdir.report, name), content)
        written[name] = hashlib.sha256(content).hexdigest()

    grouped, of_groups = methods.grouped(config), Grouped()
    if grouped and fraction < 1:
        of_groups = find_groups(config, workdir, subsets, grouped.name, fraction, layer, dataset, write)
    compared, image = None, of_groups.image
    if rivals.several(config) and fraction < 1:
        compared = _compared(config, workdir, subsets["files"], found.runs, level, dataset, image)
    plots = _plots(config, summaries, of_groups, class_names, full_size)
    thumbnails = {position: images.encode(image[position]) for position in _shown_alone(of_groups, compared)}
    pictures = sum(len(positions) for _, positions in of_groups.described)
    bytes_of = forecast.expected(of_groups.of_classes, of_groups.planned, pictures, plots, thumbnails, len(class_names))
    logging.info("report: writes %s", forecast.in_words(bytes_of))
    browse = None
    if of_groups.planned is not None:
        browse = collect.fill_browser(
            config,
            dataset,
            of_groups.of_classes,
            of_groups.described,
            of_groups.planned,
            of_groups.cuts,
            of_groups.main,
            write,
        )
    html = page.render(
        config,
        summaries,
        plots,
        browse,
        name=dataset.name.removesuffix(".npz"),
        class_names=class_names,
        image_shape=dataset.image_shape,
        full_size=full_size,
        test_size=max(run.test_size for run in found.runs),
        run_count=len(found.runs),
        left_out=found.left_out,
        level=level,
        looks=words.looks(record, found.trials, level) if record else "",
        interim=words.interim(found.trials, found.asked) if found.interim else "",
        fraction=fraction,
        layer=layer,
        class_rows=of_groups.class_rows,
        beyond=beyond_fractions(counts[counts > 0], subsets["files"]),
        trial_s=cost.trial_seconds(config, workdir, full_size),
        learnt=learnt.read(workdir, layer, counts, config.label_smoothing),
        lists=of_groups.lists,
        list_format=of_groups.list_format,
        leading=of_groups.leading,
        originals=of_groups.originals,
        neighbours=of_groups.neighbours,
        compared=compared,
        lines=figures.layer_lines(summaries, [layer]),
        thumbnails=thumbnails,
        versions=recorded.get("versions", {}),
        fingerprint=recorded.get("dataset") or dataset.fingerprint,
    )
    if not found.interim:
        write("results.csv", storage.read_bytes(workdir.results))
    for name, plot in plots.items():
        for kind in figures.KINDS:
            write(f"figures/{name}.{kind}", getattr(plot, kind))
    write("index.html", html.encode())
    write_manifest(workdir.report, {"inputs": inputs, "shown": shown, "files": written})
    logging.info("report: %s", storage.join(workdir.report, "index.html"))
