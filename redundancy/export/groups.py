"""A subset as a table for other tools: one row per image, with its group and the fractions at which it is kept."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from redundancy.config import fraction_name
from redundancy.selection.subset import Subset


def make_rows(subset: Subset, rows: np.ndarray, ids: pa.Array | None, class_names: Sequence[str] | None) -> pa.Table:
    """Rows [n] of a subset as a table with position, label, class and id (if known), group, kept, dissimilarity."""
    dissimilarity, group = subset.dissimilarity[rows], subset.group[rows]
    columns: dict[str, Any] = {"position": subset.positions[rows], "label": subset.labels[rows]}
    if class_names is not None:
        columns["class"] = pa.array(class_names, pa.string()).take(pa.array(subset.labels[rows]))
    if ids is not None:
        columns["id"] = ids
    columns["group"] = pa.array(group, pa.int64(), mask=group < 0)
    columns["kept"] = subset.kept[rows]
    columns["dissimilarity"] = pa.array(dissimilarity, pa.float64(), mask=np.isnan(dissimilarity))
    return pa.table(columns)


def make_table(
    subset: Subset, kept: Mapping[float, np.ndarray], ids: pa.Array | None, class_names: Sequence[str] | None
) -> pa.Table:
    """All N images of a subset by ascending position: the columns of `make_rows`, group_size, and kept_0.9000, … by fraction.

    Args:
      subset: subset with the groups.
      kept: fraction -> [N] bool, whether each image is kept.
      ids: [N] string, or None.
      class_names: name of each label, or None.
    """
    table = make_rows(subset, np.arange(len(subset.positions)), ids, class_names)
    known = subset.group >= 0
    sizes = np.bincount(subset.group[known])[np.where(known, subset.group, 0)] if known.any() else subset.group
    table = table.append_column("group_size", pa.array(sizes.astype(np.int64), mask=~known))
    for fraction, of_fraction in kept.items():
        table = table.append_column(f"kept_{fraction_name(fraction)}", pa.array(of_fraction))
    return table


def csv_bytes(table: pa.Table) -> bytes:
    """The table as CSV in UTF-8 with a header; nulls are empty. Names that are not valid UTF-8 keep their bytes."""
    if "id" in table.column_names and pa.types.is_binary(table.schema.field("id").type):
        names = [name.decode("utf-8", "surrogateescape") for name in table["id"].to_pylist()]
        place, text = table.column_names.index("id"), io.StringIO(newline="")
        rest = csv_bytes(table.set_column(place, "id", pa.nulls(len(table), pa.string()))).decode()
        writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
        rows = csv.reader(io.StringIO(rest, newline=""))
        writer.writerow(next(rows))
        writer.writerows([*row[:place], name, *row[place + 1 :]] for row, name in zip(rows, names, strict=True))
        return text.getvalue().encode("utf-8", "surrogateescape")
    buffer = io.BytesIO()
    options = pyarrow.csv.WriteOptions(quoting_style="needed")
    pyarrow.csv.write_csv(table, buffer, options)
    return buffer.getvalue()
