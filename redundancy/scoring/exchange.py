"""The command `scores`: imports scores and lists of kept images from other tools, and exports ours."""

import csv
import io
import os
import re

import numpy as np
import pyarrow as pa
from absl import logging

from redundancy import methods, storage
from redundancy.embedding import ids as ids_lib
from redundancy.importing import files as kinds
from redundancy.runtime.errors import ConfigError, WorkdirError, nearest
from redundancy.scoring import files, given, matching
from redundancy.scoring.files import Score
from redundancy.scoring.given import Request as Request
from redundancy.workdir import Workdir

_NAME = re.compile("[a-z0-9][a-z0-9_]{0,33}")


def import_scores(request: Request, workdir: Workdir) -> None:
    """Writes scores/score_NAME.parquet from a file of another tool.

    Raises:
      ConfigError: the request is incomplete, or contradicts itself.
      DataError: the file is damaged, is of other images, or has NaN, missing or duplicate scores.
      WorkdirError: the workdir has no embeddings, or already has a score of this name.
    """
    if not _NAME.fullmatch(request.name) or request.name.endswith("_easy"):
        raise ConfigError(
            f"--name={request.name}: wanted up to 34 small letters, digits and underscores, not ending in _easy."
        )
    if request.ranking and request.kept:
        raise ConfigError("--ranking and --kept exclude each other. Give one.")
    images, name = matching.images_of(workdir), methods.IMPORTED + request.name
    if name in files.listed(workdir) and not request.overwrite:
        raise WorkdirError(f"{files.path(workdir, name)} is there already. Give --overwrite, or another --name.")
    found = given.read(request)
    if request.kept:
        kept, order = matching.listed(request, found, images)
        values, each, keep = kept.astype(np.float64), None, "listed"
    else:
        (values, each, order), keep = matching.scored(request, found, images), request.keep
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
    """Writes a score as .csv or .parquet (id, position, label, score), or as .npy in stored order; high scores are kept first.

    Raises:
      ConfigError: the file name has another ending, or the file exists.
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
    score, images = files.read(workdir, name), matching.images_of(workdir)
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
    """A line for each score: its name, whether high or low scores are kept, its range, and its origin."""
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
