"""Several files of embeddings are one after the other in an order that is known, in whatever form their vectors are."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from redundancy import storage
from redundancy.embedding import ids as ids_lib
from redundancy.importing import vectors
from redundancy.runtime.errors import ConfigError, DataError
from tests.importing.import_files import D, N, check, table


def write_numbered(files, kind, name="img_emb_{}", label=None):
    """A folder of twelve files of five rows each, whose numbers have no leading zeros; returns it."""
    os.mkdir(files.path("parts"))
    for number in range(12):
        rows = slice(5 * number, 5 * number + 5)
        path = files.path(f"parts/{name.format(number)}.{kind}")
        if kind == "npy":
            np.save(path, files.embeddings[rows])
        else:
            ids = [f"id {row}" for row in range(N)[rows]]
            columns = {"embedding": list(files.embeddings[rows]), "id": ids}
            pq.write_table(pa.table(columns | ({label: files.labels[rows]} if label else {})), path)
    return files.path("parts")


@pytest.mark.parametrize("kind", ["npy", "parquet"])
@pytest.mark.parametrize("pattern", ["", "/*", "/img_emb_*.{}"])
def test_an_order_that_is_not_known_is_asked_for(files, kind, pattern):
    given = write_numbered(files, kind) + pattern.format(kind)
    where = (
        rf"sorted as text, \S+img_emb_10\.{kind} comes before \S+img_emb_2\.{kind}; .* --order=number or --order=text"
    )
    files.refused(where, ConfigError, embeddings=given)
    check(files.bring(embeddings=given, order="number"), files.embeddings, files.labels)
    text = np.concatenate([np.arange(5 * int(number), 5 * int(number) + 5) for number in sorted(map(str, range(12)))])
    files.store = files.workdir.embeddings("start")
    check(files.bring(embeddings=given, order="text", layer="start"), files.embeddings[text], files.labels)


def test_rows_that_have_ids_and_labels_of_their_own_come_in_any_order(files):
    given = write_numbered(files, "parquet", label="label")
    files.refused(
        "sorted as text", ConfigError, embeddings=given, labels=""
    )  # export would name them by their positions
    files.refused("sorted as text", ConfigError, embeddings=given, columns="id=id")
    files.refused("sorted as text", ConfigError, embeddings=given, labels="", ids=files.write("I.txt", range(N)))
    opened = files.bring(embeddings=given, labels="", columns="id=id")
    positions, labels = opened.labels()
    _, ids = ids_lib.read(files.store)
    assert [f"id {row}" for row in range(N)] != ids.to_pylist()
    rows = np.array([int(each.removeprefix("id ")) for each in ids.to_pylist()])
    assert (labels == files.labels[rows]).all()
    for label in range(4):
        of_class, stored = opened.read_class(label)
        assert (stored == files.embeddings[rows[of_class]]).all()
    assert (positions == np.arange(N)).all()


@pytest.mark.parametrize("name", ["part-{:05d}-of-00012", "{:02d}", "x{:012d}٣"])
def test_names_with_leading_zeros_have_one_order(files, name):
    check(files.bring(embeddings=write_numbered(files, "npy", name)), files.embeddings, files.labels)


def test_names_without_numbers_have_one_order(files):
    os.mkdir(files.path("parts"))
    for number, name in enumerate(("b", "b-c", "b2", "b2-c", "bb")):
        files.write(f"parts/{name}.npy", files.embeddings[12 * number : 12 * number + 12])
    assert sorted(os.listdir(files.path("parts"))) == ["b-c.npy", "b.npy", "b2-c.npy", "b2.npy", "bb.npy"]
    rows = np.concatenate([12 * number + np.arange(12) for number in (1, 0, 3, 2, 4)])
    check(files.bring(embeddings=files.path("parts")), files.embeddings[rows], files.labels)


@pytest.mark.parametrize(
    ("names", "first", "second"),
    [
        (["9", "10"], "10", "9"),
        (["a-1-b", "a-1-d2", "a-01-c"], "a-01-c", "a-1-b"),
        (["b100", "b99", "a"], "b100", "b99"),
    ],
)
def test_the_two_files_where_the_orders_part_are_named(files, names, first, second):
    os.mkdir(files.path("parts"))
    for name in names:
        files.write(f"parts/{name}.npy", files.embeddings[: N // len(names)])
    files.refused(
        rf"sorted as text, \S+/{first}\.npy comes before \S+/{second}\.npy", ConfigError, embeddings=files.path("parts")
    )


def test_arrays_in_parts_are_one(files, monkeypatch):
    monkeypatch.setattr(vectors, "_BLOCK_BYTES", 4 * D * 7)  # rows of a block and a part do not coincide
    os.mkdir(files.path("parts"))
    for number, (part, kind) in enumerate(((slice(0, 0), "<f4"), (slice(0, 25), ">f8"), (slice(25, N), "<f4"))):
        files.write(f"parts/{number}.npy", np.asfortranarray(files.embeddings[part].astype(kind)))
    files.write("parts/_SUCCESS", "")
    opened = vectors.open_vectors(files.path("parts"), None)
    for start in range(N):
        assert (np.concatenate(list(opened.blocks(start))) == files.embeddings[start:]).all()
    assert opened.where(24).endswith("1.npy, row 24")
    assert opened.where(25).endswith("2.npy, row 0")
    before = files.bring(embeddings=files.path("parts")).manifest
    assert before["fingerprint"]["name"] == "parts"
    check(files.bring(), files.embeddings, files.labels)  # the same import
    files.write("parts/2.npy", np.ones((35, D + 1), np.float32))
    files.refused(f"2.npy has rows of {D + 1} numbers; wanted {D}", DataError, embeddings=files.path("parts"))
    files.write("parts/2.npy", np.arange(N))
    files.refused(r"2.npy is int64 \[60\]; wanted float16", DataError, embeddings=files.path("parts/*.npy"))


def as_tensors(array):
    return pa.FixedShapeTensorArray.from_numpy_ndarray(array)


def as_pairs_of_bytes(array):
    """Lists of float16 as two bytes each, which Polars wrote."""
    numbers = pa.array([number.tobytes() for number in array.astype("<f2").ravel()], pa.binary(2))
    return pa.FixedSizeListArray.from_arrays(numbers, array.shape[1])


@pytest.mark.parametrize(
    "made",
    [
        as_tensors,
        lambda array: as_tensors(array.astype(np.float64)),
        lambda array: as_tensors(array[:, None]),
        as_pairs_of_bytes,
        lambda array: as_pairs_of_bytes(array).cast(pa.list_(pa.binary(2))),
        lambda array: as_pairs_of_bytes(array).cast(pa.large_list(pa.binary(2))),
    ],
)
def test_lists_of_floats_in_other_forms(files, made, monkeypatch):
    monkeypatch.setattr(vectors, "_BLOCK_BYTES", 4 * D * 7)
    files.embeddings = files.embeddings.astype(np.float16).astype(np.float32)
    pq.write_table(pa.table({"embedding": made(files.embeddings)}), files.path("E.parquet"), row_group_size=11)
    check(files.bring(embeddings=files.path("E.parquet")), files.embeddings, files.labels)


def test_tensors_of_other_things_are_refused(files):
    files.write("E.parquet", pa.table({"embedding": as_tensors(np.ones((N, D), np.int32))}))
    files.refused("tensor.*; wanted a list of float16", DataError, embeddings=files.path("E.parquet"))


@pytest.mark.parametrize("name", ["e.pq", "e.parq", "E.PQ", "e", "e.bin", "e.npy"])
def test_parquet_by_any_name(files, name):
    with open(files.path(name), "wb") as file:
        pq.write_table(table(files.embeddings, files.labels, "list"), file)
    for given in (name, f"{name[:-1]}[{name[-1]}]"):  # by name and by pattern
        storage.remove(files.store)
        opened = files.bring(embeddings=files.path(given), labels="", columns="embedding=emb,label=cls")
        check(opened, files.embeddings, files.labels)


@pytest.mark.parametrize("name", ["e.NPY", "e", "e.bin", "e.arr", "e.parquet"])
def test_arrays_by_any_name(files, name):
    with open(files.path(name), "wb") as file:
        np.save(file, files.embeddings)
    for given in (name, f"{name[:-1]}[{name[-1]}]"):
        storage.remove(files.store)
        check(files.bring(embeddings=files.path(given)), files.embeddings, files.labels)


@pytest.mark.parametrize("ending", ["", ".bin", ".parquet"])
def test_parts_by_any_name(files, ending, caplog):
    os.mkdir(files.path("parts"))
    whole = table(files.embeddings, files.labels, "list")
    for number, part in enumerate((whole[:25], whole[25:])):
        with open(files.path(f"parts/part-{number}{ending}"), "wb") as file:
            pq.write_table(part, file)
    files.write("parts/_SUCCESS", "")
    files.write("parts/notes.txt", "")
    if ending == ".parquet":
        storage.write_bytes(
            files.path("parts/part-0.parquet.bak"), storage.read_bytes(files.path("parts/part-0.parquet"))
        )
    columns = "embedding=emb,label=cls"
    for given in ("parts", "parts/*"):
        storage.remove(files.store)
        check(files.bring(embeddings=files.path(given), labels="", columns=columns), files.embeddings, files.labels)
    assert ("part-0.parquet.bak is not read" in caplog.text) == (ending == ".parquet")
    storage.remove(files.store)
    if ending != ".parquet":
        storage.write_bytes(files.path("parts/part-0.bak"), storage.read_bytes(files.path(f"parts/part-0{ending}")))
        files.refused(
            "which end otherwise; quote a pattern", embeddings=files.path("parts"), labels="", columns=columns
        )
        storage.remove(files.path("parts/part-0.bak"))
    storage.write_bytes(files.path(f"parts/part-1{ending}"), b"")  # one that is damaged is not left out
    files.refused("part-1", embeddings=files.path("parts"), labels="", columns=columns)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x80\x04K\x01.", "is a pickle, which is never loaded"),
        (b"\x89HDF\r\n\x1a\n", "is a file of HDF5"),
        (b"ARROW1\0\0", "is a file of Arrow"),
        (b"\x1f\x8b\x08\0", "is compressed"),
        (b"0.1 0.2\n", r"is neither \.npy nor Parquet: it begins with b'0\.1 0\.2"),
        (b"", "is neither .npy nor Parquet, it is empty"),
    ],
)
def test_what_a_file_is_tells_its_beginning(files, content, what):
    storage.write_bytes(files.path("e"), content)
    files.refused(f"e {what}", ConfigError, embeddings=files.path("e"))


def test_parts_in_inner_folders_are_not_left_out_in_silence(tmp_path):
    (tmp_path / "e" / "more").mkdir(parents=True)
    for name in ("a.npy", "b.npy", "more/c.npy"):
        np.save(tmp_path / "e" / name, np.ones((2, 3), np.float32))
    with pytest.raises(ConfigError, match=r"the folder .*/e/more in it holds embeddings"):
        vectors.open_vectors(str(tmp_path / "e"), None)
    assert vectors.open_vectors(str(tmp_path / "e" / "**" / "*.npy"), None).num_rows == 6


def test_what_tools_keep_beside_parts_is_left_out(tmp_path):
    (tmp_path / "e" / "_log").mkdir(parents=True)
    for name in ("a.npy", "b.npy", "_log/x.npy"):
        np.save(tmp_path / "e" / name, np.ones((2, 3), np.float32))
    assert vectors.open_vectors(str(tmp_path / "e"), None).num_rows == 4
