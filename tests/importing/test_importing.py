"""Embeddings of other tools become a store; whatever is wrong with their files is said before anything is written."""

import os
import pathlib
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
from redundancy.embedding import ids as ids_lib
from redundancy.embedding import store, write
from redundancy.importing import vectors
from redundancy.importing.stage import import_embeddings
from redundancy.runtime.errors import ConfigError, DataError, WorkdirError
from redundancy.workdir import Workdir
from tests.importing.import_files import D, Files, N, check, rows, table, write_parts


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
    ("name", "content", "columns", "names"),
    [
        ("L.npy", lambda y: y.astype(np.uint8)[:, None], "", "0123"),
        ("L.npy", lambda y: y.astype(np.float64), "", "0123"),
        ("L.npy", lambda y: y * 3 + 10, "", ("10", "13", "16", "19")),
        ("L.npy", lambda y: NAMES[y], "", sorted(NAMES)),
        ("L.npy", lambda y: np.char.encode(NAMES[y]), "", sorted(NAMES)),
        ("L.txt", lambda y: y, "", "0123"),
        ("L.txt", lambda y: [f"{x:.3e}" for x in y], "", "0123"),
        ("L.txt", lambda y: NAMES[y], "", sorted(NAMES)),
        ("L.txt", lambda y: "\ufeff" + "\r\n".join(map(str, y)), "", "0123"),
        ("L.npy", lambda y: y.astype(str), "", "0123"),
        ("L.csv", lambda y: y, "", "0123"),
        ("L.csv", lambda y: ["n,cls", *(f'"{i},",{c}' for i, c in enumerate(y))], "label=cls", "0123"),
        ("L.csv", lambda y: ["cls", *y], "label=cls", "0123"),
        ("L.CSV", lambda y: [*y, "", ""], "", "0123"),
        ("L.csv", lambda y: ["cls", *y, ""], "label=cls", "0123"),
    ],
)
def test_labels_in_every_form(files, name, content, columns, names):
    opened = files.bring(labels=files.write(name, content(files.labels)), columns=columns)
    by_name = np.array([3, 0, 2, 1])  # of NAMES, in their order
    check(opened, files.embeddings, by_name[files.labels] if "ape" in names else files.labels)
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


@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_parquet_of_other_tools(files, kind, dtype, monkeypatch):
    monkeypatch.setattr(vectors, "_BLOCK_BYTES", 4 * D * 7)  # rows of a block, a part and a row group do not coincide
    embeddings = files.embeddings.astype(dtype)
    paths = [f"img/{row}.jpg" for row in range(N)]
    whole = table(embeddings, pa.array(files.labels).dictionary_encode(), kind, path=paths)
    write_parts(files, whole, ((0, 25), (25, 25), (25, 60)))
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
    write_parts(files, table(files.embeddings, files.labels, "list"), ((0, 0), (0, 25), (25, 60)))
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
    read, blocks = [], vectors.FileVectors.blocks
    monkeypatch.setattr(vectors.FileVectors, "blocks", lambda self, start=0: read.append(start) or blocks(self, start))
    opened = files.bring(parts=5)
    assert read == [0, 36]  # all of them are checked, and the finished parts passed over
    check(opened, files.embeddings, files.labels)
    assert {name: os.stat(storage.join(files.store, name)).st_mtime_ns for name in begun} == begun
    unbroken = Files(files.folder)
    unbroken.workdir = Workdir(files.path("unbroken"))
    unbroken.store = unbroken.workdir.embeddings("end")
    unbroken.bring(parts=5)
    for name in os.listdir(unbroken.store):
        assert pathlib.Path(unbroken.store, name).read_bytes() == pathlib.Path(files.store, name).read_bytes()


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
