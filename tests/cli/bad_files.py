"""Hostile or broken files, and a folder that holds them and opens or imports them."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from redundancy import config as config_lib
from redundancy.data import open_dataset
from redundancy.importing.stage import Request, import_embeddings
from redundancy.workdir import Workdir

N = 24
LABELS = np.arange(N) % 3
VECTORS = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
PICTURES = np.random.default_rng(0).integers(0, 256, (N, 6, 5, 3), np.uint8)
RAN = "ran"  # the file that code out of data would make


class Bomb:
    """Makes a file where it is unpickled."""

    def __reduce__(self):
        return open, (RAN, "w")


# What files hold: all of these return bytes


def npy(array, **kwargs):
    buffer = io.BytesIO()
    np.save(buffer, array, **kwargs)
    return buffer.getvalue()


def header(shape, kind="<f4", data=b"", version=1):
    """A .npy file that says it has this shape and type, and has `data`."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def npz(replaced=None, drop=(), compress=zipfile.ZIP_DEFLATED, **arrays):
    """An .npz data set; `replaced` are members' bytes."""
    whole = {"train_images": PICTURES, "train_labels": LABELS, **arrays}
    members = {f"{name}.npy": npy(array) for name, array in whole.items() if name not in drop}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as archive:
        for name, data in {**members, **(replaced or {})}.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def zip_twice():
    buffer = io.BytesIO(npz())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("train_labels.npy", npy(LABELS))
    return buffer.getvalue()


def encrypted():
    data = bytearray(npz(compress=zipfile.ZIP_STORED))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + flags] |= 1
    return bytes(data)


def zip_bomb(declared=1 << 50):
    """Says that its images are a petabyte."""
    data = bytearray(npz())
    at = data.find(b"PK\x01\x02")
    name = struct.unpack("<H", data[at + 28 : at + 30])[0]
    assert data[at + 46 : at + 46 + name] == b"train_images.npy"
    extra = struct.pack("<HHQ", 1, 8, declared)
    data[at + 24 : at + 28] = b"\xff" * 4
    data[at + 30 : at + 32] = struct.pack("<H", len(extra))
    data[at + 46 + name : at + 46 + name] = extra
    end = data.find(b"PK\x05\x06")
    (size,) = struct.unpack("<I", data[end + 12 : end + 16])
    data[end + 12 : end + 16] = struct.pack("<I", size + len(extra))
    return bytes(data)


def picture(kind="PNG", mode="RGB", size=(6, 5), **kwargs):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind, **kwargs)
    return buffer.getvalue()


def png(width, height, color=2, depth=8, extra=b""):
    """A PNG of this size by its own account, and with hardly any pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", start), extra and chunk(b"zTXt", extra), chunk(b"IDAT", zlib.compress(b"\0")), chunk(b"IEND", b""))
    )  # fmt: skip


def gif(width, height):
    data = bytearray(picture("GIF", "P"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def parquet(table=None):
    buffer = io.BytesIO()
    whole = pa.table({"embedding": VECTORS.tolist(), "label": LABELS})
    pq.write_table(whole if table is None else table, buffer)
    return buffer.getvalue()


def damaged_footer(data):
    (length,) = struct.unpack("<I", data[-8:-4])
    start = len(data) - 8 - length
    return data[:start] + bytes(40) + data[start + 40 :]


def halved(data):
    return data[: len(data) // 2]


# What is done with them


class Place:
    """A folder of given files, and a workdir beside it."""

    def __init__(self, root):
        self.root, self.given, self.workdir = root, root / "given", Workdir(str(root / "w"))
        self.given.mkdir()

    def put(self, name, content):
        """Writes bytes, or calls `content` with the path to make what is no plain file."""
        path = self.given / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)
        return str(path)

    def folder(self, files, **fields):
        """Opens a folder of images that holds some good ones and these."""
        for split, kind, number in ((s, k, n) for s in ("train", "test") for k in ("ape", "bee") for n in range(2)):
            self.put(f"set/{split}/{kind}/{number}.png", picture())
        for name, content in files.items():
            self.put(f"set/{name}", content)
        return self.dataset("set", **fields)

    def dataset(self, name, **fields):
        dataset = open_dataset(config_lib.resolve({"dataset": str(self.given / name), "image_size": 4, **fields}))
        dataset.read("train", dataset.train.positions)
        return dataset

    def bring(self, files, **fields):
        """Imports these files, E.* being embeddings and Y.* labels; good ones stand in for those not given."""
        first = {name[0]: str(self.given / name) for name in files}
        for name, content in {"E.npy": npy(VECTORS), "Y.npy": npy(LABELS)}.items():
            if name[0] not in first and "E.parquet" not in files:
                files, first[name[0]] = {**files, name: content}, str(self.given / name)
        for name, content in files.items():
            self.put(name, content)
        fields = {"embeddings": first["E"], "labels": first.get("Y", ""), **fields}
        fields = {name: value.format(self.given) if isinstance(value, str) else value for name, value in fields.items()}
        import_embeddings(Request(**fields), self.workdir)
