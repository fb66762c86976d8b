"""Embeddings of other tools become a store; whatever is wrong with their files is said before anything is written."""

import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from redundancy import config as config_lib
from redundancy import storage
from redundancy.data import open_dataset
from redundancy.embedding import store, write
from redundancy.importing import ids as ids_lib
from redundancy.importing import vectors
from redundancy.importing.stage import Request, import_embeddings
from redundancy.runtime.errors import ConfigError, DataError, UserError, WorkdirError
from redundancy.workdir import Workdir

N, D = 60, 5


def rows(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, D)).astype(np.float32), rng.permutation(np.arange(n) % 4)


class Files:
    """Writes the files of an import below a folder and imports them into the workdir `w` there."""

    def __init__(self, folder):
        self.folder = folder
        self.workdir = Workdir(str(folder / "w"))
        self.store = self.workdir.embeddings("end")
        self.embeddings, self.labels = rows()

    def path(self, name):
        return str(self.folder / name)

    def write(self, name, content):
        path = self.path(name)
        if name.endswith(".npy"):
            np.save(path, content)
        elif isinstance(content, pa.Table):
            pq.write_table(content, path)
        else:
            storage.write_text(path, content if isinstance(content, str) else "".join(f"{x}\n" for x in content))
        return path

    def request(self, **fields):
        """Of E.npy and Y.npy where nothing else is given."""
        fields.setdefault("embeddings", self.path("E.npy"))
        fields.setdefault("labels", self.path("Y.npy"))
        return Request(**fields)

    def bring(self, config=None, **fields):
        import_embeddings(self.request(**fields), self.workdir, config)
        return store.EmbeddingStore(self.store)

    def refused(self, what, kind=UserError, config=None, **fields):
        """The import raises an error that says `what`, and leaves nothing behind."""
        before = storage.list_dir(self.store)
        with pytest.raises(kind, match=what):
            import_embeddings(self.request(**fields), self.workdir, config)
        assert storage.list_dir(self.store) == before


@pytest.fixture
def files(tmp_path):
    made = Files(tmp_path)
    made.write("E.npy", made.embeddings)
    made.write("Y.npy", made.labels)
    return made


def check(opened, embeddings, labels):
    """The store holds these, the row number being the position."""
    positions, found = opened.labels()
    assert (positions == np.arange(len(labels))).all()
    assert (found == labels).all()
    for label in np.unique(labels).tolist():
        of_class, stored = opened.read_class(label)
        assert (of_class == np.flatnonzero(labels == label)).all()
        assert (stored == embeddings[of_class].astype(np.float32)).all()


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_arrays_are_stored_as_they_are(files, dtype):
    embeddings = files.embeddings.astype(dtype)
    files.write("E.npy", np.asfortranarray(embeddings))
    opened = files.bring(parts=7, name="mine", checkpoint="CLIP ViT-L/14")
    check(opened, embeddings, files.labels)
    assert len(opened.manifest["parts"]) == 7
    assert opened.manifest["class_names"] == ["0", "1", "2", "3"]
    assert opened.manifest["checkpoint"]["model"] == "CLIP ViT-L/14"
    assert opened.manifest["fingerprint"]["name"] == "mine"
    assert opened.manifest["fingerprint"]["shard_lengths"] == [N]
    assert ids_lib.read(files.store) is None


NAMES = np.array(["dog", "ape", "cat", "bee"])


@pytest.mark.parametrize(
    ("name", "content", "fields", "expected", "names"),
    [
        ("L.npy", lambda y: y.astype(np.uint8)[:, None], {}, lambda y: y, "0123"),
        ("L.npy", lambda y: y.astype(np.float64), {}, lambda y: y, "0123"),
        ("L.npy", lambda y: y * 3 + 10, {}, lambda y: y, ("10", "13", "16", "19")),
        ("L.npy", lambda y: NAMES[y], {}, lambda y: np.array([3, 0, 2, 1])[y], ("ape", "bee", "cat", "dog")),
        ("L.npy", lambda y: np.char.encode(NAMES[y]), {}, lambda y: np.array([3, 0, 2, 1])[y], sorted(NAMES)),
        ("L.txt", lambda y: y, {}, lambda y: y, "0123"),
        ("L.txt", lambda y: [f"{x:.3e}" for x in y], {}, lambda y: y, "0123"),
        ("L.txt", lambda y: NAMES[y], {}, lambda y: np.array([3, 0, 2, 1])[y], sorted(NAMES)),
        ("L.txt", lambda y: "\ufeff" + "\r\n".join(map(str, y)), {}, lambda y: y, "0123"),
        ("L.csv", lambda y: y, {}, lambda y: y, "0123"),
        (
            "L.csv",
            lambda y: ["n,cls", *(f'"{i},",{c}' for i, c in enumerate(y))],
            {"columns": "label=cls"},
            None,
            "0123",
        ),
        ("L.csv", lambda y: ["cls", *y], {"columns": "label=cls"}, lambda y: y, "0123"),
        ("L.CSV", lambda y: [*y, "", ""], {}, lambda y: y, "0123"),
        ("L.csv", lambda y: ["cls", *y, ""], {"columns": "label=cls"}, lambda y: y, "0123"),
    ],
)
def test_labels_in_every_form(files, name, content, fields, expected, names):
    path = files.write(name, content(files.labels))
    opened = files.bring(labels=path, **fields)
    check(opened, files.embeddings, (expected or (lambda y: y))(files.labels))
    assert opened.manifest["class_names"] == list(names)


def test_class_names_of_ones_own(files):
    names = files.write("names.txt", [*NAMES, "none of these"])
    opened = files.bring(class_names=names)
    check(opened, files.embeddings, files.labels)
    assert opened.manifest["class_names"] == [*NAMES, "none of these"]
    other = Files(files.folder)
    other.store = other.workdir.embeddings("start")
    strings = files.write("Y.txt", NAMES[files.labels])
    opened = other.bring(labels=strings, class_names=names, layer="start")
    check(opened, files.embeddings, files.labels)
    other.store = other.workdir.embeddings("middle")
    short = files.write("short.txt", NAMES[:3])
    other.refused(
        "label 'bee' .* none of the 3 class names", DataError, labels=strings, class_names=short, layer="middle"
    )
    other.refused(r"row \d+ has the label 3 ", DataError, class_names=short, layer="middle")
    twice = files.write("twice.txt", ["a", "b", "a", "d"])
    other.refused("'a' is there more than once", DataError, class_names=twice, layer="middle")
    gap = files.write("gap.txt", ["a", "", "c"])
    other.refused("line 2 is empty", DataError, class_names=gap, layer="middle")


def table(embeddings, labels, kind, **more):
    values = pa.array(embeddings.reshape(-1))
    if kind == "fixed":
        lists = pa.FixedSizeListArray.from_arrays(values, embeddings.shape[1])
    else:
        width = {"list": np.int32, "large": np.int64}[kind]
        offsets = pa.array(np.arange(len(embeddings) + 1, dtype=width) * embeddings.shape[1])
        lists = {"list": pa.ListArray, "large": pa.LargeListArray}[kind].from_arrays(offsets, values)
    return pa.table({"emb": lists, "cls": labels, **more})


@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_parquet_of_other_tools(files, kind, dtype, monkeypatch):
    monkeypatch.setattr(vectors, "_BLOCK_BYTES", 4 * D * 7)  # rows of a block, a part and a row group do not coincide
    embeddings = files.embeddings.astype(dtype)
    paths = [f"img/{row}.jpg" for row in range(N)]
    whole = table(embeddings, pa.array(files.labels).dictionary_encode(), kind, path=paths)
    os.mkdir(files.path("parts"))
    for number, (start, stop) in enumerate(((0, 25), (25, 25), (25, 60))):
        pq.write_table(whole.slice(start, stop - start), files.path(f"parts/p{number}.parquet"), row_group_size=11)
    columns = "embedding=emb, label=cls, id=path"
    opened = files.bring(embeddings=files.path("parts"), labels="", columns=columns, parts=4)
    check(opened, embeddings, files.labels)
    positions, ids = ids_lib.read(files.store)
    assert (positions == np.arange(N)).all()
    assert ids.to_pylist() == paths
    # The same content from other files is the same import.
    before = storage.read_bytes(storage.join(files.store, "manifest.json"))
    files.write("E.npy", embeddings)
    files.bring()
    files.bring(embeddings=files.path("parts/p*.parquet"), labels="", columns=columns)
    assert storage.read_bytes(storage.join(files.store, "manifest.json")) == before


def test_parquet_is_read_from_any_row_on(files, monkeypatch):
    monkeypatch.setattr(vectors, "_BLOCK_BYTES", 4 * D * 7)
    whole = table(files.embeddings, files.labels, "list")
    os.mkdir(files.path("parts"))
    for number, (start, stop) in enumerate(((0, 0), (0, 25), (25, 60))):
        pq.write_table(whole.slice(start, stop - start), files.path(f"parts/p{number}.parquet"), row_group_size=11)
    opened = vectors.open_vectors(files.path("parts"), "emb")
    for start in range(N):
        assert (np.concatenate(list(opened.blocks(start))) == files.embeddings[start:]).all()
    assert opened.where(24).endswith("p1.parquet, row 24")
    assert opened.where(25).endswith("p2.parquet, row 0")


def test_ids(files):
    names = [f"id {row}" for row in range(N)]
    csv = files.write("L.csv", ["path,cls", *(f"{a},{b}" for a, b in zip(names, files.labels, strict=True))])
    files.bring(labels=csv, columns="label=cls,id=path")
    assert ids_lib.read(files.store)[1].to_pylist() == names
    txt = files.write("I.txt", names)
    files.bring(ids=txt)
    files.refused("other ids", DataError, ids=files.write("J.txt", names[::-1]))
    # That there were ids is known when they are lost; the same ones are taken again.
    storage.remove(ids_lib.path(files.store))
    files.bring()
    with pytest.raises(DataError, match=r'ids\.parquet is missing, .*"redundancy import" with the same ids'):
        ids_lib.read(files.store)
    files.refused("other ids", DataError, ids=files.path("J.txt"))
    files.bring(ids=txt)
    assert ids_lib.read(files.store)[1].to_pylist() == names
    # Ids may come later.
    ids_lib.remove(files.store)
    files.bring()
    assert ids_lib.read(files.store) is None
    before = storage.read_bytes(storage.join(files.store, "manifest.json"))
    files.bring(ids=txt)
    assert storage.read_bytes(storage.join(files.store, "manifest.json")) == before
    assert ids_lib.read(files.store)[1].to_pylist() == names
    files.bring()
    assert ids_lib.read(files.store)[1].to_pylist() == names
    path = ids_lib.path(files.store)
    broken = pq.read_table(path).set_column(1, "id", pa.array(names[::-1], pa.large_string()))
    pq.write_table(broken, path)
    with pytest.raises(DataError, match=r"ids\.parquet is damaged"):
        ids_lib.read(files.store)


def bad(value, at=(7, 9)):
    embeddings, _ = rows()
    embeddings[list(at)] = value
    return embeddings


def test_vectors_without_cosine_are_named(files):
    for value, what in ((np.nan, "NaN or infinity"), (-np.inf, "NaN or infinity"), (0, "a zero vector")):
        files.write("E.npy", bad(value))
        files.refused(rf"E\.npy, row 7 .*{what} \(2 such of 60 rows\)", DataError)
    doubles = files.embeddings.astype(np.float64)
    for value in (np.nan, np.inf):
        doubles[3] = [1e300, 1e-300, value, 1, 1]
        files.write("E.npy", doubles)
        files.refused("row 3 holds NaN or infinity .*wanted finite numbers", DataError)
    doubles[3] = 0
    files.write("E.npy", doubles)
    files.refused("row 3 is a zero vector", DataError)


@pytest.mark.parametrize("kind", ["<f8", ">f8", "parquet"])
def test_doubles_beyond_float32_keep_their_direction(files, kind):
    doubles = files.embeddings.astype(np.float64)
    scales = np.ones(N)
    scales[[3, 8, 9, 20, 21]] = 1e-44, 1e-300, 1e300, 1e-33, 3e38
    doubles *= scales[:, None]
    doubles[40] = [-1.5e-310, 3e-310, 0, 0, 0]
    doubles[41] = [-np.finfo(np.float64).max, 0, 0, 0, 1e-300]
    if kind == "parquet":
        path = files.write("E.parquet", table(doubles, files.labels, "list"))
        opened = files.bring(embeddings=path, labels="", columns="embedding=emb,label=cls")
    else:
        files.write("E.npy", doubles.astype(kind))
        opened = files.bring()
    for label in range(4):
        for position, stored in zip(*opened.read_class(label), strict=True):
            wanted = doubles[position] / np.abs(doubles[position]).max()
            assert np.abs(stored.astype(np.float64) / np.abs(stored).max() - wanted).max() < 2e-7
            if scales[position] == 1 and position not in (40, 41):
                assert (stored == doubles[position].astype(np.float32)).all()
            # A tiny vector stays one, so that it hardly moves the mean of a group.
            assert scales[position] > 1e-40 or np.abs(stored).max() < 1e-29


def test_labels_that_look_like_ids_are_warned_of(files, caplog):
    def warnings(labels, **fields):
        caplog.clear()
        storage.remove(files.store)
        files.bring(labels=labels, **fields)
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    assert not warnings(files.path("Y.npy"))
    assert not warnings(files.write("L.npy", np.minimum(np.arange(N), 53)))
    (said,) = warnings(files.write("L.npy", np.minimum(np.arange(N), 54)))
    assert "55 different labels for 60 embeddings" in said
    assert ";" not in said
    (said,) = warnings(files.write("L.csv", [f"img{row}.jpg;{label}" for row, label in enumerate(files.labels)]))
    assert 'The lines hold ";"' in said
    few = files.write("few.npy", files.embeddings[:19])
    assert not warnings(files.write("L.npy", np.arange(19)), embeddings=few)


def test_names_of_files_in_every_form(files):
    for name in ("e[1].npy", "E.NPY"):
        with open(files.path(name), "wb") as file:
            np.save(file, files.embeddings)
        storage.remove(files.store)
        check(files.bring(embeddings=files.path(name)), files.embeddings, files.labels)
    storage.remove(files.store)
    url = "file://" + files.path("E.npy")
    check(files.bring(embeddings=url, labels="file://" + files.path("Y.npy")), files.embeddings, files.labels)
    files.refused("none.npy: there is no such file", ConfigError, embeddings="file://" + files.path("none.npy"))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (rows()[0].ravel(), r"float32 \[300\]; wanted float16, float32 or float64 \[N, d\]"),
        (rows()[0].astype(np.int8), r"int8 \[60, 5\]"),
        (np.zeros((0, D), np.float32), r"float32 \[0, 5\]"),
        (np.zeros((N, 0), np.float32), r"float32 \[60, 0\]"),
        (np.array([{"a": 1}], object), "pickled Python objects, which are not loaded"),
        (rows(59)[0], "60 labels; wanted 59"),
    ],
)
def test_wrong_arrays_are_refused(files, content, what):
    files.write("E.npy", content)
    files.refused(what, DataError)


def test_files_that_are_no_arrays_are_refused(files):
    with open(files.path("E.npy"), "rb") as file:
        data = file.read()
    for content, what in ((data[:-40], "truncated"), (data[:60], "truncated"), (b"", "no .npy"), (b"hello", "no .npy")):
        storage.write_bytes(files.path("E.npy"), content)
        files.refused(f"E.npy is {what}", DataError)
    np.savez(files.path("E.npz"), files.embeddings)
    os.rename(files.path("E.npz"), files.path("E.npy"))
    files.refused(r"several arrays \(\.npz\)", DataError)
    files.refused("no such file", ConfigError, embeddings=files.path("none.npy"))
    files.refused("no such file", ConfigError, embeddings=files.path("none.parquet"))
    files.refused("no such file", ConfigError, embeddings=files.path("none*.parquet"))
    files.refused("no .parquet file here", ConfigError, embeddings=str(files.folder))
    files.refused("copy it to this machine", ConfigError, embeddings="gs://bucket/E.npy")
    assert not storage.exists(files.workdir.root)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("L.npy", np.zeros((N, 2), int), r"int64 \[60, 2\]"),
        ("L.npy", np.array([None] * N, object), "pickled Python objects"),
        ("L.npy", np.zeros(N, complex), "complex128"),
        ("L.npy", np.where(np.arange(N) == 4, -1, 0), r"row 4 has the label -1 \(1 of 60"),
        ("L.npy", np.where(np.arange(N) == 4, np.nan, 0.0), r"row 4 has NaN \(1 of 60"),
        ("L.npy", np.full(N, 0.5), r"row 0 has the label 0\.5"),
        ("L.npy", np.zeros(N + 1, int), "61 labels; wanted 60"),
        ("L.txt", ["a"] * 8 + [""] + ["b"] * (N - 9), "row 8 has no label"),
        ("L.txt", "", "0 labels; wanted 60"),
        ("L.txt", ["1.0"] * 8 + ["nan"] + ["2.0"] * (N - 9), "row 8 has NaN"),
        ("L.csv", ["cls", *[0] * N], "If the first, 'cls', is a header, say so: --columns label=cls"),
        ("L.csv", ["0,1"] * N, r"2 columns, \['0', '1'\]; wanted one, or a header"),
        ("L.csv", "", "is empty"),
        ("L.csv", ["0"] * 7 + ["0,1"] + ["0"] * (N - 8), "line 8 has 2 values; wanted 1"),
        ("L.csv", ["0"] * 7 + ['""'] + ["0"] * (N - 8), "row 7 has no label"),
        ("L.csv", ["cls", *[0] * 8, "", *[0] * (N - 9)], "line 10 is blank, so a row has no label"),
        ("L.csv", ["", *[0] * N], "line 1 is blank"),
        ("L.csv", ["cls", *[0] * (N - 1)], "first line, 'cls', seems to be a header: .* whole numbers"),
        ("L.csv", ["cls", *["a", "b"] * (N // 2 - 1), "a", ""], "'cls', seems to be a header: .* last line is blank"),
        ("L.csv", ["cls", *[0] * N, ""], "If the first, 'cls', is a header"),
        ("L.csv", ['"a', 'b"', *["c"] * 7, "c,d", *["c"] * (N - 9)], "line 10 has 2 values"),
        ("L.npy", np.array([b"a", b"\xff", b"\xfe"] * (N // 3)), r"the label b'\\xff' is no UTF-8 text"),
        ("L.json", "[]", r"wanted a \.npy, \.csv or \.txt file"),
    ],
)
def test_wrong_labels_are_refused(files, name, content, what):
    files.refused(what, labels=files.write(name, content))


def test_labels_that_are_not_there_are_asked_for(files):
    files.refused("--labels is missing", ConfigError, labels="")
    files.refused("no such file", ConfigError, labels=files.path("none.txt"))
    storage.write_bytes(files.path("L.txt"), b"\xff\xfe\x00")
    files.refused("no UTF-8 text", DataError, labels=files.path("L.txt"))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (["a"] * N, "rows 0 and 1 have the same id 'a'"),
        ([*map(str, range(N - 1)), " "], "id of row 59 is empty"),
        ([*map(str, range(N - 1))], "59 ids; wanted 60"),
    ],
)
def test_wrong_ids_are_refused(files, content, what):
    files.refused(what, DataError, ids=files.write("I.txt", content))


def test_columns_that_are_not_there(files):
    csv = files.write("L.csv", ["path,cls", *(f"{i},{c}" for i, c in enumerate(files.labels))])
    files.refused(r"no column 'label'; its header is \['path', 'cls'\]", DataError, labels=csv, columns="label=label")
    files.refused(r"no column 'x'", DataError, labels=csv, columns="label=cls,id=x")
    files.refused("'embeding=a' is not understood. Did you mean \"embedding\"", ConfigError, columns="embeding=a")
    files.refused("Give it once", ConfigError, columns="label=a,label=b")
    files.refused("names a column of embeddings, 'a', but", ConfigError, columns="embedding=a")
    files.refused("names a column of labels, 'a', but", ConfigError, columns="label=a")
    files.refused("names a column of ids, 'a', but", ConfigError, columns="id=a")
    files.refused(r"no \.csv file", ConfigError, columns="id=a", ids=files.write("I.txt", range(N)))
    files.refused("wanted a text file", ConfigError, ids=files.path("Y.npy"))


def test_wrong_parquet_is_refused(files):
    def refused(what, content, kind=DataError, columns="embedding=emb,label=cls"):
        path = files.write("E.parquet", content)
        files.refused(what, kind, embeddings=path, labels="", columns=columns)

    right = table(files.embeddings, files.labels, "list")
    refused(r"no column 'embedding'; it has \['emb', 'cls'\]", right, columns="label=cls")
    refused("no column 'label'", right, columns="embedding=emb")
    refused("no column 'path'", right, columns="embedding=emb,label=cls,id=path")
    refused("column 'cls' is int64; wanted a list of float16", right, columns="embedding=cls,label=cls")
    refused("has no rows", right.slice(0, 0))
    lists = files.embeddings.tolist()
    for value, what in (
        ([1.0] * 4, "row 6: column 'emb' has 4 numbers; wanted 5"),
        (None, r"row 6: column 'emb' is empty \(null\)"),
        ([1.0, None, 1.0, 1.0, 1.0], r"row 6: column 'emb' has an empty \(null\) number"),
        ([np.nan] * 5, "row 6 holds NaN"),
    ):
        refused(what, pa.table({"emb": [*lists[:6], value, *lists[7:]], "cls": files.labels}))
    refused(
        r"row 0: column 'emb' is \[\]",
        pa.table({"emb": pa.array([[]] * N, pa.list_(pa.float32())), "cls": files.labels}),
    )
    refused("row 2 has no label", right.set_column(1, "cls", pa.array([0, 1, None, *files.labels[3:]])))
    same = pa.array(["a"] * N)
    refused("have the same id 'a'", right.append_column("path", same), columns="embedding=emb,label=cls,id=path")
    path = files.write("E.parquet", right)
    storage.write_bytes(path, storage.read_bytes(path)[:-30])
    files.refused("E.parquet cannot be read as Parquet", DataError, embeddings=path, labels="")
    refused("E.parquet cannot be read as Parquet", "no Parquet")


def test_wrong_flags(files):
    files.refused("--layer is 'last'; wanted one of start, middle, end", ConfigError, layer="last")
    files.refused("--parts is -1", ConfigError, parts=-1)


def test_a_finished_import_is_a_no_op_and_others_are_refused(files, monkeypatch):
    files.bring(parts=3)
    storage.write_bytes(files.path("E2.npy"), storage.read_bytes(files.path("E.npy")))
    with monkeypatch.context() as patch:
        patch.setattr(storage.scratch, "scratch_file", lambda *_: pytest.fail("wrote again"))
        files.bring(parts=3)
        files.bring(embeddings=files.path("E2.npy"), name="other", checkpoint="other")
    other = files.write("other.npy", rows(seed=1)[0])
    files.refused("other embeddings, labels or class names: those of 'E.npy'", WorkdirError, embeddings=other)
    labels = files.write("other_labels.npy", files.labels[::-1].copy())
    files.refused("holds other embeddings.*overwrites nothing: delete", WorkdirError, labels=labels)
    check(store.EmbeddingStore(files.store), files.embeddings, files.labels)


def test_embeddings_of_embed_are_not_overwritten(files):
    identity = {"layer": "end", "checkpoint": "pretrain/checkpoints/7", "fingerprint": {"name": "digits"}}
    write.write_part(files.store, 0, 2, np.arange(N), files.labels, files.embeddings, identity)
    files.refused("begun by another import .* or by embed", WorkdirError)
    write.write_part(files.store, 1, 2, np.arange(N, 2 * N), files.labels, files.embeddings, identity)
    write.finish(files.store, 2, identity, list("abcd"), 2 * N)
    files.refused("not imported", WorkdirError)


def test_a_killed_import_continues_and_ends_the_same(files, monkeypatch):
    script = f"""
import os, signal
from redundancy import storage
from redundancy.importing import stage
from redundancy.workdir import Workdir
write, written = storage.files.write_bytes, []
def write_then_die(path, data):
    if len(written) == 5:  # three parts and the records of two
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    write(path, data)
storage.files.write_bytes = write_then_die
stage.import_embeddings(stage.{files.request(parts=5)!r}, Workdir({files.workdir.root!r}))
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    names = [name for name in storage.list_dir(files.store) if name.endswith(".parquet")]
    begun = {name: os.stat(storage.join(files.store, name)).st_mtime_ns for name in names}
    assert len(begun) == 3
    other = files.write("other.npy", rows(seed=1)[0])
    files.refused("begun by another import", WorkdirError, embeddings=other, parts=5)
    read, blocks = [], vectors.NpyVectors.blocks
    monkeypatch.setattr(vectors.NpyVectors, "blocks", lambda self, start=0: read.append(start) or blocks(self, start))
    opened = files.bring(parts=5)
    assert read == [0, 36]  # all of them are checked, and the finished parts passed over
    check(opened, files.embeddings, files.labels)
    assert {name: os.stat(storage.join(files.store, name)).st_mtime_ns for name in begun} == begun
    unbroken = Files(files.folder)
    unbroken.workdir = Workdir(files.path("unbroken"))
    unbroken.store = unbroken.workdir.embeddings("end")
    unbroken.bring(parts=5)
    for name in storage.list_dir(unbroken.store):
        assert storage.read_bytes(storage.join(unbroken.store, name)) == storage.read_bytes(
            storage.join(files.store, name)
        )


def test_an_import_begun_with_other_parts(files, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(write, "finish", lambda *_: pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            files.bring(parts=5)
    check(files.bring(parts=2), files.embeddings, files.labels)
    assert len(storage.list_dir(files.store)) == 2 + 1


# Embeddings of a config's data set


@pytest.fixture
def pictures(files):
    """The files are of the 40 training images of an .npz data set; `config` is its config."""
    images = np.random.default_rng(0).integers(0, 256, (N, 8, 8), np.uint8)
    names = np.array([f"kind {label}" for label in range(4)])
    np.savez(files.path("set.npz"), images=images, labels=files.labels, class_names=names)
    config = config_lib.resolve({"dataset": files.path("set.npz"), "holdout": 1 / 3})
    dataset = open_dataset(config)
    files.write("E.npy", files.embeddings[dataset.train.positions])
    files.write("Y.npy", dataset.train.labels)
    return files, config, dataset


def test_embeddings_of_a_data_set_have_its_positions(pictures, monkeypatch):
    files, config, dataset = pictures
    train = dataset.train
    assert 0 < len(train.positions) < N
    ids = [f"id {position}" for position in range(N)]
    some = files.write("I.txt", [ids[position] for position in train.positions])
    opened = files.bring(config, ids=some, parts=3)
    positions, labels = opened.labels()
    assert (positions == train.positions).all()
    assert (labels == train.labels).all()
    assert opened.manifest["fingerprint"] == dataset.fingerprint
    assert opened.manifest["class_names"] == list(dataset.class_names)
    assert opened.manifest["num_stored"] == N
    assert files.workdir.dataset_fingerprint() == dataset.fingerprint
    for label in range(4):
        of_class, stored = opened.read_class(label)
        assert (stored == files.embeddings[of_class]).all()
    before = {name: storage.read_bytes(storage.join(files.store, name)) for name in storage.list_dir(files.store)}
    storage.remove(files.store)
    # Of the whole stored split the held-out rows are left out; labels may be names.
    monkeypatch.setattr(vectors, "_BLOCK_BYTES", 4 * D * 7)
    files.write("E.npy", files.embeddings)
    files.write("Y.txt", [f"kind {label}" for label in files.labels])
    opened = files.bring(config, labels=files.path("Y.txt"), ids=files.write("I.txt", ids), parts=3)
    assert (opened.labels()[0] == train.positions).all()
    for label in range(4):
        of_class, stored = opened.read_class(label)
        assert (stored == files.embeddings[of_class]).all()
    assert ids_lib.read(files.store)[1].to_pylist() == [ids[position] for position in train.positions]
    assert storage.list_dir(files.store) == sorted(before)


def test_labels_that_disagree_with_the_data_set_are_refused(pictures):
    files, config, dataset = pictures
    labels = dataset.train.labels.copy()
    labels[[5, 9]] = 3 - labels[[5, 9]]
    position, right = dataset.train.positions[5], dataset.train.labels[5]
    files.refused(
        rf"position {position} \(row 5\) has the label {labels[5]}; .* has {right} \('kind {right}'\).* 2 of 40 ",
        DataError,
        config,
        labels=files.write("L.npy", labels),
    )
    names = [f"kind {label}" for label in dataset.train.labels]
    names[0] = "kind 77"
    files.refused("has the label 'kind 77'", DataError, config, labels=files.write("L.txt", names))
    files.write("E.npy", files.embeddings[:30])
    labels = files.write("L.npy", files.labels[:30])
    files.refused(r"has 30 embeddings; .* has 40 training images \(or 60", DataError, config, labels=labels)
    files.refused("--name is given with --config", ConfigError, config, name="mine")


def test_a_workdir_of_a_data_set_wants_its_config(pictures):
    files, config, dataset = pictures
    files.workdir.claim(config)
    files.workdir.claim_dataset(dataset.fingerprint)
    files.refused(r"belongs to the data set 'set\.npz'. Give its --config", WorkdirError)
    other = config_lib.resolve({**config_lib.to_json(config), "holdout": 0.35})
    assert len(open_dataset(other).train.positions) == 40
    files.bring(config)
    files.refused("another data set. Differing: holdout", WorkdirError, other, layer="start")
    none = config_lib.resolve({"dataset": ""})
    with pytest.raises(ConfigError, match="no data set"):
        import_embeddings(files.request(), Workdir(files.path("v")), none)
    # Nor is config.json written where the embeddings are wrong.
    files.write("E.npy", np.zeros((40, D)))
    with pytest.raises(DataError, match="zero vector"):
        import_embeddings(files.request(), Workdir(files.path("v")), config)
    assert not os.path.exists(files.path("v"))


def test_the_same_embeddings_with_and_without_a_data_set(pictures):
    files, config, _ = pictures
    files.write("names.txt", [f"kind {label}" for label in range(4)])
    files.bring(class_names=files.path("names.txt"))
    files.refused("as those of the data set 'E.npy'", WorkdirError, config)
