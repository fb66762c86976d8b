"""The command `scores`: brings scores and lists of kept images of other tools into a workdir, and writes ours for them."""

import csv
import dataclasses
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence

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
    reader = csv.reader(io.StringIO(texts.text(path), newline=""), delimiter=delimiter)
    try:
        rows = [(row, reader.line_num) for row in reader]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}, cannot be read as .csv: {error}.") from error
    while rows and not rows[-1][0]:
        rows.pop()
    if len(rows) < 2:
        raise DataError(f"{path} has {len(rows)} lines; wanted a header and a line for each image.")
    header = rows[0][0]
    _check_columns(path, header)
    if wrong := next(((row, line) for row, line in rows if len(row) != len(header)), None):
        raise DataError(f"{path}: line {wrong[1]} has {len(wrong[0])} values; wanted {len(header)}, as in the header.")
    return {name: [row[at] for row, _ in rows[1:]] for at, name in enumerate(header)}


def _check_columns(path: str, names: Sequence[str]) -> None:
    """Raises DataError if there are no columns, or two of one name."""
    if not names or len({*names}) < len(names):
        raise DataError(
            f"{path} has the columns {inputs.shown(', '.join(names)) or 'none'}; wanted some, each of another name."
        )


def _numbers(where: str, values: Sequence) -> np.ndarray:
    try:
        return np.array([np.nan if value is None else float(value) for value in values], np.float64)
    except (OverflowError, TypeError, ValueError) as error:
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
    except (npy.NotAnArrayError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: {error}; wanted an array of numbers.") from error
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
        return _Given(array)
    if array.ndim == 2 and not array.shape[1]:
        raise DataError(f"{where} has no column; wanted one for each network.")
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
        _check_columns(path, table.column_names)
        given = _of_table(request, path, {name: table[name].to_pylist() for name in table.column_names})
    elif kind not in ("", ".csv"):
        raise ConfigError(f"--scores={path}{kinds.other_kind(path) or ':'} Wanted {_FORMATS}.")
    elif end == ".json":
        try:
            found = json.loads(texts.text(path))
        except ValueError as error:
            raise DataError(f"{path} is no JSON ({error}).") from error
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
        lines = [line.strip() for line in texts.lines(path)]
        listed = [re.sub(r"\s+-?[0-9]+$", "", line) for line in lines if line]
        given = _Given(listed if request.kept else _numbers(path, lines))
    n = len(given.values)
    if request.ids is not None:
        found = labels_lib.check_ids(columns.read(request.ids, None, "id", n))
        given = dataclasses.replace(given, ids=[str(each) for each in found.to_pylist()])
    if request.labels is not None:
        given = dataclasses.replace(given, labels=columns.read(request.labels, None, "label", n))
    return given


def _by_ends(names: Sequence[str]) -> dict[str, list[int]]:
    """The rows of each end of a path that is cut at a slash, the whole path included."""
    found: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        parts = name.split("/")
        for at in range(len(parts)):
            found.setdefault("/".join(parts[at:]), []).append(row)
    return found


def _row_of(given: str, whole: Mapping[str, int], ends: Mapping[str, Sequence[int]]) -> int | None:
    """The row of a name; or of the one name that is an end of this path, or of which it is an end."""
    path = given.replace("\\", "/") if given not in whole else given
    while path.startswith("./"):
        path = path[2:]
    parts = path.split("/")
    longer = next((end for at in range(len(parts)) if (end := "/".join(parts[at:])) in whole), None)
    if longer is not None:
        return whole[longer]
    rows = ends.get(path, ())
    return rows[0] if len(rows) == 1 else None


def _rows_by_id(request: Request, ids: Sequence[str], images: _Images, complete: bool) -> np.ndarray:
    """The row in the workdir of each id: a name or a path, see `_row_of`, or where there are no such names a position.

    Raises:
      DataError: an id is of no image, or of one that another id names; or, if `complete`, an image has none.
    """
    whole = {name: row for row, name in enumerate(images.names or ())}
    ends = _by_ends(images.names or ())
    found = [_row_of(each, whole, ends) for each in ids]
    known = f", such as {next(iter(whole))!r}" if whole else ""
    if all(row is None for row in found) and all(each.isdecimal() for each in ids):
        of_position = {str(position): row for row, position in enumerate(images.positions.tolist())}
        found, known = [of_position.get(each) for each in ids], f": positions up to {images.positions[-1]}"
    unknown = [each for each, row in zip(ids, found, strict=True) if row is None]
    if unknown:
        raise DataError(
            f"--scores={request.scores}: {len(unknown)} of {len(ids)} ids are of no image of the workdir, or of several, such as "
            f"{inputs.shown(unknown[0])!r}. Wanted the names of its images{known or '; it has none, so positions, or --order'}."
        )
    rows = np.array(found, np.int64)
    different, counts = np.unique(rows, return_counts=True)
    if len(different) < len(rows):
        double = ids[int(np.flatnonzero(rows == different[np.argmax(counts)])[0])]
        raise DataError(
            f"--scores={request.scores}: the image {double!r} comes {counts.max()} times; wanted each image once."
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


def _rows_in_order(request: Request, given: _Given, images: _Images) -> tuple[np.ndarray, str]:
    """The row in the workdir of each value of a file without ids, and the order that the file has."""
    n, total = len(given.values), len(images.positions)
    if n != total:
        raise DataError(
            f"--scores={request.scores} has {n} values, and the workdir {total} training images; wanted one for each. Scores of "
            "a part of the images need an id each: --id-column or --ids."
        )
    orders = _orders(images)
    if request.order is not None and request.order not in orders:
        raise ConfigError(f"--order={request.order}: the images of this workdir have no names. Give stored or class.")
    tried, confirmed = [request.order] if request.order else list(orders), False
    if given.labels is not None:
        labels, _ = labels_lib.encode(labels_lib.check_labels(given.labels), images.class_names)
        if len(labels) != n:
            raise DataError(f"{given.labels.where} has {len(labels)} labels; wanted {n}, as many as there are scores.")
        shares = {name: float(np.mean(labels == images.labels[orders[name]])) for name in tried}
        agreeing = [name for name in tried if shares[name] == 1]
        shown = ", ".join(f"{name} {100 * share:.3g} %" for name, share in shares.items())
        if not agreeing:
            raise DataError(
                f"--scores={request.scores}: its labels agree with the workdir's in no known order ({shown}). It is of other "
                "images, or sorted otherwise: wanted an id for each score, --id-column or --ids."
            )
        # Labels that lie class by class agree with every order inside the classes.
        confirmed = np.count_nonzero(np.diff(labels)) >= 2 * len(images.class_names) and all(
            np.array_equal(orders[agreeing[0]], orders[name]) for name in agreeing
        )
        if confirmed:
            logging.info("scores: the labels agree in the order %s, all %d of them", agreeing[0], n)
            return orders[agreeing[0]], agreeing[0]
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
    return orders[request.order], request.order


def _whole_numbers(request: Request, values) -> list[int]:
    try:
        found = [int(value) for value in values]
    except (OverflowError, ValueError) as error:
        raise DataError(f"--scores={request.scores}: {inputs.shown(str(error))}; wanted whole numbers.") from error
    if any(abs(number) >= 2**62 for number in found):
        raise DataError(f"--scores={request.scores} has {max(found, key=abs)}; wanted the numbers of images.")
    if any(float(value) != number for value, number in zip(values, found, strict=True)):
        raise DataError(f"--scores={request.scores} has numbers that are not whole; wanted those of images.")
    return found


def _listed(request: Request, given: _Given, images: _Images) -> tuple[np.ndarray, str]:
    """Which images a list keeps, [N] bool, and how it names them.

    It is a mask of all images in an order; or names; or numbers, which with the order stored are positions, as `export` writes
    them, and with another one count the images in that order from 0.
    """
    values, total, orders = given.values, len(images.positions), _orders(images)
    if isinstance(values, list) and not (images.names is None or all(each.isdecimal() for each in values)):
        if request.order is not None:
            raise ConfigError(
                f"--order={request.order}: the names in the file say which images they are. Leave it out."
            )
        rows, order = _rows_by_id(request, values, images, complete=False), "ids"
    else:
        if request.order is None:
            raise ConfigError(
                f"--scores={request.scores} lists images by number: say what the numbers are: --order="
                f"{'|'.join(orders)} (stored: positions)."
            )
        if request.order not in orders:
            raise ConfigError(
                f"--order={request.order}: the images of this workdir have no names. Give stored or class."
            )
        order = request.order
        if isinstance(values, np.ndarray) and values.dtype == bool:
            if len(values) != total:
                raise DataError(
                    f"--scores={request.scores} has {len(values)} values; wanted {total}, one for each image."
                )
            rows = orders[order][values]
        else:
            numbers = np.array(_whole_numbers(request, values), np.int64)
            there = images.positions if order == "stored" else np.arange(total)
            at = np.minimum(np.searchsorted(there, numbers), total - 1)
            wrong = numbers[there[at] != numbers]
            if len(wrong):
                wanted = (
                    f"wanted 0 to {there[-1]}"
                    if len(there) == there[-1] + 1
                    else "it is the position of no training image"
                )
                raise DataError(f"--scores={request.scores} lists image {wrong[0]}; {wanted}.")
            rows = at if order == "stored" else orders[order][at]
        if len(np.unique(rows)) < len(rows):
            raise DataError(f"--scores={request.scores} lists an image twice; wanted each once.")
    kept = np.zeros(total, bool)
    kept[rows] = True
    if not 0 < kept.sum() < total:
        raise DataError(f"--scores={request.scores} keeps {kept.sum()} of {total} images; wanted some, not all.")
    return kept, order


def _scored(request: Request, given: _Given, images: _Images) -> tuple[np.ndarray, np.ndarray | None, str]:
    """The values of each image [N], of each network [N, T] or None, and how the file says which image each is of."""
    if given.ids is not None and (request.order is not None or request.ranking):
        flag = "ranking" if request.ranking else f"order={request.order}"
        raise ConfigError(
            f"--{flag} is given, and {request.scores} has ids, which say which image each value is of. Leave one out: a file "
            "without ids, or a rank for each id as its score, without --ranking."
        )
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
        rows, order = _rows_by_id(request, given.ids, images, complete=True), "ids"
        if given.labels is not None:
            labels, _ = labels_lib.encode(labels_lib.check_labels(given.labels), images.class_names)
            if len(labels) != len(rows):
                raise DataError(
                    f"{given.labels.where} has {len(labels)} labels; wanted {len(rows)}, as many as there are scores."
                )
            if (differ := np.flatnonzero(labels != images.labels[rows])).size:
                raise DataError(
                    f"--scores={request.scores}: {len(differ)} labels are not the workdir's, the first that of "
                    f"{given.ids[differ[0]]!r}. It is of another data set."
                )
    else:
        rows, order = _rows_in_order(request, given, images)
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
    if np.isnan(mean).any():
        raise DataError(
            f"--scores={request.scores}: row {np.flatnonzero(np.isnan(values.mean(axis=1)))[0]} has no mean; wanted numbers."
        )
    if mean.min() == mean.max():
        raise DataError(f"--scores={request.scores}: all scores are {mean[0]:g}, which orders nothing.")
    return mean, each, order


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
    if request.kept:
        kept, order = _listed(request, given, images)
        values, each, keep = kept.astype(np.float64), None, "listed"
    else:
        (values, each, order), keep = _scored(request, given, images), request.keep
    sha256 = storage.sha256(request.scores)
    source = {"file": os.path.basename(request.scores), "sha256": sha256, "order": order}
    made = {"fingerprint": images.fingerprint, "num_stored": images.num_stored, "source": source}
    files.write(workdir, Score(name, images.positions, images.labels, values, keep, made, each))
    if keep == "listed":
        size = int(values.sum())
        logging.info(
            "scores: %s lists %d of %d images; use it with config.fractions=%.9g",
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
    if (kind := kinds.ending(output)) not in (".csv", ".parquet", ".npy"):
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
    if not (np.array_equal(score.positions, images.positions) and np.array_equal(score.labels, images.labels)):
        raise WorkdirError(
            f"{files.path(workdir, name)} is of other images than the workdir's embeddings. Make or import it again."
        )
    names = images.names or [str(position) for position in score.positions.tolist()]
    if kind == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, score.priority)
        storage.write_bytes(output, buffer.getvalue())
    elif kind == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("id", "position", "label", "score"))
        rows = zip(names, score.positions.tolist(), score.labels.tolist(), score.priority.tolist(), strict=True)
        writer.writerows(rows)
        storage.write_bytes(output, text.getvalue().encode("utf-8", "surrogateescape"))
    else:
        ids = ids_lib.of_files(names)
        table = pa.table({"id": ids, "position": score.positions, "label": score.labels, "score": score.priority})
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
