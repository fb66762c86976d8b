"""The embedding store: it returns what was written, and reports damaged or wrong parts before work begins."""

import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from redundancy import storage
from redundancy.embedding import store, write
from redundancy.runtime.errors import DataError, WorkdirError

IDENTITY = {"layer": "end", "checkpoint": "step 7", "fingerprint": {"name": "synthetic"}}
NAMES = ["zero", "one", "two", "three"]


def _rows(n=40, dimension=6, num_stored=60, seed=0):
    generator = np.random.default_rng(seed)
    positions = np.sort(generator.choice(num_stored, n, replace=False))
    labels = generator.integers(3, size=n).astype(np.int32)
    return positions, labels, generator.normal(size=(n, dimension)).astype(np.float32)


def _write(folder, positions, labels, embeddings, num_parts=3, identity=IDENTITY, num_stored=60):
    parts = write.part_positions(positions, num_parts)
    at = 0
    for index, part in enumerate(parts):
        rows = slice(at, at + len(part))
        at += len(part)
        write.write_part(folder, index, len(parts), part, labels[rows], embeddings[rows], identity)
    return write.finish(folder, len(parts), identity, NAMES, num_stored)


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "end")


def _edit_manifest(folder, **changes):
    path = storage.join(folder, "manifest.json")
    storage.write_json(path, {**storage.read_json(path), **changes})


def test_part_positions():
    positions = np.array([1, 2, 5, 7, 8, 11, 12])
    parts = write.part_positions(positions, 3)
    assert [part.tolist() for part in parts] == [[1, 2, 5], [7, 8], [11, 12]]
    assert [len(part) for part in write.part_positions(positions, 16)] == [1] * 7
    assert write.part_positions(positions[:0], 4) == []
    assert write.part_name(3, 16) == "part-00003-of-00016.parquet"


def test_round_trip(folder):
    positions, labels, embeddings = _rows()
    manifest = _write(folder, positions, labels, embeddings)
    opened = store.EmbeddingStore(folder)
    assert opened.manifest == manifest
    assert (opened.layer, opened.dimension, opened.num_examples) == ("end", 6, 40)
    assert opened.class_counts == {label: int((labels == label).sum()) for label in range(3)}
    assert manifest["fingerprint"] == {"name": "synthetic"}
    assert manifest["checkpoint"] == "step 7"
    found_positions, found_labels = opened.labels()
    assert (found_positions == positions).all()
    assert (found_labels == labels).all()
    assert (found_positions.dtype, found_labels.dtype) == (np.int64, np.int32)
    for label in range(3):
        of_class, vectors = opened.read_class(label)
        assert (of_class == positions[labels == label]).all()
        assert (vectors == embeddings[labels == label]).all()
        assert (of_class.dtype, vectors.dtype) == (np.int64, np.float32)
    assert [len(rows) for rows in opened.read_class(3)] == [0, 0]


def test_rows_in_any_order_make_sorted_row_groups_of_one_class(folder):
    positions, labels, embeddings = _rows()
    order = np.random.default_rng(1).permutation(40)
    write.write_part(folder, 0, 1, positions[order], labels[order], embeddings[order], IDENTITY)
    file = pq.ParquetFile(storage.join(folder, write.part_name(0, 1)))
    assert file.num_row_groups == 3
    table = file.read()
    assert table.schema.field("embedding").type.list_size == 6
    by_class = np.lexsort((positions, labels))
    assert table["label"].to_pylist() == labels[by_class].tolist()
    assert table["position"].to_pylist() == positions[by_class].tolist()
    for label in range(3):
        assert set(file.read_row_group(label)["label"].to_pylist()) == {label}


def test_part_done(folder):
    positions, labels, embeddings = _rows()
    path = storage.join(folder, write.part_name(0, 1))
    assert not write.part_done(folder, 0, 1, IDENTITY)
    write.write_part(folder, 0, 1, positions, labels, embeddings, IDENTITY)
    assert write.part_done(folder, 0, 1, IDENTITY)
    assert not write.part_done(folder, 0, 1, {**IDENTITY, "checkpoint": "step 8"})
    assert not write.part_done(folder, 0, 2, IDENTITY)
    data = storage.read_bytes(path)
    storage.write_bytes(path, data[: len(data) // 2])
    assert not write.part_done(folder, 0, 1, IDENTITY)
    with pytest.raises(DataError, match="missing, damaged or of another model"):
        write.finish(folder, 1, IDENTITY, NAMES, 60)
    with pytest.raises(WorkdirError, match="redundancy embed"):
        store.EmbeddingStore(folder)
    write.write_part(folder, 0, 1, positions, labels, embeddings, IDENTITY)
    assert storage.read_bytes(path) == data


def _count_reads(monkeypatch):
    """Names of the parts whose rows are read, and of those whose bytes are hashed."""
    decoded, hashed = [], []
    read, sha256 = storage.read_parquet, storage.sha256
    monkeypatch.setattr(storage, "open_parquet", lambda path, *_: pytest.fail(f"{path} is opened"))
    monkeypatch.setattr(storage, "read_parquet", lambda path, *a: decoded.append(path[-26:-8]) or read(path, *a))
    monkeypatch.setattr(storage, "sha256", lambda path: hashed.append(path[-26:-8]) or sha256(path))
    return decoded, hashed


def _begin(folder):
    positions, labels, embeddings = _rows()
    for index in range(2):
        rows = slice(20 * index, 20 * index + 20)
        write.write_part(folder, index, 2, positions[rows], labels[rows], embeddings[rows], IDENTITY)


def test_finish_does_not_read_parts_again(folder, monkeypatch):
    with monkeypatch.context() as patch:
        decoded, hashed = _count_reads(patch)
        _begin(folder)
        assert (decoded, hashed) == ([], [])
        assert all(write.part_done(folder, index, 2, IDENTITY) for index in range(2))
        assert (decoded, len(hashed)) == ([], 2)
        manifest = write.finish(folder, 2, IDENTITY, NAMES, 60)
        assert (decoded, len(hashed)) == ([], 2)
    assert storage.list_dir(folder) == ["manifest.json", *(part["file"] for part in manifest["parts"])]
    for part in manifest["parts"]:
        assert part["sha256"] == storage.sha256(storage.join(folder, part["file"]))
    assert store.EmbeddingStore(folder).manifest == manifest


def test_a_manifest_comes_after_the_records_are_gone(folder, monkeypatch):
    _begin(folder)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove", lambda _: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            write.finish(folder, 2, IDENTITY, NAMES, 60)
    assert "manifest.json" not in storage.list_dir(folder)
    write.finish(folder, 2, IDENTITY, NAMES, 60)
    assert [name for name in storage.list_dir(folder) if name.endswith(".json")] == ["manifest.json"]


def test_parts_without_a_record_are_read_once(folder, tmp_path, monkeypatch):
    _begin(folder)
    _begin(str(tmp_path / "other"))
    wanted = write.finish(str(tmp_path / "other"), 2, IDENTITY, NAMES, 60)
    first, second = (write.record_path(storage.join(folder, write.part_name(index, 2))) for index in range(2))
    storage.remove(first)
    storage.write_text(second, "{}")
    with monkeypatch.context() as patch:
        read, times = storage.read_parquet, []
        patch.setattr(storage, "read_parquet", lambda *a: times.append(1) or read(*a))
        assert all(write.part_done(folder, index, 2, IDENTITY) for index in range(2))
        assert len(times) == 2
        assert write.finish(folder, 2, IDENTITY, NAMES, 60) == wanted
        assert len(times) == 2


def test_a_part_must_match_its_own_record(folder, tmp_path):
    _begin(folder)
    path = storage.join(folder, write.part_name(1, 2))
    data = storage.read_bytes(path)
    _flip(path)
    assert not write.part_done(folder, 1, 2, IDENTITY)
    storage.write_bytes(path, storage.read_bytes(storage.join(folder, write.part_name(0, 2))))
    with pytest.raises(DataError, match=f"{path} is missing, damaged or of another model"):
        write.finish(folder, 2, IDENTITY, NAMES, 60)
    storage.remove(path)
    with pytest.raises(DataError, match=f"{path} is missing"):
        write.finish(folder, 2, IDENTITY, NAMES, 60)
    storage.write_bytes(path, data)
    with pytest.raises(DataError, match="of another model"):
        write.finish(folder, 2, {**IDENTITY, "checkpoint": "step 8"}, NAMES, 60)
    write.finish(folder, 2, IDENTITY, NAMES, 60)


def test_labels_are_read_once(folder, monkeypatch):
    _write(folder, *_rows())
    read, times = storage.read_parquet, []
    monkeypatch.setattr(storage, "read_parquet", lambda *a: times.append(1) or read(*a))
    opened = store.EmbeddingStore(folder)
    opened.check_labels({"labels_sha256": store.labels_sha256(opened.labels()[1])})
    assert len(times) == 3


@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (0, "a zero vector")]
)
def test_an_embedding_without_cosine_is_not_written(folder, value, what):
    positions, labels, embeddings = _rows()
    embeddings[[9, 4]] = value
    with pytest.raises(DataError, match=rf'layer "end": the embedding of position {positions[4]} .*{what}.*\(2 such'):
        write.write_part(folder, 0, 1, positions, labels, embeddings, IDENTITY)
    assert storage.list_dir(folder) == []


@pytest.mark.parametrize("value", [np.nan, 0])
def test_an_embedding_without_cosine_by_another_writer_is_found(folder, value, monkeypatch):
    positions, labels, embeddings = _rows()
    embeddings[4] = value
    with monkeypatch.context() as patch:
        patch.setattr(write, "check_cosines", lambda *_: None)
        _write(folder, positions, labels, embeddings)
    opened = store.EmbeddingStore(folder)
    with pytest.raises(DataError, match=rf"{folder}.*label {labels[4]}.*position {positions[4]}"):
        opened.read_class(labels[4])


def _truncate(path):
    storage.write_bytes(path, storage.read_bytes(path)[:-100])


def _flip(path):
    data = bytearray(storage.read_bytes(path))
    data[len(data) // 3] ^= 1
    storage.write_bytes(path, bytes(data))


def _replace(path):
    folder, name = path.rsplit("/", 1)
    positions, labels, embeddings = _rows(seed=5)
    other = storage.join(folder, "other")
    _write(other, positions, labels, embeddings)
    storage.write_bytes(path, storage.read_bytes(storage.join(other, name)))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (storage.remove, "is missing"),
        (_truncate, "SHA-256"),
        (_flip, "SHA-256"),
        (_replace, "SHA-256"),
        (lambda path: storage.write_bytes(path, b""), "SHA-256"),
    ],
)
def test_a_damaged_part_is_named_with_the_way_out(folder, damage, what):
    _write(folder, *_rows())
    path = storage.join(folder, write.part_name(1, 3))
    damage(path)
    with pytest.raises(DataError, match=f"{path} .*{what}.*Delete {path} and .*manifest.json.*redundancy embed"):
        store.EmbeddingStore(folder)


def test_a_manifest_that_disagrees_with_its_parts(folder):
    manifest = _write(folder, *_rows())
    parts = manifest["parts"]
    _edit_manifest(folder, parts=[{**parts[0], "rows": 3}, *parts[1:]])
    with pytest.raises(DataError, match=r"has 14 rows, the manifest says 3"):
        store.EmbeddingStore(folder)
    _edit_manifest(folder, parts=parts[:2])
    with pytest.raises(DataError, match=r"says 40 examples .* parts hold 27 rows"):
        store.EmbeddingStore(folder)
    counts = manifest["class_counts"]
    swapped = {"0": counts["0"] + 1, "1": counts["1"] - 1, "2": counts["2"]}
    _edit_manifest(folder, parts=parts, class_counts=swapped)
    with pytest.raises(DataError, match=f"has {counts['0']} images of label 0, its manifest counts {swapped['0']}"):
        store.EmbeddingStore(folder).labels()
    storage.write_text(storage.join(folder, "manifest.json"), json.dumps({"layer": "end"}))
    with pytest.raises(DataError, match="has no 'dimension'"):
        store.EmbeddingStore(folder)


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("layer", 3, "has no 'layer' that is a str"),
        ("dimension", "6", "has no 'dimension' that is a int"),
        ("num_stored", 60.5, "has no 'num_stored' that is a int"),
        ("class_names", "zero", "has no 'class_names' that is a list"),
        ("class_names", ["zero", 1], r"class_names is \['zero', 1\]; wanted texts"),
        ("class_counts", [1], "has no 'class_counts' that is a dict"),
        ("class_counts", {"a": 1}, r"class_counts is \{'a': 1\}; wanted whole numbers"),
        ("class_counts", {"0": None}, "class_counts is"),
        ("fingerprint", "digits", "fingerprint is digits; wanted an object or null"),
        ("parts", {}, "has no 'parts' that is a list"),
        ("parts", ["part-0"], "in parts, has no 'file' that is a str"),
        ("parts", [{"file": "part-0", "rows": 3}], "in parts, has no 'sha256'"),
    ],
)
def test_fields_of_other_types_are_named(folder, field, value, what):
    _write(folder, *_rows())
    _edit_manifest(folder, **{field: value})
    for check in (True, False):
        with pytest.raises(DataError, match=rf"manifest\.json.*{what}"):
            store.EmbeddingStore(folder, check)


@pytest.mark.parametrize(("column", "kind"), [("label", "string"), ("label", "double"), ("position", "double")])
def test_labels_and_positions_of_other_types_are_refused(folder, column, kind):
    manifest = _write(folder, *_rows(), num_parts=1)
    path = storage.join(folder, write.part_name(0, 1))
    table = pq.read_table(path).replace_schema_metadata()
    at = table.column_names.index(column)
    pq.write_table(table.set_column(at, column, table[column].cast(kind)), path)
    _edit_manifest(folder, parts=[{**manifest["parts"][0], "sha256": storage.sha256(path)}])
    with pytest.raises(DataError, match=rf"{path}: column {column} is {kind} .*; wanted only integers"):
        store.EmbeddingStore(folder)


def test_a_manifest_of_another_dimension_or_of_other_names_is_refused(folder):
    names = _write(folder, *_rows())["class_names"]
    _edit_manifest(folder, class_names=["only"])
    with pytest.raises(DataError, match="wanted 0…0, the 1 class names"):
        store.EmbeddingStore(folder).labels()
    _edit_manifest(folder, class_names=names, dimension=7)
    with pytest.raises(DataError, match=r"column embedding is .*\[6\].*wanted .*\[7\]"):
        store.EmbeddingStore(folder).read_class(0)


def test_parts_of_different_dimensions_are_not_finished(folder):
    positions, labels, embeddings = _rows()
    write.write_part(folder, 0, 2, positions[:20], labels[:20], embeddings[:20], IDENTITY)
    write.write_part(folder, 1, 2, positions[20:], labels[20:], embeddings[20:, :5], IDENTITY)
    with pytest.raises(DataError, match=r"\[5, 6\]"):
        write.finish(folder, 2, IDENTITY, NAMES, 60)


@pytest.mark.parametrize(
    ("position", "what"),
    [(None, "position {} more than once"), (-1, "position -1; wanted 0…59"), (60, "position 60; wanted")],
)
def test_a_doubled_position_or_one_out_of_range_is_refused(folder, position, what):
    positions, labels, embeddings = _rows()
    positions[-1] = positions[-2] if position is None else position
    _write(folder, positions, labels, embeddings)
    with pytest.raises(DataError, match=what.format(positions[-2])):
        store.EmbeddingStore(folder).labels()


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_without_name_is_refused(folder, label):
    positions, labels, embeddings = _rows()
    labels[3] = label
    with pytest.raises(DataError, match="wanted 0…3, the 4 class names"):
        _write(folder, positions, labels, embeddings)


def test_parts_of_another_writer_with_mixed_row_groups(folder):
    positions, labels, embeddings = _rows()
    _write(folder, positions, labels, embeddings, num_parts=1)
    path = storage.join(folder, write.part_name(0, 1))
    table = pq.read_table(path).replace_schema_metadata().take(np.random.default_rng(2).permutation(40))
    pq.write_table(table, path, row_group_size=7, write_statistics=False)
    # Another writer's manifest may say no more of a part than this.
    _edit_manifest(folder, parts=[{"file": write.part_name(0, 1), "rows": 40, "sha256": storage.sha256(path)}])
    for label in range(4):
        of_class, vectors = store.EmbeddingStore(folder).read_class(label)
        assert (of_class == positions[labels == label]).all()
        assert (vectors == embeddings[labels == label]).all()


def test_only_the_rows_of_the_class_are_read(folder, monkeypatch):
    _write(folder, *_rows())
    opened = store.EmbeddingStore(folder)
    read, groups = pq.ParquetFile.iter_batches, []

    def count(self, size, row_groups, *args):
        groups.extend(row_groups)
        return read(self, size, row_groups, *args)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", count)
    opened.read_class(1)
    assert groups == [1, 1, 1]


def test_a_class_is_read_in_batches(folder, monkeypatch):
    _write(folder, *_rows())
    whole = store.EmbeddingStore(folder).read_class(1)
    monkeypatch.setattr(store, "_BATCH", 3)
    batched = store.EmbeddingStore(folder).read_class(1)
    assert len(whole[0]) > 9
    assert all(np.array_equal(*columns) for columns in zip(whole, batched, strict=True))
    # A manifest that counts fewer leaves none out: who asked compares the numbers.
    opened = store.EmbeddingStore(folder)
    opened.class_counts[1] = 2
    assert np.array_equal(opened.read_class(1)[1], whole[1])


def test_damage_within_a_part_is_reported_when_it_is_read(folder):
    _write(folder, *_rows(n=200, dimension=64, num_stored=300), num_parts=1, num_stored=300)
    path = pathlib.Path(folder) / "part-00000-of-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 8 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 8)
    path.write_bytes(data)
    opened = store.EmbeddingStore(folder, check=False)
    with pytest.raises(DataError, match=rf"{path.name} cannot be read as Parquet"):
        [opened.read_class(label) for label in range(3)]


def test_parts_that_the_writer_checked_are_not_read_again_but_others_are(folder, monkeypatch):
    manifest = _write(folder, *_rows())
    opened = []
    open_parquet = storage.open_parquet
    found = store.EmbeddingStore(folder)
    monkeypatch.setattr(storage, "open_parquet", lambda *a: opened.append(a[0]) or open_parquet(*a))
    found.check_vectors()
    assert not opened
    parts = [{**manifest["parts"][0], "sha256": "0" * 64}, *manifest["parts"][1:]]
    _edit_manifest(folder, parts=parts)
    store.EmbeddingStore(folder, check=False).check_vectors()
    assert len(opened) == 3
