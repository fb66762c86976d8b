"""Embeddings for TensorBoard's projector: tensors.tsv, metadata.tsv, sprite.png and projector_config.pbtxt."""

import io
import math
import re

import numpy as np
import pyarrow as pa
from PIL import Image

from redundancy import storage
from redundancy.embedding.store import EmbeddingStore
from redundancy.export.request import PROJECTOR_FILES as FILES
from redundancy.export.sources import rows_of
from redundancy.methods.counts import rows_by_class
from redundancy.methods.random import random_subset
from redundancy.runtime.errors import ConfigError, DataError
from redundancy.runtime.progress import Progress

TENSORS, METADATA, SPRITE, CONFIG = FILES
LIMIT = 10_000
_MOST = 100_000  # largest number of images that the projector supports
_SPRITE_SIDE, _THUMBNAIL_SIDE = 8192, 64  # largest sides in pixels; TensorBoard does not accept a larger sprite
_SEED = 0
_BATCH = 256


def sample(labels: np.ndarray, positions: np.ndarray, limit: int) -> np.ndarray:
    """Rows of at most `limit` images, ascending: each class's share, drawn with a fixed seed.

    Args:
      labels, positions: [n], those of all images.

    Raises:
      ConfigError: there are more classes than `limit`.
    """
    if len(labels) <= limit:
        return np.arange(len(labels))
    classes = len(np.unique(labels))
    if limit < classes:
        raise ConfigError(f"--limit is {limit}; wanted at least {classes}, an image of each class.")
    return np.flatnonzero(random_subset(labels, positions, limit / len(labels), (_SEED,)))


def write(folder: str, table: pa.Table, store: EmbeddingStore, dataset, limit: int | None = None) -> str:
    """Writes the files, the config last.

    Args:
      folder: local or gs://.
      table: table of all images, see `groups.make_table`.
      store: embeddings of the images.
      dataset: data set for thumbnails; None for no thumbnails.
      limit: largest number of images.

    Returns:
      a description of what was written, for the log.

    Raises:
      ConfigError: `limit` is more than the projector supports, or less than the number of classes.
      DataError: the store lacks an image.
    """
    limit = LIMIT if limit is None else limit
    if limit > _MOST:
        raise ConfigError(f"--limit is {limit}; wanted at most {_MOST}, which is all that the projector takes.")
    labels, positions = table["label"].to_numpy(), table["position"].to_numpy()
    rows = sample(labels, positions, limit)
    vectors = _vectors(store, labels[rows], positions[rows])
    for name in FILES:
        storage.remove(storage.join(folder, name))
    buffer = io.StringIO()
    np.savetxt(buffer, vectors, "%.9g", "\t")
    storage.write_text(storage.join(folder, TENSORS), buffer.getvalue())
    storage.write_text(storage.join(folder, METADATA), _metadata(table.take(pa.array(rows))))
    side = 0
    if dataset is not None:
        data, side = _sprite(dataset, positions[rows])
        storage.write_bytes(storage.join(folder, SPRITE), data)
    storage.write_text(storage.join(folder, CONFIG), _config(store.layer, vectors.shape, side))
    some = "" if len(rows) == len(labels) else f"; {len(rows)} of them in the projector, of each class its share"
    return f"{some}{', with thumbnails' if side else ''}"


def _vectors(store: EmbeddingStore, labels: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The embeddings of images, [n, d] float32."""
    vectors = np.empty((len(labels), store.dimension), np.float32)
    for label, rows in rows_by_class(labels).items():
        known, of_class = store.read_class(label)
        found = rows_of(positions[rows], known)
        if found is None:
            raise DataError(
                f"{store.folder} lacks images of label {label} that the subset has. Bring the right files back, or run "
                '"redundancy select" again.'
            )
        vectors[rows] = of_class[found]
    return vectors


def _cell(value) -> str:
    """A value as text without tabs and line breaks, since the projector does not support quotes; booleans as yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, bytes):  # a name that is not valid UTF-8
        value = value.decode("utf-8", "replace")
    return re.sub(r"\s", " ", "" if value is None else str(value))


def _metadata(table: pa.Table) -> str:
    """The table as tab-separated text with a header."""
    columns = [[name, *map(_cell, table[name].to_pylist())] for name in table.column_names]
    return "".join("\t".join(row) + "\n" for row in zip(*columns, strict=True))


def _sprite(dataset, positions: np.ndarray) -> tuple[bytes, int]:
    """A PNG with rows of square thumbnails of the images, and the side of a thumbnail in pixels."""
    across = math.ceil(math.sqrt(len(positions)))
    side = min(_THUMBNAIL_SIDE, _SPRITE_SIDE // across, max(dataset.image_shape[:2]))
    sheet = Image.new("RGB", (across * side, math.ceil(len(positions) / across) * side))
    with Progress("export", len(positions), "thumbnails") as progress:
        for images, _, found in dataset.stream("train", positions, _BATCH):
            for image, number in zip(images, np.searchsorted(positions, found).tolist(), strict=True):
                shown = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
                picture = Image.fromarray(np.ascontiguousarray(shown)).convert("RGB").resize((side, side))
                sheet.paste(picture, (number % across * side, number // across * side))
            progress.advance(len(images))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue(), side


def _config(layer: str, shape: tuple[int, int], side: int) -> str:
    sprite = ""
    if side:
        sizes = f"    single_image_dim: {side}\n" * 2
        sprite = f'  sprite {{\n    image_path: "{SPRITE}"\n{sizes}  }}\n'
    return (
        f'embeddings {{\n  tensor_name: "{layer}"\n  tensor_shape: {shape[0]}\n  tensor_shape: {shape[1]}\n'
        f'  tensor_path: "{TENSORS}"\n  metadata_path: "{METADATA}"\n{sprite}}}\n'
    )
