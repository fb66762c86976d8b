"""Randomly changed files: either they are read correctly, or a UserError reports what is wrong.

The changes are the same in every run; `make soak` tries four times as many, and others each time.
"""

import io
import json
import os
import pathlib
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
from redundancy.data import images, open_dataset
from redundancy.embedding import ids as ids_lib
from redundancy.embedding.store import EmbeddingStore
from redundancy.importing.stage import Request, import_embeddings
from redundancy.workdir import Workdir
from tests.fuzzed import LABELS, PICTURES, VECTORS, D, N, changed, saved, tried
from tests.fuzzed import elsewhere as elsewhere
from tests.tiers import examples

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
    """Imports the files and checks the store."""
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


IMPORTED = {
    "E.npy": (EMBEDDINGS, lambda data: {"embeddings": ("E.npy", data), "labels": ("Y.npy", LABEL_ARRAYS[0])}),
    "Y.npy": (LABEL_ARRAYS, lambda data: {"embeddings": ("E.npy", EMBEDDINGS[0]), "labels": ("Y.npy", data)}),
    "Y.txt": (LABEL_TEXTS, lambda data: {"embeddings": ("E.npy", EMBEDDINGS[0]), "labels": ("Y.txt", data)}),
    "Y.csv": (LABEL_TABLES, lambda data: {"embeddings": ("E.npy", EMBEDDINGS[0]), "labels": ("Y.csv", data)}),
    "E.parquet": (PARQUET, lambda data: {"embeddings": ("E.parquet", data)}),
}


@pytest.mark.parametrize("name", IMPORTED)
@examples(90)
@given(st.data())
def test_embeddings_and_labels(name, data):
    originals, files = IMPORTED[name]
    imported(**files(data.draw(changed(originals))))


@examples(40)
@given(changed(LABEL_TEXTS), changed([b"".join(b"%d\n" % row for row in range(N))]))
def test_class_names_and_ids(names, ids):
    labels = ("Y.npy", LABEL_ARRAYS[0])
    imported(embeddings=("E.npy", EMBEDDINGS[0]), labels=labels, class_names=("n.txt", names[:8]), ids=("I.txt", ids))


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
    """An 8-bit BMP whose rows are run-length encoded."""
    data = bytearray(encoded("BMP", "P"))
    data[30:34] = (1).to_bytes(4, "little")
    (start,) = np.frombuffer(data, "<u4", 1, 10)
    return bytes(data[:start]) + b"".join(bytes([20, row]) + b"\0\0" for row in range(18)) + b"\0\1"


FRAMES = [Image.new("P", (20, 18), color) for color in range(3)]
ENCODED = [
    encoded("JPEG"), encoded("JPEG", "L", progressive=True), encoded("JPEG", "CMYK"), encoded("PNG"),
    encoded("PNG", "P", transparency=bytes(range(32))), encoded("PNG", "LA"), encoded("PNG", "I;16"),
    encoded("PNG", save_all=True, append_images=FRAMES), encoded("GIF", "P", save_all=True, append_images=FRAMES),
    encoded("BMP"), encoded("BMP", "P"), run_lengths(), encoded("WEBP"), encoded("WEBP", "RGBA", lossless=True),
    encoded("TIFF"), encoded("TIFF", "P", compression="tiff_lzw"), encoded("TIFF", "CMYK"), encoded("AVIF"),
    encoded("JPEG2000"), encoded("JPEG2000", "L"), encoded("PPM"),
]  # fmt: skip


@examples(750)
@given(changed(ENCODED), st.sampled_from([0, 8]))
@pytest.mark.soak
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
