"""Whatever is wrong with files or flags of an import is said before anything is written; more in cli/test_bad_input.py."""

import os

import numpy as np
import pyarrow as pa
import pytest

from redundancy import storage
from redundancy.embedding.write import wrong_rows
from redundancy.runtime.errors import ConfigError, DataError
from tests.importing.import_files import N, rows, table


@pytest.fixture(autouse=True)
def nothing_is_written(files):
    yield
    assert not storage.exists(files.workdir.root)


def bad(value, dtype=np.float32):
    embeddings = rows()[0].astype(dtype)
    embeddings[[7, 9]] = value
    return embeddings


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (bad(np.nan), r"E\.npy, row 7 .*NaN or infinity \(2 such of 60 rows\)"),
        (bad(-np.inf), r"E\.npy, row 7 .*NaN or infinity \(2 such of 60 rows\)"),
        (bad(0), r"E\.npy, row 7 .*a zero vector \(2 such of 60 rows\)"),
        (bad([1e300, 1e-300, np.nan, 1, 1], float), "row 7 holds NaN or infinity .*wanted finite numbers"),
        (bad([1e300, 1e-300, np.inf, 1, 1], float), "row 7 holds NaN or infinity .*wanted finite numbers"),
        (bad(0, float), "row 7 is a zero vector"),
        (rows(59)[0], "60 labels; wanted 59"),
    ],
)
def test_wrong_embeddings(files, content, what):
    files.write("E.npy", content)
    files.refused(what, DataError)


def test_files_that_are_no_arrays(files):
    data = storage.read_bytes(files.path("E.npy"))
    for content, what in ((data[:60], "truncated"), (b"hello", "no .npy")):
        storage.write_bytes(files.path("E.npy"), content)
        files.refused(f"E.npy is {what}", DataError)
    np.savez(files.path("E.npz"), files.embeddings)
    os.rename(files.path("E.npz"), files.path("E.npy"))
    files.refused(r"E\.npy is an archive of NumPy arrays \(arr_0\)", ConfigError)


AB = ["path,cls", *(f"{row},{label}" for row, label in enumerate(rows()[1]))]


@pytest.mark.parametrize(
    ("name", "content", "what", "columns"),
    [
        ("L.npy", np.zeros((N, 2), int), r"int64 \[60, 2\]", ""),
        ("L.npy", np.zeros(N, complex), "complex128", ""),
        ("L.npy", np.where(np.arange(N) == 4, -1, 0), r"row 4 has the label -1 \(1 of 60", ""),
        ("L.npy", np.where(np.arange(N) == 4, np.nan, 0.0), r"row 4 has NaN \(1 of 60", ""),
        ("L.npy", np.full(N, 0.5), r"row 0 has the label 0\.5", ""),
        ("L.npy", np.zeros(N + 1, int), "61 labels; wanted 60", ""),
        ("L.npy", np.array([b"a", b"\xff", b"\xfe"] * (N // 3)), r"the label b'\\xff' is no UTF-8 text", ""),
        ("L.txt", ["a"] * 8 + [""] + ["b"] * (N - 9), "row 8 has no label", ""),
        ("L.txt", "", "0 labels; wanted 60", ""),
        ("L.txt", ["1.0"] * 8 + ["nan"] + ["2.0"] * (N - 9), "row 8 has the label 'nan' ", ""),
        ("L.csv", ["cls", *[0] * N], "If the first, 'cls', is a header, say so: --columns label=cls", ""),
        ("L.csv", ["0,1"] * N, r"2 columns, \['0', '1'\]; wanted one, or a header", ""),
        ("L.csv", "", "is empty", ""),
        ("L.csv", ["0"] * 7 + ["0,1"] + ["0"] * (N - 8), "line 8 has 2 values; wanted 1", ""),
        ("L.csv", ["0"] * 7 + ['""'] + ["0"] * (N - 8), "row 7 has no label", ""),
        ("L.csv", ["cls", *[0] * 8, "", *[0] * (N - 9)], "line 10 is blank, so a row has no label", ""),
        ("L.csv", ["", *[0] * N], "line 1 is blank", ""),
        ("L.csv", ["cls", *[0] * (N - 1)], "first line, 'cls', seems to be a header: .* whole numbers", ""),
        ("L.csv", ["cls", *["a", "b"] * (N // 2 - 1), "a", ""], "'cls', seems to be a header: .* last line is blank", ""),
        ("L.csv", ["cls", *[0] * N, ""], "If the first, 'cls', is a header", ""),
        ("L.csv", ['"a', 'b"', *["c"] * 7, "c,d", *["c"] * (N - 9)], "line 10 has 2 values", ""),
        ("L.csv", AB, r"no column 'label'; its header is \['path', 'cls'\]", "label=label"),
        ("L.csv", AB, "no column 'x'", "label=cls,id=x"),
        ("I.txt", [*map(str, range(N - 1)), " "], "id of row 59 is empty", ""),
        ("I.txt", [*map(str, range(N - 1))], "59 ids; wanted 60", ""),
        ("C.txt", list("abc"), r"row \d+ has the label 3 ", ""),
        ("C.txt", ["a", "", "c"], "line 2 is empty", ""),
    ],
)  # fmt: skip
def test_wrong_labels_ids_and_class_names(files, name, content, what, columns):
    field = {"L": "labels", "I": "ids", "C": "class_names"}[name[0]]
    files.refused(what, DataError, columns=columns, **{field: files.write(name, content)})


def test_names_among_labels_that_are_no_class_names(files):
    labels = files.write("L.txt", np.array(["dog", "ape", "cat", "bee"])[files.labels])
    names = files.write("C.txt", ["dog", "ape", "cat"])
    files.refused("label 'bee' .* one of the 3 class names", DataError, labels=labels, class_names=names)


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        ("--layer is 'last'; wanted one of start, middle, end", {"layer": "last"}),
        ("--parts is -1", {"parts": -1}),
        ("--labels is missing.* beside --class-names", {"labels": "", "class_names": "{}/I.txt"}),
        ("--labels is missing.* names a column of labels, 'a'", {"labels": "", "columns": "label=a"}),
        ("--labels-are is 'ids'; wanted names or indices", {"labels_are": "ids"}),
        ("--order is 'size'; wanted number or text", {"order": "size"}),
        ("no such file", {"labels": "{}/none.txt"}),
        ("no such file", {"embeddings": "{}/none.npy"}),
        ("no such file", {"embeddings": "{}/none.parquet"}),
        ("no such file", {"embeddings": "{}/none*.parquet"}),
        ("none.npy: there is no such file", {"embeddings": "file://{}/none.npy"}),
        ("no .npy or .parquet file among nothing", {"embeddings": "{}/empty"}),
        (r"other: E\.npz is an archive of NumPy arrays", {"embeddings": "{}/other"}),
        ("no .npy or .parquet file among E.*; wanted", {"embeddings": "{}/E*[!y]"}),
        ("names files of two kinds, such as a.npy and b.parquet", {"embeddings": "{}/both"}),
        ("names files of two kinds", {"embeddings": "{}/both/*"}),
        (r"E\.npz is an archive of NumPy arrays \(a, b\)\. .* numpy.save\(", {"embeddings": "{}/other/E.npz"}),
        (r"E\.npz is an archive of NumPy arrays", {"embeddings": "{}/other/*"}),
        (r"E\.npz is an archive of NumPy arrays", {"labels": "{}/other/E.npz"}),
        (r"E\.pt is a file of PyTorch, a pickle, which is never loaded\. .* numpy.save\(", {"embeddings": "{}/E.pt"}),
        (r"E\.pt is a file of PyTorch", {"labels": "{}/E.pt"}),
        (r"I\.txt is a text\. .* numpy.save\(", {"embeddings": "{}/I.txt"}),
        (r"E is neither \.npy nor Parquet: it begins with b'\[\]'; wanted", {"embeddings": "{}/E"}),
        ("copy it to this machine", {"embeddings": "gs://bucket/E.npy"}),
        (r"Wanted a \.npy, \.csv, \.txt or Parquet file", {"labels": "{}/I.json"}),
        ("'embeding=a' is not understood. Did you mean \"embedding\"", {"columns": "embeding=a"}),
        ("Give it once", {"columns": "label=a,label=b"}),
        ("names a column of embeddings, 'a', but", {"columns": "embedding=a"}),
        ("names a column of labels, 'a', but", {"columns": "label=a"}),
        ("names a column of ids, 'a', but", {"columns": "id=a"}),
        (r"no \.csv or Parquet file", {"columns": "id=a", "ids": "{}/I.txt"}),
        (r"E\.npz is an archive", {"ids": "{}/other/E.npz"}),
    ],
)
def test_wrong_flags(files, what, fields):
    files.write("I.txt", range(N))
    for name in ("I.json", "E.pt", "E", "Ex"):
        files.write(name, "[]")
    for name in ("empty", "other", "both"):
        os.mkdir(files.path(name))
    np.savez(files.path("other/E.npz"), a=[1], b=[2])
    files.write("both/a.npy", files.embeddings)
    files.write("both/b.parquet", RIGHT)
    fields = {name: str(value).format(files.folder) if name != "parts" else value for name, value in fields.items()}
    files.refused(what, ConfigError, **fields)


EMBEDDINGS, LABELS = rows()
RIGHT = table(EMBEDDINGS, LABELS, "list")
ALL = "embedding=emb,label=cls,id=path"


@pytest.mark.parametrize(
    ("what", "content", "columns"),
    [
        ("no column 'label'", RIGHT, "embedding=emb,label=label"),
        ("no column 'path'", RIGHT, ALL),
        ("column 'cls' is int64; wanted a list of float16", RIGHT, "embedding=cls,label=cls"),
        ("row 7 holds NaN", table(bad(np.nan), LABELS, "list"), "embedding=emb,label=cls"),
        (r"row 0: column 'emb' is \[\]", pa.table({"emb": pa.array([[]] * N, pa.list_(pa.float32())), "cls": LABELS}), "embedding=emb,label=cls"),
        ("row 2 has no label", RIGHT.set_column(1, "cls", pa.array([0, 1, None, *LABELS[3:]])), "embedding=emb,label=cls"),
        ("have the same id 'a'", RIGHT.append_column("path", pa.array(["a"] * N)), ALL),
    ],
)  # fmt: skip
def test_wrong_parquet(files, what, content, columns):
    path = files.write("E.parquet", content)
    files.refused(what, DataError, embeddings=path, labels="", columns=columns)


def test_rows_without_a_cosine_are_found_whatever_their_length():
    given = np.array([[3, 4], [1e30, 1e30], [1e-30, 0], [np.nan, 1], [0, -np.inf], [0, 0], [1e-45, -3e38]], np.float32)
    wrong, finite = wrong_rows(given)
    assert wrong.tolist() == [3, 4, 5]
    assert finite.tolist() == [False, False, True]
