"""Columns of labels and ids are read as they are: exact numbers, no header for a value, in any width and kind of file."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from redundancy import storage
from redundancy.embedding import ids as ids_lib
from redundancy.runtime.errors import DataError
from tests.importing.import_files import N, table
from tests.importing.test_meaning_of_labels import brought, in_every_format, said

# Exact numbers


@pytest.mark.parametrize("first", [2**53, 2**62, 2**63 - 2, 2**63, 5 * 10**18, 2**64 - 4])
def test_large_whole_numbers_are_different_classes(files, first):
    values = [first + row % 4 for row in range(N)]
    if first == 2**63 - 2:
        values = [min(value, 2**63 - 1) for value in values]
    for fields in in_every_format(files, values, number=True):
        assert brought(files, **fields) == [str(value) for value in values]
    for fields in in_every_format(files, values):
        assert brought(files, **fields) == [str(value) for value in values]


def test_numbers_of_any_length_are_different_classes(files):
    values = [str(10**40 + row % 4) for row in range(N)]
    for fields in in_every_format(files, values):
        assert brought(files, **fields) == values
    mixed = [*values[:-1], "1.0"]  # a decimal makes floats of none
    assert brought(files, labels=files.write("L.txt", mixed)) == [*values[:-1], "1"]


def test_decimals_that_a_float_rounds_are_refused(files):
    values = [f"{2**53 + row % 4}.0" for row in range(N)]
    for fields in in_every_format(files, values):
        files.refused(r"row 0 has the label '9007199254740992\.0'", DataError, **fields)
        assert brought(files, labels_are="names", **fields) == values
        storage.remove(files.store)


@pytest.mark.parametrize(("dtype", "limit"), [(np.float16, 2**11), (np.float32, 2**24), (np.float64, 2**53)])
def test_floats_are_labels_as_far_as_they_are_exact(files, dtype, limit):
    exact = [limit - 1 - row % 4 for row in range(N)]
    assert brought(files, labels=files.write("L.npy", np.array(exact, dtype))) == [str(value) for value in exact]
    files.write("E.parquet", table(files.embeddings, np.array(exact, dtype), "list"))
    parquet = {"embeddings": files.path("E.parquet"), "labels": "", "columns": "embedding=emb,label=cls"}
    assert brought(files, **parquet) == [str(value) for value in exact]
    storage.remove(files.store)
    rounded = np.array([limit + row % 4 for row in range(N)], dtype)
    assert len(set(rounded.tolist())) < 4
    what = rf"{np.dtype(dtype)} has every whole number below {limit} alone"
    files.refused(what, DataError, labels=files.write("L.npy", rounded))
    files.write("E.parquet", table(files.embeddings, rounded, "list"))
    files.refused(what, DataError, **parquet)


def test_large_numbers_that_look_like_ids_are_warned_of(files, caplog):
    values = [5 * 10**18 + row for row in range(N)]
    for fields in in_every_format(files, values):
        caplog.clear()
        brought(files, **fields)
        assert said(caplog, "60 different labels for 60 embeddings")


# Headers

HEADERS = ["label", "Labels", "class_name", "image_id", "filename", "File Name", "#id", '"y"', "path", "ImageId"]


@pytest.mark.parametrize("ending", ["txt", "csv", "tsv", "lst"])
@pytest.mark.parametrize("header", HEADERS)
def test_a_header_and_a_line_too_few_are_refused(files, header, ending):
    names = ["cat", "dog", "emu"]
    for what, values in (
        ("labels", [names[row % 3] for row in range(N - 1)]),
        ("labels", [row % 3 for row in range(N - 1)]),
        ("labels", [0.0] * (N - 1)),
        ("ids", [f"{row:09d}" for row in range(N - 1)]),
        ("ids", ["".join(chr(97 + int(digit)) for digit in str(row)) for row in range(N - 1)]),
    ):
        path = files.write(f"L.{ending}", [header, *values])
        files.refused("seems to be a header: .* Then one .* is missing", DataError, **{what: path})


@pytest.mark.parametrize("ending", ["txt", "csv"])
@pytest.mark.parametrize("header", ["img", "fn", "besti"])
@pytest.mark.parametrize(
    ("what", "made"),
    [
        ("ids", lambda row: f"{row}.jpg"),
        ("ids", lambda row: f"train/{chr(97 + row % 26)}{row}"),
        ("ids", lambda row: row),
        ("ids", lambda row: f"{row:032x}"),
        ("labels", lambda row: f"0{row % 3}"),
        ("labels", lambda row: f"{row % 3}.0"),
    ],
)
def test_a_first_line_unlike_all_others_is_a_header(files, ending, header, what, made):
    path = files.write(f"L.{ending}", [header, *map(made, range(N - 1))])
    files.refused(f"the first line, '{header}', seems to be a header", DataError, **{what: path})


@pytest.mark.parametrize("ending", ["txt", "csv"])
@pytest.mark.parametrize("what", ["labels", "ids"])
def test_a_header_and_all_lines_are_refused(files, ending, what):
    remedy = f"say so: --columns {what[:-1]}=besti" if ending == "csv" else "delete that line"
    path = files.write(f"L.{ending}", ["besti", *map(str, range(N))])
    files.refused(f"has 61 rows; wanted 60.* If the first, 'besti', is a header, {remedy}", DataError, **{what: path})


def test_what_may_be_a_header_is_warned_of(files, caplog):
    brought(files, labels=files.write("L.txt", ["besti", *["cat", "dog"] * (N // 2 - 1), "cat", "cat"][:N]))
    assert said(caplog, "the first label, 'besti', looks like a header")
    brought(files, ids=files.write("I.txt", ["besti", *(f"n{row}" for row in range(N - 1))]))
    assert said(caplog, "the first id, 'besti', looks like a header")
    names = files.write("C.txt", ["class", "cat", "dog", "emu", "gnu"])
    brought(files, class_names=names)
    assert said(caplog, "C.txt is 'class'. If it is a header")


def test_values_that_are_no_header(files, caplog):
    for labels in (["label", *["label", "cat"] * N][:N], ["cat", *["dog"] * (N - 2), "emu"]):
        assert brought(files, labels=files.write("L.txt", labels)) == labels
    numbers = [f"{9_999 + row:05d}" for row in range(N)]  # of which the first alone begins with 0
    files.bring(labels=files.write("L.txt", labels), ids=files.write("N.txt", numbers))
    assert ids_lib.read(files.store)[1].to_pylist() == numbers
    assert not said(caplog, "header")
    # An array has no header, so it is the way to say that there is none.
    labels = ["label", *["cat", "dog"] * N][:N]
    assert brought(files, labels=files.write("L.npy", np.array(labels))) == labels
    ids = ["filename", *(f"{row}.jpg" for row in range(N - 1))]
    files.bring(labels=files.path("L.npy"), ids=files.write("I.npy", np.array(ids)))
    assert ids_lib.read(files.store)[1].to_pylist() == ids


# Widths and encodings

NAMES = ["cat", "dog", "emu"]
TEXTS = [NAMES[row % 3] for row in range(N)]
WHOLE = [row % 3 for row in range(N)]
NARROW = pa.dictionary(pa.int8(), pa.string())


def as_type(values, kind):
    if kind == pa.dictionary(pa.int16(), pa.int64()):
        return pa.array(values).dictionary_encode().cast(kind)
    return pa.array(np.array(values)).cast(kind)


def parts(files, column, first, second, empty=None):
    """A folder of two or three files whose column is of these types."""
    folder = files.folder / "parts"
    folder.mkdir(exist_ok=True)
    for number, (of_part, half) in enumerate(((first, slice(0, 25)), (second, slice(25, N)))):
        more = {} if column == "label" else {"label": files.labels[half]}
        pq.write_table(
            pa.table({"embedding": list(files.embeddings[half]), column: of_part, **more}),
            folder / f"p{number}.parquet",
        )
    if empty is not None:
        empty.to_parquet(folder / "p2.parquet")
    return str(folder)


@pytest.mark.parametrize(
    ("values", "first", "second"),
    [
        (TEXTS, pa.string(), pa.large_string()),
        (TEXTS, pa.string_view(), NARROW),
        (TEXTS, pa.dictionary(pa.int32(), pa.large_string()), NARROW),
        (TEXTS, NARROW, pa.string()),
        (WHOLE, pa.int32(), pa.int64()),
        (WHOLE, pa.uint8(), pa.int16()),
        (WHOLE, pa.uint64(), pa.int64()),
        (WHOLE, pa.int64(), pa.float64()),
        (WHOLE, pa.float32(), pa.uint32()),
        (WHOLE, pa.float16(), pa.float64()),
        (WHOLE, pa.dictionary(pa.int16(), pa.int64()), pa.int32()),
        ([2**63 + row % 3 for row in range(N)], pa.uint64(), pa.uint64()),
    ],
)
def test_parts_that_differ_in_width_or_encoding_are_one(files, values, first, second):
    for one, other in ((first, second), (second, first)):
        empty = pd.DataFrame({"embedding": [], "label": []}, dtype=object)
        path = parts(files, "label", as_type(values[:25], one), as_type(values[25:], other), empty)
        assert brought(files, embeddings=path, labels="") == [str(value) for value in values]


@pytest.mark.parametrize(
    ("first", "second"),
    [(pa.string(), NARROW), (pa.string(), pa.large_string())],
)
def test_ids_in_parts_of_other_encodings(files, first, second):
    ids = [f"{row:09d}" for row in range(N)]
    path = parts(files, "id", pa.array(ids[:25]).cast(first), pa.array(ids[25:]).cast(second), pd.DataFrame())
    files.bring(embeddings=path, labels="", columns="id=id")
    assert ids_lib.read(files.store)[1].to_pylist() == ids


@pytest.mark.parametrize(
    ("first", "second"),
    [(pa.int32(), pa.int64()), (pa.int64(), pa.float64()), (pa.uint64(), pa.int16()), (pa.float32(), pa.uint8())],
)
def test_ids_that_are_numbers_in_parts(files, first, second):
    path = parts(files, "id", pa.array(range(25)).cast(first), pa.array(range(25, N)).cast(second))
    files.bring(embeddings=path, labels="", columns="id=id")
    assert ids_lib.read(files.store)[1].to_pylist() == [str(row) for row in range(N)]


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (TEXTS[:25], WHOLE[25:], r"large_string in \S+/p0\.parquet and int64 in \S+/p1\.parquet; wanted texts in all"),
        (WHOLE[:25], pa.array(WHOLE[25:]).cast(pa.bool_()), r"int64 in \S+/p0\.parquet and bool in \S+/p1\.parquet"),
        ([-1] * 25, pa.array([2**63] * 35, pa.uint64()), r"int64 in \S+/p0\.parquet and uint64 in \S+/p1\.parquet"),
        ([0.5] * 25, WHOLE[25:], "row 0 has the label 0.5"),
        (WHOLE[:25], [float("nan")] * 35, r"row 25 has NaN \(35 of 60"),
        (WHOLE[:25], pa.nulls(35), r"row 25 has no label \(35 of 60"),
        (pa.nulls(25), TEXTS[25:], r"row 0 has no label \(25 of 60"),
        ([2.0**60] * 25, WHOLE[25:], "float64 has every whole number below"),
    ],
)
def test_parts_of_different_kinds_are_refused(files, first, second, what):
    files.refused(what, DataError, embeddings=parts(files, "label", first, second), labels="")


def test_an_array_without_rows_is_passed_over(files):
    (files.folder / "parts").mkdir()
    for number, part in enumerate((np.array([]), files.embeddings, np.zeros((0, 9), int))):
        files.write(f"parts/{number}.npy", part)
    files.bring(embeddings=files.path("parts"))


# Kinds of files


@pytest.mark.parametrize("name", ["L.parquet", "L.pq", "L"])
@pytest.mark.parametrize("columns", ["label=cls,id=key", ""])
def test_labels_and_ids_from_parquet_beside_an_array(files, name, columns):
    ids = [f"{row:09d}" for row in range(N)]
    names = ("cls", "key") if columns else ("label", "id")
    pq.write_table(pa.table({names[0]: TEXTS, names[1]: ids}), files.path(name))
    fields = {"columns": columns} if columns else {"ids": files.path(name)}
    assert brought(files, labels=files.path(name), **fields) == TEXTS
    assert ids_lib.read(files.store)[1].to_pylist() == ids
    pq.write_table(pa.table({"anything": TEXTS}), files.path(name))
    assert brought(files, labels=files.path(name)) == TEXTS


@pytest.mark.parametrize("values", [np.arange(N), np.array([f"{row:03d}.jpg" for row in range(N)])])
def test_ids_from_an_array(files, values):
    files.bring(ids=files.write("I.npy", values))
    assert ids_lib.read(files.store)[1].to_pylist() == [str(value) for value in values]


def hugging_face(files, name, labels, names, columns=("embedding", "label")):
    """A Parquet file as `datasets` writes a column of ClassLabel."""
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({columns[0]: files.embeddings[: len(labels)].tolist(), columns[1]: labels})
    made.cast_column(columns[1], datasets.ClassLabel(names=names)).to_parquet(files.path(name))
    return files.path(name)


def test_class_names_of_hugging_face(files):
    names = ["zebra", "ape", "12", "none of these"]  # in their own order; one is a numeral
    path = hugging_face(files, "E.parquet", WHOLE, names)
    assert brought(files, embeddings=path, labels="") == [names[row] for row in WHOLE]
    opened = files.bring(embeddings=path, labels="")
    assert opened.manifest["class_names"] == names
    assert opened.labels()[1].tolist() == WHOLE
    assert brought(files, labels=path) == [names[row] for row in WHOLE]
    other = files.write("C.txt", ["a", "b", "c"])
    assert brought(files, embeddings=path, labels="", class_names=other) == list("abc") * (N // 3)
    assert brought(files, embeddings=path, labels="", labels_are="names") == [str(row) for row in WHOLE]
    storage.remove(files.store)
    path = hugging_face(files, "E.parquet", [*WHOLE[:-1], -1], names)
    files.refused("row 59 has the label -1", DataError, embeddings=path, labels="")


def test_class_names_of_hugging_face_that_differ_by_file_are_refused(files):
    (files.folder / "parts").mkdir()
    for number, names in enumerate((["a", "b", "c"], ["c", "b", "a"])):
        hugging_face(files, f"parts/{number}.parquet", WHOLE[:30], names)
    what = r"/0\.parquet and \S+/1\.parquet have other class names"
    files.refused(what, DataError, embeddings=files.path("parts"), labels="")


@pytest.mark.parametrize("of", [pa.list_view, pa.large_list_view])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_views_of_lists_are_vectors(files, of, dtype):
    lists = pa.array(files.embeddings.astype(dtype).tolist(), of(pa.from_numpy_dtype(dtype)))
    pq.write_table(pa.table({"embedding": lists, "label": TEXTS}), files.path("E.parquet"), row_group_size=11)
    assert brought(files, embeddings=files.path("E.parquet"), labels="") == TEXTS


@pytest.mark.parametrize(("kind", "what"), [("bfloat16", "bfloat16"), ("float8_e4m3fn", "float8")])
def test_numbers_that_numpy_does_not_know_are_named(files, kind, what):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    files.write("E.npy", files.embeddings.astype(getattr(ml_dtypes, kind)))
    files.refused(rf"raw bytes: NumPy writes {what} so\. Save it as float32, numpy\.save", DataError)
