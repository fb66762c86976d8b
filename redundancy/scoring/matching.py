"""Assigns each value of a file to an image of a workdir: by ids, by an order in which labels agree, or by a given order."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from redundancy.data import inputs
from redundancy.embedding import ids as ids_lib
from redundancy.embedding.store import EmbeddingStore
from redundancy.importing import labels as labels_lib
from redundancy.runtime.errors import ConfigError, DataError, WorkdirError
from redundancy.scoring.given import Given, Request
from redundancy.workdir import Workdir, read_manifest


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a workdir: positions [N] ascending, labels [N], class names, and names [N] if the images have any."""

    positions: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    names: list[str] | None
    fingerprint: dict[str, Any]
    num_stored: int


def images_of(workdir: Workdir) -> Images:
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
    return Images(
        positions,
        labels,
        store.manifest["class_names"],
        names,
        store.manifest["fingerprint"] or {},
        store.manifest["num_stored"],
    )


def _by_ends(names: Sequence[str]) -> dict[str, list[int]]:
    """Maps every path suffix that begins after a slash, and every whole path, to its rows."""
    found: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        parts = name.split("/")
        for at in range(len(parts)):
            found.setdefault("/".join(parts[at:]), []).append(row)
    return found


def _row_of(given: str, whole: Mapping[str, int], ends: Mapping[str, Sequence[int]]) -> int | None:
    """The row of a name; or of the only name that is a path suffix of it, or of which it is a path suffix."""
    path = given.replace("\\", "/") if given not in whole else given
    while path.startswith("./"):
        path = path[2:]
    parts = path.split("/")
    longer = next((end for at in range(len(parts)) if (end := "/".join(parts[at:])) in whole), None)
    if longer is not None:
        return whole[longer]
    rows = ends.get(path, ())
    return rows[0] if len(rows) == 1 else None


def _rows_by_id(request: Request, ids: Sequence[str], images: Images, complete: bool) -> np.ndarray:
    """The row in the workdir of each id. Ids are names or paths, see `_row_of`, or positions if images have no such names.

    Raises:
      DataError: an id matches no image, or two ids match the same one; or, if `complete`, an image has no id.
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


def _orders(request: Request, images: Images) -> dict[str, np.ndarray]:
    """Rows of the workdir in each order that a file may have; raises ConfigError if the requested one is none of them."""
    found = {"stored": np.arange(len(images.positions)), "class": np.argsort(images.labels, kind="stable")}
    if images.names is not None:
        found["names"] = np.array(sorted(range(len(images.names)), key=images.names.__getitem__), np.int64)
    if request.order is not None and request.order not in found:
        raise ConfigError(f"--order={request.order}: the images of this workdir have no names. Give stored or class.")
    return found


def _labels(given: Given, images: Images) -> np.ndarray:
    """The labels of a file converted to the workdir's, int32 [n]; raises DataError if they do not match, or are not n."""
    labels, _ = labels_lib.encode(labels_lib.check_labels(given.labels), images.class_names)
    if len(labels) != len(given.values):
        raise DataError(
            f"{given.labels.where} has {len(labels)} labels; wanted {len(given.values)}, as many as there are scores."
        )
    return labels


def _rows_in_order(request: Request, given: Given, images: Images) -> tuple[np.ndarray, str]:
    """The row in the workdir of each value of a file without ids, and the order of the file."""
    n, total = len(given.values), len(images.positions)
    if n != total:
        raise DataError(
            f"--scores={request.scores} has {n} values, and the workdir {total} training images; wanted one for each. Scores of "
            "a part of the images need an id each: --id-column or --ids."
        )
    orders = _orders(request, images)
    if given.labels is not None:
        labels, tried = _labels(given, images), [request.order] if request.order else list(orders)
        shares = {name: float(np.mean(labels == images.labels[orders[name]])) for name in tried}
        agreeing = [name for name in tried if shares[name] == 1]
        shown = ", ".join(f"{name} {100 * share:.3g} %" for name, share in shares.items())
        if not agreeing:
            raise DataError(
                f"--scores={request.scores}: its labels agree with the workdir's in no known order ({shown}). It is of other "
                "images, or sorted otherwise: wanted an id for each score, --id-column or --ids."
            )
        # Labels sorted by class agree with any order of the images within a class, so they confirm nothing.
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


def listed(request: Request, given: Given, images: Images) -> tuple[np.ndarray, str]:
    """The images that a list keeps, [N] bool, and a text that says how the list names them.

    The list is a mask over all images in some order, or holds names or numbers. With the order "stored", numbers are positions,
    as `export` writes them; with another order, they count the images in that order from 0.
    """
    values, total, orders = given.values, len(images.positions), _orders(request, images)
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


def scored(request: Request, given: Given, images: Images) -> tuple[np.ndarray, np.ndarray | None, str]:
    """The values of the images [N], those of each network [N, T] or None, and a text that says how images were matched."""
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
            labels = _labels(given, images)
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
        raise DataError(f"--scores={request.scores}: all scores are {mean[0]:g}, so they give no order.")
    return mean, each, order
