"""Reads the redundant groups that the page shows: subsets at every fraction, merges, embeddings, images."""

import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from redundancy import storage
from redundancy.data.tfds import ids as tfds_ids
from redundancy.embedding import ids
from redundancy.embedding.store import EmbeddingStore
from redundancy.linkage.complete import Merges
from redundancy.methods.counts import rows_by_class
from redundancy.report import browser, classes, gallery, words
from redundancy.report.named import named_labels
from redundancy.runtime.errors import DataError, WorkdirError
from redundancy.runtime.progress import Progress
from redundancy.selection import merges as merges_lib
from redundancy.selection.inputs import are_those
from redundancy.selection.subset import Subset, need_subset
from redundancy.workdir import Workdir, finished, read_manifest, subset_name

# Most fractions on the page's slider.
_MOST_CUTS = 12
_BATCH = 256


def _other(workdir: Workdir, folder: str, what: str, lost: str) -> WorkdirError:
    return WorkdirError(
        f"{workdir.subsets} was made from other {what} than {storage.join(folder, 'manifest.json')} names now. Bring the right "
        f"ones back; or delete {folder} to report without the {lost} of its groups."
    )


def open_store(workdir: Workdir, layer: str, sha256: str | None) -> EmbeddingStore | None:
    """The embeddings that the groups were made from; None if they are not in the workdir.

    Args:
      sha256: checksum of their manifest, if known.

    Raises:
      WorkdirError: the groups were made from other embeddings.
      DataError: the embeddings are damaged.
    """
    folder = workdir.embeddings(layer)
    if read_manifest(folder) is None:
        return None
    if sha256 not in (None, storage.sha256(storage.join(folder, "manifest.json"))):
        raise _other(workdir, folder, "embeddings", "neighbours")
    return EmbeddingStore(folder)


def _read_merges(
    workdir: Workdir, layer: str, made_of: Mapping[str, Any], fractions: Sequence[float], counts: Mapping[int, int]
) -> dict[int, Merges]:
    """The merges that the groups were cut from, by label; `counts` are images by label. Raises as `open_store`."""
    folder = workdir.merges(layer)
    manifest = read_manifest(folder, classes=dict, parts=list)
    if manifest is None:
        return {}
    if not are_those(workdir, layer, made_of) or finished.too_shallow(manifest, fractions):
        raise _other(workdir, folder, "merges", "heights")
    found = merges_lib.read(folder, manifest["parts"], list(counts))
    linked = {int(label): of_class["images"] for label, of_class in manifest["classes"].items()}
    return {label: of_class for label, of_class in found.items() if linked.get(label) == counts[label]}


def shown_fractions(fractions: Sequence[float], main: float) -> list[float]:
    """The slider's fractions, descending: all below 1, or if there are too many `main` and some spread evenly."""
    below = sorted({item for item in fractions if item < 1}, reverse=True)
    if len(below) <= _MOST_CUTS:
        return below
    taken = {below[round(place)] for place in np.linspace(0, len(below) - 1, _MOST_CUTS - 1)}
    return sorted(taken | {main}, reverse=True)


def read_subsets(
    workdir: Workdir,
    files: Sequence[Mapping[str, Any]],
    method: str,
    layer: str,
    fractions: Sequence[float],
    fingerprint: Mapping[str, Any],
) -> list[Subset]:
    """The subsets of a method and layer, of the data set with this fingerprint.

    Raises:
      WorkdirError: a subset is of another data set.
      DataError: a subset is missing or damaged, or the subsets are of different images.
    """
    found = []
    for fraction in fractions:
        name = subset_name(method, fraction, layer=layer)
        subset = need_subset(workdir.subsets, files, name)
        workdir.check_fingerprint(subset.metadata["fingerprint"], fingerprint, workdir.subset(name))
        if found and not (
            np.array_equal(found[0].positions, subset.positions) and np.array_equal(found[0].labels, subset.labels)
        ):
            raise DataError(
                f"{workdir.subset(name)} holds other images or labels than the subset before it. Delete "
                f'{workdir.subsets} and run "redundancy select" again.'
            )
        found.append(subset)
    return found


def read_names(store: EmbeddingStore | None, dataset, positions: np.ndarray) -> tuple[pa.Array | None, str, str]:
    """The names of the images at these positions [n], the format of `export` that lists them, and the URL of their folder.

    The names are the store's, else those of the images' files, else TFDS's ids: [n] string or binary; None if there are
    none. The URL is '' unless the names are those of files in a local folder.

    Raises:
      DataError: the store's names are lost or damaged.
    """
    names = ids.at(store.folder, positions) if store is not None else None
    files = dataset.file_names("train", positions)
    of_files = None if files is None else ids.of_files(files)
    if names is not None or of_files is not None:
        own = of_files is not None and (names is None or names.equals(of_files))
        folder = f"{pathlib.Path(os.path.abspath(dataset.folder)).as_uri()}/" if own else ""
        return of_files if names is None else names, "txt", folder
    if dataset.fingerprint.get("files"):
        return pa.array(tfds_ids.example_ids(dataset.fingerprint, positions)), "tfds", ""
    return None, "txt", ""


def make_classes(
    config,
    workdir: Workdir,
    layer: str,
    dataset,
    subsets: Sequence[Subset],
    made_of: Mapping[str, Any],
    names: pa.Array | None,
    telling: Sequence[int],
):
    """The `browser.ClassData` of the classes with a redundant group, by label, that `config.report_classes` asks for.

    Args:
      config, workdir, layer, dataset: of the report.
      subsets: one for each fraction, descending.
      made_of: `inputs` in the manifest of the subsets.
      names: of the subsets' images, see `read_names`.
      telling: labels that come first where the number of classes is limited.
    """
    rows = rows_by_class(subsets[0].labels)
    labels = np.unique(np.concatenate([subset.labels[~subset.kept] for subset in subsets])).tolist()
    asked = named_labels(config.report_classes, dataset.class_names)
    if asked is None:
        asked = [*dict.fromkeys([*telling, *labels])][: config.report_classes or None]
    labels = sorted({*labels} & {*asked})
    counts = {label: len(of_class) for label, of_class in rows.items()}
    fractions = [each.metadata["fraction"] for each in subsets]
    merges = _read_merges(workdir, layer, made_of, fractions, counts) if labels else {}
    found = []
    for label in labels:
        taken, of_class = rows[label], merges.get(label)
        cuts = [
            classes.make_cut(
                each.metadata["fraction"], each.group[taken], each.kept[taken], each.dissimilarity[taken], of_class
            )
            for each in subsets
        ]
        name, positions = words.class_title(dataset.class_names[label]), subsets[0].positions[taken]
        files = None if names is None else [os.fsdecode(each) for each in names.take(pa.array(taken)).to_pylist()]
        found.append(browser.ClassData(label, name, positions, cuts, of_class, files))
    return found


def _embeddings(store: EmbeddingStore | None, of: browser.ClassData) -> np.ndarray | None:
    """[n, d] float32 embeddings of a class; raises DataError if the store has other images of it."""
    if store is None:
        return None
    positions, embeddings = store.read_class(of.label)
    if not np.array_equal(positions, of.positions):
        raise DataError(
            f"{store.folder} has {len(positions)} images of label {of.label}, the subsets {len(of.positions)}, or others. "
            f"Delete {store.folder} to report without the neighbours of its groups, or bring the right files back."
        )
    return embeddings


def describe(
    config,
    found: Sequence[browser.ClassData],
    subsets: Sequence[Subset],
    main: int,
    store: EmbeddingStore | None,
    planned: browser.Plan,
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """For each class what `browser.describe` makes of it: its content, and the positions of its pictures.

    Args:
      config: of the report.
      found: classes with redundant groups.
      subsets: one for each fraction, descending.
      main: index of the fraction that is shown first.
      store: of the embeddings, or None.
      planned: see `browser.plan`.
    """
    choice = dict(rule=rule_of(config, subsets), most_groups=config.report_groups, seed=config.seed)
    described = []
    with Progress("report", len(found), "classes") as progress:
        for of in found:
            described.append(browser.describe(of, main, planned, _embeddings(store, of), **choice))
            progress.advance()
    return described


def rule_of(config, subsets: Sequence[Subset]) -> str:
    """The rule that chose the kept images."""
    return subsets[0].metadata.get("rule") or config.rule


def _pictures(dataset, wanted: np.ndarray, kind: str) -> dict[int, str]:
    """Position -> picture in base64, of the images at these positions."""
    found: dict[int, str] = {}
    # A single call, since each call reads a streamed set from end to end.
    with Progress("report", len(wanted), "pictures") as progress:
        for batch in dataset.stream("train", wanted, _BATCH) if len(wanted) else ():
            found |= browser.pictures([batch], kind)
            progress.advance(len(batch[2]))
    return found


def fill_browser(
    config,
    dataset,
    found: Sequence[browser.ClassData],
    described: Sequence[tuple[dict[str, Any], np.ndarray]],
    planned: browser.Plan,
    subsets: Sequence[Subset],
    main: int,
    write: Callable[[str, bytes], None],
) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    """The browser's index, and the classes' texts that stand on the page; others are written to files.

    Args:
      config, dataset: of the report.
      found: classes with redundant groups, at least one.
      described: see `describe`; gets the pictures.
      planned: see `browser.plan`.
      subsets: one for each fraction, descending.
      main: index of the fraction that is shown first.
      write: takes the name of a file below the page's folder, and its bytes.
    """
    pictures = _pictures(dataset, np.unique(np.concatenate([positions for _, positions in described])), planned.kind)
    texts, entries = [], []
    for of, (content, positions) in zip(found, described, strict=True):
        content["pictures"]["data"] = [pictures[position] for position in positions.tolist()]
        text = browser.to_text(content)
        entry = dict(label=of.label, name=of.name, images=len(of.positions), **classes.summary(of.cuts))
        if planned.one_file:
            texts.append((of.label, text))
        else:
            entry["file"] = f"classes/{of.label:05d}.js"
            write(entry["file"], f"redundancyClass({text});\n".encode())
        entries.append(entry)
    search = "page"
    if not planned.one_file:
        script = browser.names_script([content for content, _ in described])
        search = "class" if script is None else "names.js"
        if script is not None:
            write("names.js", script)
    dropped = [int(np.count_nonzero(~subset.kept)) for subset in subsets]
    index = dict(
        one_file=planned.one_file,
        kind=planned.kind,
        share=max(planned.most_pictures.values()),
        rule=rule_of(config, subsets),
        main=main,
        images=len(subsets[0].positions),
        cuts=[
            dict(fraction=each.metadata["fraction"], dropped=count)
            for each, count in zip(subsets, dropped, strict=True)
        ],
        classes=entries,
        search=search,
        named=found[0].files is not None,
    )
    return index, texts


def find_neighbours(
    store: EmbeddingStore | None, groups: gallery.Groups, labels: Iterable[int], most: int
) -> list[dict[str, Any]]:
    """Figure 12's rows, one a class: the kept image, another of its group, and the nearest image outside.

    Args:
      store: without the embeddings there are no rows.
      groups: of the subset that is shown.
      labels: classes to choose from.
      most: rows wanted.

    Returns:
      Rows with label, kept, other, other_dissimilarity, outside, outside_dissimilarity (positions and 1 - cos).
    """
    rows: list[dict[str, Any]] = []
    for label in labels if store is not None else ():
        if len(rows) == most:
            break
        index = gallery.choose_groups(groups, label, 1)[0]
        members = groups.members(index)
        positions, embeddings = store.read_class(label)
        inside = np.searchsorted(positions, members)
        (outside,), (distance,) = classes.nearest_outside(embeddings, inside[:1], inside, np.array([len(inside)]))
        if outside < len(positions):
            kept, other = dict(kept=int(members[0])), dict(other=int(members[-1]))
            other["other_dissimilarity"] = float(groups.distances(index)[-1])
            beyond = dict(outside=int(positions[outside]), outside_dissimilarity=float(distance))
            rows.append(dict(label=label, **kept, **other, **beyond))
    return rows
