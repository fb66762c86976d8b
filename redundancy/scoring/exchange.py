"""The command `scores`: brings scores and lists of kept images of other tools into a workdir, and writes ours for them."""

import csv
import dataclasses
import io
import os
import re
import zipfile
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging

from redundancy import methods, storage
from redundancy.data import inputs, npy
from redundancy.embedding import ids as ids_lib
from redundancy.embedding.store import EmbeddingStore
from redundancy.importing import columns, texts
from redundancy.importing import files as kinds
from redundancy.importing import labels as labels_lib
from redundancy.runtime.errors import ConfigError, DataError, WorkdirError, nearest
from redundancy.scoring import files
from redundancy.scoring.files import Score
from redundancy.workdir import Workdir, read_manifest

ORDERS = ("stored", "class", "names")
_NAME = re.compile("[a-z0-9][a-z0-9_]{0,33}")
_FORMATS = "a .npy, .npz, .csv, .tsv, .txt, .json or Parquet file"


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be imported.

    Attributes:
      name: of the score; the method that keeps its highest is score_NAME.
      scores: file.
      key: array of an .npz file.
      score_column, id_column, label_column: of a table.
      labels, ids: files with one value for each score, in the same order.
      order: one of ORDERS: how the scores lie if no ids say it.
      keep: high or low, the end that the method score_NAME keeps first.
      ranking: whether the file has image numbers in ascending score, not scores.
      kept: whether the file lists the images that are kept, by number or name.
      overwrite: whether a score of this name is replaced.
    """

    name: str
    scores: str
    key: str | None = None
    score_column: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    labels: str | None = None
    ids: str | None = None
    order: str | None = None
    keep: str = "high"
    ranking: bool = False
    kept: bool = False
    overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class _Given:
    """What a file has: values [n] or [n, T] float64, or texts; and ids and labels in the same order, if there are any."""

    values: np.ndarray | list[str]
    ids: list[str] | None = None
    labels: columns.Column | None = None


@dataclasses.dataclass(frozen=True)
class _Images:
    """The images of a workdir: positions [N] ascending, labels [N], class names, and names [N] if they have any."""

    positions: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    names: list[str] | None
    fingerprint: dict
    num_stored: int


def _images(workdir: Workdir) -> _Images:
    layer = next((each for each in ("end", "middle", "start") if read_manifest(workdir.embeddings(each))), None)
    if layer is None:
        raise WorkdirError(
            f'{workdir.root} has no embeddings, which say what its images are: run "redundancy embed" (or "redundancy import") '
            "with this workdir first."
        )
    folder = workdir.embeddings(layer)
    store = EmbeddingStore(folder)
    positions, labels = store.labels()
    found = ids_lib.at(folder, positions)
    names = (
        None
        if found is None
        else [os.fsdecode(each) if isinstance(each, bytes) else each for each in found.to_pylist()]
    )
    return _Images(
        positions,
        labels,
        store.manifest["class_names"],
        names,
        store.manifest["fingerprint"] or {},
        store.manifest["num_stored"],
    )


def _table(path: str) -> dict[str, list]:
    """A .csv or .tsv with a header, as columns of texts."""
    delimiter = "\t" if path.lower().endswith(".tsv") else ","
    rows = [row for row in csv.reader(io.StringIO(texts.text(path), newline=""), delimiter=delimiter) if row]
    if not rows or len(rows) < 2:
        raise DataError(f"{path} has {len(rows)} lines; wanted a header and a line for each image.")
    if wrong := next((number for number, row in enumerate(rows, 1) if len(row) != len(rows[0])), None):
        raise DataError(
            f"{path}: line {wrong} has {len(rows[wrong - 1])} values; wanted {len(rows[0])}, as in the header."
        )
    return {name: [row[at] for row in rows[1:]] for at, name in enumerate(rows[0])}


def _numbers(where: str, values: Sequence) -> np.ndarray:
    try:
        return np.array([np.nan if value is None else float(value) for value in values], np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {inputs.shown(str(error))}; wanted a number for each image.") from error


def _column(path: str, there: Sequence[str], wanted: str | None, flag: str, guesses: Sequence[str]) -> str | None:
    """The column that a flag names, or one of some usual names; raises ConfigError if the named one is not there."""
    if wanted is None:
        return next((name for name in there if name.lower() in guesses), None)
    if wanted not in there:
        raise ConfigError(
            f"--{flag}={wanted}: {path} has no such column.{nearest(wanted, there)} Columns: {', '.join(there)}."
        )
    return wanted


def _of_table(request: Request, path: str, table: dict[str, Sequence]) -> _Given:
    """Scores, ids and labels of a table's columns."""
    there = list(table)
    ids = _column(
        path, there, request.id_column, "id-column", ("id", "sample_id", "image", "filename", "file", "path", "name")
    )
    label = _column(path, there, request.label_column, "label-column", ("label", "class", "target", "y"))
    if request.kept:
        column = request.score_column or ids or there[0]
        return _Given([str(value) for value in table[_column(path, there, column, "score-column", ())]])
    score = _column(path, there, request.score_column, "score-column", ("score", "aum", "value", request.name))
    left = [name for name in there if name not in (ids, label)]
    if score is None and len(left) != 1:
        raise ConfigError(f"{path} has columns {', '.join(there)}: which is the score? Say --score-column=NAME.")
    score = score or left[0]
    of_labels = None
    if label is not None:
        of_labels = columns.Column(f"{path}, column {label!r}", columns.exact(path, pa.array(list(table[label]))))
    return _Given(
        _numbers(f"{path}, column {score!r}", table[score]),
        None if ids is None else [str(value) for value in table[ids]],
        of_labels,
    )


def _arrays(request: Request, path: str) -> _Given:
    """Scores of a .npy file, or of an array of an .npz file, whose labels --label-column may name."""
    data = inputs.read_bytes(path)
    try:
        if kinds.kind(path) == ".npy":
            return _of_array(request, path, npy.read_array(io.BytesIO(data), len(data)))
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            there = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    except (npy.NotAnArrayError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} {error}; wanted an array of numbers.") from error
    wanted = request.key or (next(iter(there)) if len(there) == 1 else None)
    if wanted not in there:
        raise ConfigError(
            f"--key={request.key or ''}: {path} has the arrays {', '.join(there)}; name the one of the scores."
        )

    def read(name: str) -> np.ndarray:
        try:
            return npy.read_array(io.BytesIO(there[name]), len(there[name]))
        except npy.NotAnArrayError as error:
            raise DataError(f"{path}, array {name!r}: {error}; wanted numbers.") from error

    given = _of_array(request, f"{path}, array {wanted!r}", read(wanted))
    label = _column(path, list(there), request.label_column, "label-column", ())
    if label is None:
        return given
    where = f"{path}, array {label!r}"
    return dataclasses.replace(
        given, labels=columns.Column(where, columns.exact(where, columns.from_array(where, read(label))))
    )


def _of_array(request: Request, where: str, array: np.ndarray) -> _Given:
    if request.kept and array.dtype.kind in "US":
        return _Given([str(value) for value in array.ravel()])
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2) or (array.ndim == 2 and request.kept):
        raise DataError(
            f"{where} is {inputs.shown(str(array.dtype))} {list(array.shape)}; wanted numbers [N], or [N, T] of T networks."
        )
    if request.kept and array.dtype.kind == "b":
        array = np.flatnonzero(array)
    return _Given(array.astype(np.float64))


def _read(request: Request) -> _Given:
    path = inputs.existing(f"--scores={inputs.shown(request.scores)}", request.scores)
    kind, end = kinds.kind(path), kinds.ending(path)
    if kind in (".npy", ".npz"):
        given = _arrays(request, path)
    elif kind == ".parquet":
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path} cannot be read as Parquet ({inputs.shown(str(error).splitlines()[0])})."
            ) from error
        given = _of_table(request, path, {name: table[name].to_pylist() for name in table.column_names})
    elif kind not in ("", ".csv"):
        raise ConfigError(f"--scores={path}{kinds.other_kind(path) or ':'} Wanted {_FORMATS}.")
    elif end == ".json":
        found = storage.read_json(path)
        if isinstance(found, list):
            given = _Given([str(each) for each in found] if request.kept else _numbers(path, found))
        elif isinstance(found, dict):
            given = _Given(_numbers(path, [*found.values()]), [*found])
        else:
            raise DataError(
                f"{path} holds {type(found).__name__}; wanted a list of scores, or an object of scores by id."
            )
    elif texts.is_csv(path):
        given = _of_table(request, path, _table(path))
    else:  # a line each; of a list of files a label may follow after a blank, as Dyn-Unc writes it
        lines = [line.strip() for line in texts.lines(path) if line.strip()]
        given = _Given([re.sub(r"\s+-?[0-9]+$", "", line) for line in lines] if request.kept else _numbers(path, lines))
    n = len(given.values)
    if request.ids is not None:
        found = labels_lib.check_ids(columns.read(request.ids, None, "id", n))
        given = dataclasses.replace(given, ids=[str(each) for each in found.to_pylist()])
    if request.labels is not None:
        given = dataclasses.replace(given, labels=columns.read(request.labels, None, "label", n))
    return given


def _rows_by_id(request: Request, ids: Sequence[str], images: _Images, complete: bool) -> np.ndarray:
    """The row in the workdir of each id: a name, the end of a path, or a position; raises DataError for unknown or double ones."""
    where = {name: row for row, name in enumerate(images.names or ())}
    if not any(each in where for each in ids):
        ends = {}
        for name, row in where.items():
            ends.setdefault(os.path.basename(name), []).append(row)
        alone = {end: rows[0] for end, rows in ends.items() if len(rows) == 1}
        if alone and all(os.path.basename(each) in alone for each in ids):
            where, ids = alone, [os.path.basename(each) for each in ids]
        elif where and any(each.lstrip("/") in where for each in ids):
            ids = [each.lstrip("/") for each in ids]
        elif all(each.isdecimal() for each in ids):
            where = {str(position): row for row, position in enumerate(images.positions.tolist())}
    unknown = [each for each in ids if each not in where]
    if unknown:
        known = f", such as {next(iter(where))!r}" if where else ": the workdir has none; give positions, or --order"
        raise DataError(
            f"--scores={request.scores}: {len(unknown)} of {len(ids)} ids are of no image of the workdir, such as "
            f"{inputs.shown(unknown[0])!r}. Wanted the names of its images{known}."
        )
    rows = np.array([where[each] for each in ids], np.int64)
    different, counts = np.unique(rows, return_counts=True)
    if len(different) < len(rows):
        double = ids[int(np.flatnonzero(rows == different[np.argmax(counts)])[0])]
        raise DataError(
            f"--scores={request.scores}: the id {double!r} comes {counts.max()} times; wanted each image once."
        )
    if complete and len(rows) < len(images.positions):
        lacking = np.setdiff1d(np.arange(len(images.positions)), rows)[0]
        name = images.names[lacking] if images.names else str(images.positions[lacking])
        raise DataError(
            f"--scores={request.scores} has {len(rows)} of the workdir's {len(images.positions)} images; {name!r} has no score. "
            "Wanted a score for each."
        )
    return rows


def _orders(images: _Images) -> dict[str, np.ndarray]:
    """Rows of the workdir in each order that a file may have."""
    found = {"stored": np.arange(len(images.positions)), "class": np.argsort(images.labels, kind="stable")}
    if images.names is not None:
        found["names"] = np.array(sorted(range(len(images.names)), key=images.names.__getitem__), np.int64)
    return found


def _rows_in_order(request: Request, given: _Given, images: _Images) -> np.ndarray:
    """The row in the workdir of each value of a file without ids."""
    n, total = len(given.values), len(images.positions)
    if n != total:
        raise DataError(
            f"--scores={request.scores} has {n} values, and the workdir {total} training images; wanted one for each. Scores of "
            "a part of the images need an id each: --id-column or --ids."
        )
    orders = _orders(images)
    if request.order is not None and request.order not in orders:
        raise ConfigError(f"--order={request.order}: the images of this workdir have no names. Give stored or class.")
    tried = [request.order] if request.order else list(orders)
    if given.labels is not None:
        labels, _ = labels_lib.encode(labels_lib.check_labels(given.labels), images.class_names)
        shares = {name: float(np.mean(labels == images.labels[orders[name]])) for name in tried}
        agreeing = [name for name in tried if shares[name] == 1]
        shown = ", ".join(f"{name} {100 * share:.3g} %" for name, share in shares.items())
        if not agreeing:
            raise DataError(
                f"--scores={request.scores}: its labels agree with the workdir's in no known order ({shown}). It is of other "
                "images, or sorted otherwise: wanted an id for each score, --id-column or --ids."
            )
        # Labels that lie class by class agree with every order inside the classes.
        mixed = np.count_nonzero(np.diff(labels)) >= 2 * len(images.class_names)
        same = all(np.array_equal(orders[agreeing[0]], orders[name]) for name in agreeing)
        if request.order is None and mixed and same:
            logging.info("scores: the labels agree in the order %s, all %d of them", agreeing[0], n)
            return orders[agreeing[0]]
        if request.order is None:
            raise ConfigError(
                f"--scores={request.scores}: the labels lie class by class, so they do not say in which order the images of a "
                f"class are ({shown}). Give ids, or say the order: --order={'|'.join(agreeing)}."
            )
    if request.order is None:
        raise ConfigError(
            f"--scores={request.scores} has neither ids nor labels, so nothing says which image a score is of. Give --ids or "
            f"--labels, in the order of the scores; or say the order: --order={'|'.join(orders)}."
        )
    logging.warning("scores: taken in the order %s, as --order says; nothing in the file confirms it.", request.order)
    return orders[request.order]


def _whole_numbers(request: Request, values) -> list[int]:
    try:
        found = [int(value) for value in values]
    except ValueError as error:
        raise DataError(f"--scores={request.scores}: {inputs.shown(str(error))}; wanted whole numbers.") from error
    if any(float(value) != number for value, number in zip(values, found, strict=True)):
        raise DataError(f"--scores={request.scores} has numbers that are not whole; wanted those of images.")
    return found


def _listed(request: Request, given: _Given, images: _Images) -> np.ndarray:
    """Which images a list keeps, [N] bool. Its numbers count images from 0 in an order, or are names or positions."""
    values, total = given.values, len(images.positions)
    if isinstance(values, list) and not (images.names is None or all(each.isdecimal() for each in values)):
        rows = _rows_by_id(request, values, images, complete=False)
    else:
        numbers = np.array(_whole_numbers(request, values), np.int64)
        if request.order is None:
            raise ConfigError(
                f"--scores={request.scores} lists images by number: say which order the numbers count: --order="
                f"{'|'.join(_orders(images))}."
            )
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= total):
            raise DataError(f"--scores={request.scores} lists image {numbers.max()}; wanted 0 to {total - 1}.")
        if len(np.unique(numbers)) < len(numbers):
            raise DataError(f"--scores={request.scores} lists an image twice; wanted each once.")
        rows = _orders(images)[request.order][numbers]
    kept = np.zeros(total, bool)
    kept[rows] = True
    if not 0 < kept.sum() < total:
        raise DataError(f"--scores={request.scores} keeps {kept.sum()} of {total} images; wanted some, not all.")
    return kept


def _scored(request: Request, given: _Given, images: _Images) -> tuple[np.ndarray, np.ndarray | None]:
    """The values of each image [N], and of each network [N, T] or None."""
    values = np.asarray(given.values, np.float64)
    if request.ranking:
        numbers = np.array(_whole_numbers(request, values.ravel()), np.int64)
        if not np.array_equal(np.sort(numbers), np.arange(len(numbers))):
            raise DataError(
                f"--scores={request.scores} is no ranking: wanted each number from 0 to {len(numbers) - 1} once."
            )
        values = np.empty(len(numbers))
        values[numbers] = np.arange(len(numbers))
        given = dataclasses.replace(given, values=values)
    wrong = np.flatnonzero(np.isnan(values).any(axis=1) if values.ndim == 2 else np.isnan(values))
    if len(wrong):
        raise DataError(
            f"--scores={request.scores}: row {wrong[0]} has no number ({len(wrong)} such rows); wanted one for each."
        )
    if given.ids is not None:
        rows = _rows_by_id(request, given.ids, images, complete=True)
        if given.labels is not None:
            labels, _ = labels_lib.encode(labels_lib.check_labels(given.labels), images.class_names)
            if (differ := np.flatnonzero(labels != images.labels[rows])).size:
                raise DataError(
                    f"--scores={request.scores}: {len(differ)} labels are not the workdir's, the first that of "
                    f"{given.ids[differ[0]]!r}. It is of another data set."
                )
    else:
        rows = _rows_in_order(request, given, images)
    if (
        values.ndim == 1
        and len(values) > 2
        and not request.ranking
        and (np.diff(values) >= 0).all()
        and values[0] < values[-1]
    ):
        logging.warning(
            "scores: the scores in %s ascend from the first to the last: a sorted file does not say which image each is of.",
            request.scores,
        )
    ordered = np.empty_like(values)
    ordered[rows] = values
    each = ordered if ordered.ndim == 2 and ordered.shape[1] > 1 else None
    mean = ordered if ordered.ndim == 1 else ordered.mean(axis=1)
    if mean.min() == mean.max():
        raise DataError(f"--scores={request.scores}: all scores are {mean[0]:g}, which orders nothing.")
    return mean, each


def import_scores(request: Request, workdir: Workdir) -> None:
    """Writes scores/score_NAME.parquet from a file of another tool.

    Raises:
      ConfigError: the request lacks something, or contradicts itself.
      DataError: the file is damaged, of other images, or has NaN, missing or double ones.
      WorkdirError: the workdir has no embeddings, or a score of this name.
    """
    if not _NAME.fullmatch(request.name) or request.name.endswith("_easy"):
        raise ConfigError(
            f"--name={request.name}: wanted up to 34 small letters, digits and underscores, not ending in _easy."
        )
    if request.ranking and request.kept:
        raise ConfigError("--ranking and --kept are both given: a file is one or the other.")
    images, name = _images(workdir), methods.IMPORTED + request.name
    if name in files.listed(workdir) and not request.overwrite:
        raise WorkdirError(f"{files.path(workdir, name)} is there already. Give --overwrite, or another --name.")
    given = _read(request)
    source = {
        "file": os.path.basename(request.scores),
        "sha256": storage.sha256(request.scores),
        "order": request.order or "ids",
    }
    if request.kept:
        values, each, keep = _listed(request, given, images).astype(np.float64), None, "listed"
    else:
        (values, each), keep = _scored(request, given, images), request.keep
    made = {"fingerprint": images.fingerprint, "num_stored": images.num_stored, "source": source}
    files.write(workdir, Score(name, images.positions, images.labels, values, keep, made, each))
    if keep == "listed":
        size = int(values.sum())
        logging.info(
            "scores: %s lists %d of %d images; use it with config.fractions=%.6g",
            name,
            size,
            len(values),
            size / len(values),
        )
    else:
        logging.info(
            "scores: %s, from %g to %g; config.methods=%s keeps the %sest first",
            name,
            values.min(),
            values.max(),
            name,
            keep,
        )


def export_scores(workdir: Workdir, name: str, output: str, overwrite: bool = False) -> None:
    """Writes a score as .csv or .parquet (id, position, label, score), or as .npy in stored order; high is kept first.

    Raises:
      ConfigError: the ending is another one, or the file is there.
      WorkdirError, DataError: as `files.read`.
    """
    if kinds.ending(output) not in (".csv", ".parquet", ".npy"):
        raise ConfigError(f"--output={output}: wanted a name that ends in .csv, .parquet or .npy.")
    if storage.exists(output) and not overwrite:
        raise ConfigError(f"--output={output} is there already. Give --overwrite, or another name.")
    there = files.listed(workdir)
    if name not in there and methods.IMPORTED + name in there:
        name = methods.IMPORTED + name
    if name not in there:
        known = ", ".join(there) or "none"
        raise WorkdirError(f"{workdir.scores} has no score {name!r}.{nearest(name, there)} Scores: {known}.")
    score, images = files.read(workdir, name), _images(workdir)
    names = images.names or [str(position) for position in score.positions.tolist()]
    if output.endswith(".npy"):
        buffer = io.BytesIO()
        np.save(buffer, score.priority)
        storage.write_bytes(output, buffer.getvalue())
    elif output.endswith(".csv"):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("id", "position", "label", "score"))
        rows = zip(names, score.positions.tolist(), score.labels.tolist(), score.priority.tolist(), strict=True)
        writer.writerows(rows)
        storage.write_bytes(output, text.getvalue().encode("utf-8", "surrogateescape"))
    else:
        table = pa.table({"id": names, "position": score.positions, "label": score.labels, "score": score.priority})
        storage.write_parquet(output, [table])
    logging.info("scores: wrote %s, the highest are kept first", output)


def list_scores(workdir: Workdir) -> str:
    """A line for each score: its name, the end that is kept, its range, and where it comes from."""
    lines = []
    for name, entry in files.listed(workdir).items():
        score = files.read(workdir, name)
        source = score.made.get("source")
        networks = f"{score.each.shape[1]} networks" if score.each is not None else "1 network"
        origin = f"imported from {source['file']}" if isinstance(source, dict) else networks
        spread = (
            f"{int(score.values.sum())} images"
            if entry["keep"] == "listed"
            else f"{score.values.min():.4g} to {score.values.max():.4g}"
        )
        lines.append(f"{name:24} keeps {entry['keep']:7} {spread:24} {origin}\n")
    return "".join(lines) or "no scores\n"
