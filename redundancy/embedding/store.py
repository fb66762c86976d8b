"""Reads the embedding store that `write` wrote, and reports errors in it before work begins.

The manifest has the checksum of each part and of its footer, so a wrong part is detected even if only one class is read.
Checksums within the files reveal damage, see storage.
"""

import concurrent.futures
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from redundancy import storage, workdir
from redundancy.data.dataset import labels_sha256
from redundancy.embedding.write import check_cosines, digest, footer_sha256, wrong_rows
from redundancy.runtime.errors import DataError

_READERS = 4  # parts that are read in parallel
_BATCH = 1 << 16  # rows of a class that are decoded at a time
_COLUMNS = ["position", "label", "embedding"]


class EmbeddingStore:
    """A finished store. Parts are checked against the manifest when the store is opened or, without `check`, when read.

    Attributes:
      manifest: manifest as `finish` returned it.
      layer: name of the embedded layer.
      dimension: length of an embedding.
      num_examples: number of embeddings.
      class_counts: number of images of each label that has any.
    """

    def __init__(self, folder: str, check: bool = True, sha256: str | None = None):
        """Opens the store.

        Args:
          folder: the store's folder.
          check: whether to read every part and compare it with the manifest. False is for stores that another process has
            checked: then only the footers and the checksums of pages are compared, when a class is read.
          sha256: checksum that the manifest must have, if known.

        Raises:
          WorkdirError: there is no manifest, so the store is not finished.
          DataError: the manifest has another checksum, lacks a field, or has a field of another type; a part is missing,
            does not match the manifest, or has labels or positions that are not integers.
        """
        self.folder, self._manifest_path = folder, storage.join(folder, "manifest.json")
        self.manifest = workdir.need_manifest(
            folder, "embed", layer=str, dimension=int, num_examples=int, num_stored=int, class_names=list,
            class_counts=dict, parts=list,
        )  # fmt: skip
        if sha256 is not None and storage.sha256(self._manifest_path) != sha256:
            raise DataError(
                f"{self._manifest_path} has changed since the stage began, so these are other embeddings. Run "
                '"redundancy link" again, which uses what is there now, or bring the right files back.'
            )
        self._check_types()
        self._paths = [storage.join(folder, part["file"]) for part in self.manifest["parts"]]
        self.layer: str = self.manifest["layer"]
        self.dimension: int = self.manifest["dimension"]
        self.num_examples: int = self.manifest["num_examples"]
        self.class_counts = {int(label): int(count) for label, count in self.manifest["class_counts"].items()}
        self._tables: list[pa.Table] | None = None  # positions and labels, kept until `labels` is called
        if not check:
            return
        with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
            self._tables = list(pool.map(self._check_part, self.manifest["parts"]))
        rows = sum(table.num_rows for table in self._tables)
        if not rows == self.num_examples == sum(self.class_counts.values()):
            raise DataError(
                f"{self._manifest_path} says {self.num_examples} examples and class counts that sum to "
                f"{sum(self.class_counts.values())}, but the parts hold {rows} rows; wanted one number. "
                f"{self._remedy(self._manifest_path)}"
            )

    def _remedy(self, path: str) -> str:
        both = f"{path} and {self._manifest_path}" if path != self._manifest_path else path
        return (
            f'Delete {both} and run "redundancy embed" (or "redundancy import") again, or bring the right files back.'
        )

    def _check_types(self) -> None:
        """Raises DataError if a field of the manifest has a value that `finish` never writes."""
        path = self._manifest_path
        manifest = {"checkpoint": "missing", "fingerprint": "missing", **self.manifest}
        counts, fingerprint = manifest["class_counts"], manifest["fingerprint"]
        for name, sound, wanted in (
            ("class_names", all(isinstance(name, str) for name in manifest["class_names"]), "texts"),
            ("class_counts", all(k.isdecimal() and isinstance(n, int) for k, n in counts.items()), "whole numbers"),
            ("dimension", 0 < manifest["dimension"] < 2**31, "a number from 1 on"),
            ("num_stored", 0 < manifest["num_stored"] < 2**63, "a number from 1 on"),
            ("checkpoint", "checkpoint" in self.manifest, "a text, an object or null"),
            ("fingerprint", fingerprint is None or isinstance(fingerprint, dict), "an object or null"),
        ):
            if not sound:
                raise DataError(f"{path}: {name} is {str(manifest[name])[:200]}; wanted {wanted}. {self._remedy(path)}")
        for part in manifest["parts"]:
            workdir.need_fields(f"{path}, in parts,", part, rows=int)

    def _check_part(self, part: Mapping[str, Any]) -> pa.Table:
        """Checks a part against the manifest; returns its positions and labels, raises DataError if it does not match."""
        path = storage.join(self.folder, part["file"])
        if not storage.exists(path):
            raise DataError(f"{path} is missing, but the manifest names it. {self._remedy(path)}")
        found = storage.sha256(path)
        if found != part["sha256"]:
            raise DataError(
                f"{path} has SHA-256 {found[:12]}…, the manifest says {part['sha256'][:12]}…: it is truncated, damaged "
                f"or another file. {self._remedy(path)}"
            )
        table = storage.read_parquet(path, ["position", "label"])
        for name, column in zip(table.column_names, table.columns, strict=True):
            if not pa.types.is_integer(column.type) or column.null_count:
                found = f"{column.type} with {column.null_count} empty values"
                raise DataError(f"{path}: column {name} is {found}; wanted only integers. {self._remedy(path)}")
        rows = table.num_rows
        if rows != part["rows"]:
            raise DataError(f"{path} has {rows} rows, the manifest says {part['rows']}. {self._remedy(path)}")
        return table

    @functools.cached_property
    def _files(self) -> list[tuple[str, pq.ParquetFile, np.ndarray]]:
        """For each part its path, the open file, and the lowest and highest label of its row groups, [groups, 2].

        Cached, since reading a footer with a thousand row groups takes longer than reading the rows of a class.
        """
        files = []
        for part, path in zip(self.manifest["parts"], self._paths, strict=True):
            if not storage.exists(path):
                raise DataError(f"{path} is missing, but the manifest names it. {self._remedy(path)}")
            if part.get("footer_sha256") not in (None, footer_sha256(path)):
                raise DataError(
                    f"{path} is not the file that the manifest names: it is truncated, damaged or another one. "
                    f"{self._remedy(path)}"
                )
            file = storage.open_parquet(path, _COLUMNS)
            column = file.schema_arrow.get_field_index("label")
            everything = (np.iinfo(np.int64).min, np.iinfo(np.int64).max)
            ranges = []
            for number in range(file.num_row_groups):
                found = file.metadata.row_group(number).column(column).statistics
                ranges.append((found.min, found.max) if found is not None and found.has_min_max else everything)
            files.append((path, file, np.array(ranges, np.int64).reshape(-1, 2)))
        return files

    def _vectors(self, path: str, table: pa.Table) -> np.ndarray:
        """The column embedding as [n, dimension] float32; raises DataError if it has another type."""
        wanted, column = pa.list_(pa.float32(), self.dimension), table["embedding"]
        # The name of the list's items does not matter.
        if not (pa.types.is_fixed_size_list(column.type) and column.type.list_size == self.dimension) or (
            column.type.value_type != pa.float32()
        ):
            raise DataError(f"{path}: column embedding is {column.type}; wanted {wanted}.")
        flat = column.combine_chunks().flatten()
        if column.null_count or flat.null_count:
            raise DataError(f"{path} has empty embeddings; wanted {wanted} in each row.")
        return flat.to_numpy().reshape(-1, self.dimension)

    def _check_vectors(self, embeddings: np.ndarray, positions: np.ndarray, labels: np.ndarray) -> None:
        """Raises DataError if an embedding has no cosine; names the position and label of the first one."""
        wrong, _ = wrong_rows(embeddings)
        if not len(wrong):
            return
        label = labels[wrong[np.argmin(positions[wrong])]]
        check_cosines(
            embeddings,
            positions,
            f'{self.folder} (layer "{self.layer}", label {label})',
            "Leave that image out of the store, or embed it again.",
        )

    def check_vectors(self) -> None:
        """Reads and checks every embedding once, several parts at a time, so that later stages do not fail after hours.

        Does nothing if `write_part` wrote the parts: it checked them, and opening the store compared their checksums.

        Raises:
          DataError: an embedding holds NaN or infinity, is zero or has the wrong length.
        """
        if self.manifest.get("checked") == digest(self.manifest["parts"]):
            return

        def check(path):
            file = storage.open_parquet(path, _COLUMNS)
            try:
                for number in range(file.num_row_groups):
                    with storage.parquet_errors(path):
                        table = file.read_row_group(number, _COLUMNS)
                    if table.num_rows:
                        vectors, positions = self._vectors(path, table), table["position"].to_numpy()
                        self._check_vectors(vectors, positions, table["label"].to_numpy())
            finally:
                file.close(force=True)

        with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
            for _ in pool.map(check, self._paths):
                pass

    def read_class(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads only the rows of one class.

        Returns:
          positions [n] int64 ascending, embeddings [n, dimension] float32.

        Raises:
          DataError: an embedding holds NaN or infinity, is zero or has the wrong length.
        """
        return self.read_classes([label])[1:]

    def read_classes(self, labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads only the rows of some classes.

        Args:
          labels: the classes, ascending.

        Returns:
          labels [n] int64 ascending, positions [n] int64 ascending in each class, embeddings [n, dimension] float32.

        Raises:
          DataError: as `read_class`.
        """
        wanted = np.asarray(labels, np.int64)
        # Allocated by the manifest's counts and filled batch by batch, so that memory holds a large class only once.
        count, done = sum(self.class_counts.get(label, 0) for label in labels), 0
        found, positions = np.empty(count, np.int64), np.empty(count, np.int64)
        embeddings = np.empty((count, self.dimension), np.float32)
        for path, file, ranges in self._files:
            low, high = np.searchsorted(wanted, ranges[:, 0]), np.searchsorted(wanted, ranges[:, 1], "right")
            groups = np.flatnonzero(low < high).tolist()
            others = (low + 1 != high)[groups].any() or (ranges[groups, 0] != ranges[groups, 1]).any()
            with storage.parquet_errors(path):
                for batch in file.iter_batches(_BATCH, groups, _COLUMNS) if groups else ():
                    table = pa.Table.from_batches([batch])
                    if others:
                        table = table.filter(pa.array(np.isin(table["label"].to_numpy(), wanted)))
                    after = done + table.num_rows
                    if after > count:  # the caller reports the error
                        count = 2 * after
                        found, positions = np.resize(found, count), np.resize(positions, count)
                        embeddings = np.resize(embeddings, (count, self.dimension))
                    found[done:after], positions[done:after] = table["label"].to_numpy(), table["position"].to_numpy()
                    embeddings[done:after] = self._vectors(path, table)
                    done = after
        found, positions, embeddings = found[:done], positions[:done], embeddings[:done]
        self._check_vectors(embeddings, positions, found)
        later = (found[1:] > found[:-1]) | ((found[1:] == found[:-1]) & (positions[1:] >= positions[:-1]))
        if later.all():
            return found, positions, embeddings
        order = np.lexsort((positions, found))
        return found[order], positions[order], embeddings[order]

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """The label of every embedded image, read once.

        Returns:
          positions [num_examples] int64 ascending, labels [num_examples] int32.

        Raises:
          DataError: a position occurs twice or is out of range, or the labels do not match the manifest's counts.
        """
        return self._labels

    @functools.cached_property
    def _labels(self) -> tuple[np.ndarray, np.ndarray]:
        tables = self._tables or [storage.read_parquet(path, ["position", "label"]) for path in self._paths]
        self._tables = None
        positions = np.concatenate([table["position"].to_numpy() for table in tables]).astype(np.int64, copy=False)
        labels = np.concatenate([table["label"].to_numpy() for table in tables]).astype(np.int32, copy=False)
        order = np.argsort(positions, kind="stable")
        positions, labels = positions[order], labels[order]
        num_stored, num_classes = self.manifest["num_stored"], len(self.manifest["class_names"])
        outside = np.flatnonzero((positions < 0) | (positions >= num_stored))
        if len(outside):
            raise DataError(
                f"{self.folder} has position {positions[outside[0]]}; wanted 0…{num_stored - 1}, the positions of the "
                "data set. These embeddings belong to another data set or split."
            )
        twice = np.flatnonzero(np.diff(positions) == 0)
        if len(twice):
            raise DataError(
                f"{self.folder} has position {positions[twice[0]]} more than once; wanted one embedding of each image."
            )
        outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
        if len(outside):
            raise DataError(
                f"{self.folder}: position {positions[outside[0]]} has label {labels[outside[0]]}; wanted "
                f"0…{num_classes - 1}, the {num_classes} class names of the manifest."
            )
        counts = {label: count for label, count in enumerate(np.bincount(labels).tolist()) if count}
        if counts != self.class_counts:
            label = min(
                label for label in {*counts, *self.class_counts} if counts.get(label) != self.class_counts.get(label)
            )
            raise DataError(
                f"{self.folder} has {counts.get(label, 0)} images of label {label}, its manifest counts "
                f"{self.class_counts.get(label, 0)}. {self._remedy(self._manifest_path)}"
            )
        return positions, labels

    def check_labels(self, dataset: Mapping[str, Any] | None) -> None:
        """Compares the labels with the checksum in the data set's fingerprint.

        Args:
          dataset: fingerprint of the workdir's data set; if it is None or has no such checksum, nothing is compared.

        Raises:
          DataError: the labels differ; or as `labels`.
        """
        wanted = (dataset or {}).get("labels_sha256")
        if wanted is not None and (found := labels_sha256(self.labels()[1])) != wanted:
            raise DataError(
                f"{self.folder}: the labels disagree with those of the data set {dataset.get('name')!r} (their "
                f"checksum is {found}, the data set's {wanted}), so these are embeddings of other images, in another order or "
                f'with labels numbered otherwise. Delete {self.folder} and run "redundancy embed" again, or '
                '"redundancy import" with --config, which names the first image that disagrees.'
            )
