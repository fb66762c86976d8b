"""Files changed at random: what is read of them is right, or a UserError says what is wrong; nothing else ever happens.

The changes are the same in every run. REDUNDANCY_FUZZ=50 tries fifty times as many, and takes as much longer.
"""

import copy
import io
import json
import os
import pathlib
import shutil
import tempfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from redundancy import config as config_lib
from redundancy import storage
from redundancy.data import images, open_dataset
from redundancy.embedding import ids as ids_lib
from redundancy.embedding.importing import Request, import_embeddings
from redundancy.embedding.store import EmbeddingStore
from redundancy.runtime.errors import UserError
from redundancy.selection.export import Request as ExportRequest
from redundancy.selection.export import export
from redundancy.selection.stages import link, read_subset, select
from redundancy.workdir import Workdir, need_manifest, read_manifest
from tests.tiers import examples

N, D = 12, 3


def tried(function, *args, **kwargs):
    """What the function returns, or None where it raises a UserError in words."""
    try:
        return function(*args, **kwargs)
    except UserError as error:
        text = str(error)
        assert text.strip()
        assert "Traceback" not in text
        text.encode()
        return None


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory):
    """A working folder of its own, in which nothing may be written."""
    folder = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(os, "fsync", lambda _: None)  # most of the time otherwise
        yield
    assert not os.listdir(folder)


# Bytes


@st.composite
def changed(draw, originals):
    """One of some files with a few bytes flipped, set, cut off, left out, put in, or taken from another of the files."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        size = len(data)
        # What files say of themselves is at their beginnings and ends.
        at = draw(
            st.one_of(st.integers(0, min(size, 100)), st.integers(max(0, size - 200), size), st.integers(0, size))
        )
        length = draw(st.integers(1, 12))
        match draw(st.sampled_from(["flip", "set", "cut", "drop", "insert", "splice", "repeat"])):
            case "flip" if at < size:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "set":
                data[at : at + length] = draw(st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80", b"9", b"("])) * length
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + length]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=12))
            case "splice":
                data[at:] = draw(st.sampled_from(originals))[at + draw(st.integers(-8, 8)) :]
            case "repeat":
                data[at:at] = data[at : at + 40 * length]
    return bytes(data)


def saved(write, *args, **kwargs):
    buffer = io.BytesIO()
    write(buffer, *args, **kwargs)
    return buffer.getvalue()


VECTORS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
LABELS = np.arange(N) % 2
PICTURES = np.random.default_rng(0).integers(0, 256, (N, 6, 5, 3), np.uint8)
EMBEDDINGS = [
    saved(np.save, array) for array in (VECTORS, VECTORS.astype(">f8"), np.asfortranarray(VECTORS.astype(np.float16)))
]
LABEL_ARRAYS = [
    saved(np.save, array)
    for array in (LABELS, LABELS.astype(np.float32), LABELS.astype(">u8"), np.array(["ape", "bée"])[LABELS], LABELS.astype("S"))
]  # fmt: skip
LABEL_TEXTS = ["\n".join(["ape", "bée"][label] for label in LABELS).encode(), b"0\n1\n" * (N // 2)]
LABEL_TABLES = [
    b"path,label\n" + b"".join(b'"%d, x",%d\n' % (row, label) for row, label in enumerate(LABELS)),
    b'label,"a ""b""",c\n' + b'ape,"1\n2",3\nbee,,\n' * (N // 2),
]


def table(**columns):
    lists = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.reshape(-1)), D)
    return pa.table({"embedding": lists, "label": LABELS, "id": [f"i{row}" for row in range(N)], **columns})


PARQUET = [
    saved(lambda buffer, made: pq.write_table(made, buffer, row_group_size=5, compression="none"), table()),
    saved(lambda buffer, made: pq.write_table(made, buffer, compression="zstd"), table(embedding=VECTORS.tolist())),
    saved(
        lambda buffer, made: pq.write_table(made, buffer), table(label=pa.array(["ape", "bee"] * 6).dictionary_encode())
    ),
]


def imported(**files):
    """Imports the files; what is then there is as it should be."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, (file, data) in files.items():
            paths[name] = os.path.join(folder, file)
            pathlib.Path(paths[name]).write_bytes(data)
        columns = {"columns": "label=label,id=id" if "parquet" in str(paths) else "label=label"}
        if not any(path.endswith((".csv", ".parquet")) for path in paths.values()):
            columns = {}
        workdir = Workdir(os.path.join(folder, "w"))
        request = Request(**paths, **columns)
        before = sorted(os.listdir(folder))
        if tried(lambda: import_embeddings(request, workdir) or True) is None:
            assert sorted(os.listdir(folder)) == before
            return
        store = EmbeddingStore(workdir.embeddings("end"))
        positions, labels = store.labels()
        assert (positions == np.arange(len(positions))).all()
        assert len(labels) == store.num_examples > 0
        assert 0 <= labels.min() <= labels.max() < len(store.manifest["class_names"])
        store.check_vectors()
        for label in set(labels.tolist()):
            assert np.isfinite(store.read_class(label)[1]).all()
        ids_lib.read(workdir.embeddings("end"))


@examples(100)
@given(changed(EMBEDDINGS))
def test_embeddings_of_numpy(data):
    imported(embeddings=("E.npy", data), labels=("Y.npy", LABEL_ARRAYS[0]))


@examples(100)
@given(changed(LABEL_ARRAYS))
def test_labels_of_numpy(data):
    imported(embeddings=("E.npy", EMBEDDINGS[0]), labels=("Y.npy", data))


@examples(50)
@given(changed(LABEL_TEXTS))
def test_labels_in_lines(data):
    imported(embeddings=("E.npy", EMBEDDINGS[0]), labels=("Y.txt", data))


@examples(50)
@given(changed(LABEL_TABLES))
def test_labels_in_csv(data):
    imported(embeddings=("E.npy", EMBEDDINGS[0]), labels=("Y.csv", data))


@examples(40)
@given(changed(LABEL_TEXTS), changed([b"".join(b"%d\n" % row for row in range(N))]))
def test_class_names_and_ids(names, ids):
    labels = ("Y.npy", LABEL_ARRAYS[0])
    imported(embeddings=("E.npy", EMBEDDINGS[0]), labels=labels, class_names=("n.txt", names[:8]), ids=("I.txt", ids))


@examples(150)
@given(changed(PARQUET))
def test_embeddings_in_parquet(data):
    imported(embeddings=("E.parquet", data))


def zipped(kind, **arrays):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", saved(np.save, array))
    return buffer.getvalue()


NPZ = [
    zipped(zipfile.ZIP_STORED, train_images=PICTURES, train_labels=LABELS, class_names=np.array(["ape", "bee"])),
    zipped(zipfile.ZIP_DEFLATED, images=PICTURES[..., 0], labels=LABELS.astype(np.uint8)),
    zipped(zipfile.ZIP_BZIP2, x_train=PICTURES, y_train=LABELS[:, None], x_test=PICTURES, y_test=LABELS),
    zipped(zipfile.ZIP_LZMA, images=PICTURES, labels=LABELS),
]


@examples(125)
@given(changed(NPZ))
def test_arrays_of_images(data):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "x.npz")
        path.write_bytes(data)
        dataset = tried(open_dataset, config_lib.resolve({"dataset": str(path), "image_size": 4}))
        assert os.listdir(folder) == ["x.npz"]
        if dataset is not None and tried(dataset.read, "train", dataset.train.positions) is not None:
            assert dataset.train.labels.max() < len(dataset.class_names)
            json.dumps(dataset.class_names, ensure_ascii=False).encode()


def encoded(kind, mode="RGB", **kwargs):
    picture = Image.fromarray(np.kron(PICTURES[0], np.ones((3, 4, 1), np.uint8)))
    picture = picture.quantize(32) if mode == "P" else picture.convert(mode)
    return saved(picture.save, kind, **kwargs)


def run_lengths():
    """A BMP of eight bits whose rows are told as runs."""
    data = bytearray(encoded("BMP", "P"))
    data[30:34] = (1).to_bytes(4, "little")
    (start,) = np.frombuffer(data, "<u4", 1, 10)
    return bytes(data[:start]) + b"".join(bytes([20, row]) + b"\0\0" for row in range(18)) + b"\0\1"


FRAMES = [Image.new("P", (20, 18), color) for color in range(3)]
ENCODED = [
    encoded("JPEG"),
    encoded("JPEG", "L", progressive=True),
    encoded("JPEG", "CMYK"),
    encoded("PNG"),
    encoded("PNG", "P", transparency=bytes(range(32))),
    encoded("PNG", "LA"),
    encoded("PNG", "I;16"),
    encoded("PNG", save_all=True, append_images=FRAMES),
    encoded("GIF", "P", save_all=True, append_images=FRAMES),
    encoded("BMP"),
    encoded("BMP", "P"),
    run_lengths(),
]


@examples(750)
@given(changed(ENCODED), st.sampled_from([0, 8]))
def test_images(data, size):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.jpg")
        pathlib.Path(path).write_bytes(data)
        found, problem = images.check(path)
        assert (found is None) == bool(problem)
        assert problem.isprintable()
        if found and found[0] * found[1] < 10**6:
            # What is whole when it is checked can be decoded later.
            assert images.decode(path, size).shape == ((size, size, 3) if size else (*found[::-1], 3))


@examples(20)
@given(st.lists(changed(ENCODED), min_size=1, max_size=4))
def test_folders_of_images(contents):
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("ape", "bee"):
            os.mkdir(os.path.join(folder, kind))
            for number in range(2):
                pathlib.Path(folder, kind, f"{number}.png").write_bytes(ENCODED[3])
        for number, data in enumerate(contents):
            pathlib.Path(folder, "ape", f"x{number}.jpg").write_bytes(data)
        fields = {"dataset": folder, "image_size": 8, "holdout": 0.4}
        stopped = tried(open_dataset, config_lib.resolve(fields))
        skipped = open_dataset(config_lib.resolve({**fields, "bad_images": "skip"}))
        assert (stopped is None) == bool(skipped.skipped)
        assert len(skipped.skipped) + len(skipped.train.positions) + len(skipped.test.positions) == 4 + len(contents)
        for split in (skipped.train, skipped.test):
            assert skipped.read(split.name, split.positions).shape[1:] == (8, 8, 3)


# Structure

JUNK = (
    None, True, False, 0, 1, -1, 7, 0.5, 1e308, float("nan"), 2**31, 2**63, -(2**63), 2**70, 10**400, "", " ", "0", "1", "-1", "x", "end",
    "semantic", "../../x", "/", "a\0b", "a\nb", "é", "\ud800", "x" * 5000, [], {}, [[]], [None], [0], ["x"], {"": None}, {"0": 0}, {"x": {}},
    {"file": "x"}, [{"file": "../../../etc/passwd", "rows": 1, "sha256": ""}], {"imported": "x", "sha256": 5},
)  # fmt: skip


def places(value, path=()):
    """Paths of all values in a JSON value."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def junk(draw):
    return copy.deepcopy(draw(st.sampled_from(JUNK)))


@st.composite
def restructured(draw, original):
    """A JSON value of which one or two parts are exchanged, left out, doubled or put elsewhere."""
    value = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(sorted(places(value), key=repr)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return junk(draw)
            continue
        *inner, last = path
        parent = value
        for key in inner:
            parent = parent[key]
        match draw(st.sampled_from(["junk", "junk", "junk", "number", "drop", "add", "move"])):
            case "junk":
                parent[last] = junk(draw)
            case "number" if isinstance(parent[last], (int, float)):
                parent[last] += draw(st.sampled_from([-1, 1, 0.5, 1000]))
            case "drop":
                del parent[last]
            case "add" if isinstance(parent, dict):
                parent[draw(st.sampled_from(["x", "0", "99", "-1", "", "é"]))] = junk(draw)
            case "add":
                parent.append(copy.deepcopy(parent[last]))
            case "move":
                parent[last] = copy.deepcopy(value)
    return value


CONFIG = config_lib.resolve({"dataset": "", "fractions": (0.75, 0.5), "trials": 1})
MORE = config_lib.resolve({"dataset": "", "fractions": (0.75, 0.5, 0.6), "trials": 2})


def made_workdir():
    """A finished workdir, for the tests to copy; and the JSON files in it."""
    root = tempfile.mkdtemp()
    given = os.path.join(root, "given")
    os.mkdir(given)
    pathlib.Path(given, "E.npy").write_bytes(EMBEDDINGS[0])
    pathlib.Path(given, "Y.npy").write_bytes(LABEL_ARRAYS[0])
    pathlib.Path(given, "I.txt").write_text("".join(f"i{row}\n" for row in range(N)))
    workdir = Workdir(os.path.join(root, "w"))
    import_embeddings(Request(*(os.path.join(given, name) for name in ("E.npy", "Y.npy", "I.txt")), parts=2), workdir)
    workdir.claim(CONFIG)
    link(CONFIG, workdir)
    select(CONFIG, workdir)
    for folder, manifest in (
        (workdir.pretrain, {"step": 5, "fingerprint": {"name": "x"}, "test_accuracy": 0.5}),
        (workdir.runs, {"runs": ["x"], "results_sha256": "0"}),
    ):
        os.mkdir(folder)
        pathlib.Path(folder, "manifest.json").write_text(json.dumps(manifest))
    # Without the checksum, which would tell any change.
    paths = sorted(pathlib.Path(workdir.root).rglob("*.json"))
    found = {str(path.relative_to(workdir.root)): storage.read_json(str(path)) for path in paths}
    return workdir.root, found


TEMPLATE, FOUND = made_workdir()


@pytest.fixture(scope="module", autouse=True)
def template():
    yield
    shutil.rmtree(os.path.dirname(TEMPLATE))


def use_store(workdir):
    store = tried(EmbeddingStore, workdir.embeddings("end"))
    if store is None:
        return
    found = tried(store.labels)
    tried(store.check_vectors)
    tried(store.check_labels, {"name": "x", "labels_sha256": "0"})
    if found is not None:
        assert len(found[0]) == store.num_examples
        tried(store.read_class, int(found[1][0]))


def use_stages(workdir, *gone):
    """Runs the stages again, without some folders; what they write can be read."""
    for name in gone:
        shutil.rmtree(workdir.path(name))
    for config in (CONFIG, MORE):
        tried(link, config, workdir)
        if tried(lambda config=config: select(config, workdir) or True):
            for name in os.listdir(workdir.subsets):
                if name.endswith(".parquet"):
                    assert read_subset(os.path.join(workdir.subsets, name)).kept.any()
    for number, kind in enumerate(("npy", "txt", "parquet", "tfds")):
        output = os.path.join(os.path.dirname(workdir.root), f"out{number}")
        tried(export, ExportRequest(0.75, kind, output), workdir)


def check_manifest(name, value, use):
    with tempfile.TemporaryDirectory() as folder:
        workdir = Workdir(os.path.join(folder, "w"))
        shutil.copytree(TEMPLATE, workdir.root)
        pathlib.Path(workdir.path(name)).write_text(json.dumps(value))
        use(workdir)
        assert set(os.listdir(folder)) <= {"w", "out0", "out1", "out2", "out3"}


@examples(60)
@given(restructured(FOUND["embeddings/end/manifest.json"]), st.sampled_from([(), ("merges", "subsets")]))
def test_manifest_of_embeddings(value, gone):
    def use(workdir):
        use_store(workdir)
        tried(read_manifest, workdir.embeddings("end"), class_names=list)
        tried(ids_lib.read, workdir.embeddings("end"))
        again = Request(
            *(os.path.join(os.path.dirname(TEMPLATE), "given", name) for name in ("E.npy", "Y.npy", "I.txt"))
        )
        tried(import_embeddings, again, workdir)
        use_stages(workdir, *gone)

    check_manifest("embeddings/end/manifest.json", value, use)


@examples(50)
@given(restructured(FOUND["merges/end/manifest.json"]), st.sampled_from([(), ("subsets",)]))
def test_manifest_of_merges(value, gone):
    check_manifest("merges/end/manifest.json", value, lambda workdir: use_stages(workdir, *gone))


@examples(50)
@given(restructured(FOUND["subsets/manifest.json"]))
def test_manifest_of_subsets(value):
    check_manifest("subsets/manifest.json", value, use_stages)


@examples(20)
@given(restructured(FOUND["config.json"]))
def test_config_of_a_workdir(value):
    def use(workdir):
        tried(workdir.claim, CONFIG)
        tried(workdir.claim, MORE)
        tried(workdir.dataset_fingerprint)
        tried(workdir.claim_dataset, {"name": "x"})
        use_stages(workdir)

    check_manifest("config.json", value, use)


@examples(30)
@given(
    st.sampled_from(["pretrain", "runs"]).flatmap(
        lambda name: st.tuples(st.just(name), restructured(FOUND[f"{name}/manifest.json"]))
    )
)
def test_manifests_of_trainings(named):
    name, value = named

    def use(workdir):
        found = tried(
            read_manifest, workdir.path(name), **({"step": int} if name == "pretrain" else {"results_sha256": str})
        )
        assert found is None or isinstance(found, dict)
        tried(need_manifest, workdir.path(name), "train", fingerprint=dict)
        tried(workdir.claim, MORE)

    check_manifest(f"{name}/manifest.json", value, use)


@examples(25)
@given(
    st.sampled_from(sorted(FOUND)).flatmap(
        lambda name: st.tuples(st.just(name), changed([json.dumps(FOUND[name]).encode()]))
    )
)
def test_manifests_that_are_no_json(named):
    name, data = named
    with tempfile.TemporaryDirectory() as folder:
        workdir = Workdir(os.path.join(folder, "w"))
        shutil.copytree(TEMPLATE, workdir.root)
        pathlib.Path(workdir.path(name)).write_bytes(data)
        use_store(workdir)
        tried(workdir.claim, MORE)
        use_stages(workdir)
