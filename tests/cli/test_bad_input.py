"""Hostile and broken input: each is an error of one line that names the file or field and what to do."""

import os
import pickle
import re
import stat
import time
import zipfile
import zlib

import ml_collections
import numpy as np
import pyarrow as pa
import pytest

from redundancy import config as config_lib
from redundancy.data import open_dataset
from redundancy.importing.stage import Request, import_embeddings
from redundancy.runtime import machine
from redundancy.runtime.errors import ConfigError, UserError
from tests.cli.bad_files import (
    LABELS,
    PICTURES,
    RAN,
    VECTORS,
    Bomb,
    N,
    Place,
    damaged_footer,
    encrypted,
    gif,
    halved,
    header,
    npy,
    npz,
    parquet,
    picture,
    png,
    zip_bomb,
    zip_twice,
)

BAD = []


def bad(name, said, do):
    BAD.append(pytest.param(said, do, id=name))


def bad_folder(name, said, files, **fields):
    bad(name, said, lambda place: place.folder(files, **fields))


def bad_image(name, said, content, file="x.jpg"):
    bad_folder(name, rf"set/train/ape/{re.escape(file)} {said}", {f"train/ape/{file}": content})


def bad_npz(case, said, content, file="x.npz", **fields):
    def do(place):
        place.put(file, content() if callable(content) else content)
        place.dataset(file, **fields)

    bad(case, rf"given/{re.escape(file)}'?[:,]? .*{said}", do)


def bad_import(case, said, files, **fields):
    def do(place):
        place.bring(files, **fields)

    bad(case, said, do)


def bad_config(name, said, **fields):
    bad(name, said, lambda place: config_lib.resolve(fields))


# fmt: off
# Image files
bad_image("image: zero bytes", "is empty", b"")
bad_image("image: truncated JPEG", "cannot be decoded", halved(picture("JPEG", size=(99, 99))))
bad_image("image: truncated PNG", "cannot be decoded", picture(size=(99, 99))[:-30], "x.png")
bad_image("image: truncated GIF", "cannot be decoded", halved(picture("GIF", "P", (99, 99))), "x.gif")
bad_image("image: truncated BMP", "cannot be decoded", halved(picture("BMP", size=(99, 99))), "x.bmp")
bad_image("image: text", "cannot be identified as JPEG, PNG, BMP, GIF, WebP", b"<html>404</html>")
bad_image("image: PostScript", "cannot be identified", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ran) (w) file\n")
bad_image("image: PCX by another name", "cannot be identified", picture("PCX"))
bad_image("image: HEIC by another name", "cannot be identified", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
bad_image("image: truncated WebP", "cannot be decoded", halved(picture("WEBP", size=(99, 99))), "x.webp")
bad_image("image: truncated TIFF", "cannot be", halved(picture("TIFF", size=(99, 99))), "x.tif")
bad_image("image: 16 bits of grey", r"has pixels of mode I;16; wanted 8 bits", picture("PNG", "I;16"), "x.png")
bad_image("image: no pixels", "cannot be identified", png(0, 5), "x.png")
bad_image("image: bomb that Pillow warns of", "has 10000 x 10000 pixels; wanted at most", png(10_000, 10_000), "x.png")
bad_image("image: bomb that Pillow refuses", "has 3600000000 pixels; wanted at most", png(60_000, 60_000), "x.png")
bad_image("image: one endless row", "has 80000000 x 1 pixels; wanted at most", png(80_000_000, 1), "x.png")
bad_image("image: bomb of text", "cannot be decoded .*too large", png(2, 2, extra=b"k\0\0" + zlib.compress(b"a" * 10**7)), "x.png")
bad_image("image: GIF with a huge canvas", "has 4294836225 pixels", gif(65_535, 65_535), "x.gif")
bad_image("image: folder", "is a folder, not a file", os.mkdir)
bad_image("image: pipe", "is a pipe, not a file", os.mkfifo)
bad_image("image: device", "is a device, not a file", lambda path: path.symlink_to("/dev/zero"))
bad_image("image: broken link", "is a symbolic link to 'gone', which cannot be followed", lambda path: path.symlink_to("gone"))
bad_image("image: link to itself", r"is a symbolic link to 'x.jpg', which cannot be followed \(Too many", lambda path: path.symlink_to("x.jpg"))
bad_folder("image: name of two lines", r"ape/a\\nb\.png is empty", {"train/ape/a\nb.png": b""})
bad_folder("image: name that is no UTF-8", r"ape/caf\\udce9\.png is empty", {"train/ape/caf\udce9.png": b""})

# Folders
bad_folder("folder: empty class", "train/cat: no image in this class folder", {"train/cat": os.mkdir})
bad_folder("folder: class name of two lines", r"the class folder 'a\\nb' holds control characters", {"train/a\nb/0.png": picture()})
bad_folder("folder: class name that is no UTF-8", r"the class folder 'caf\\udce9' holds .*broken UTF-8", {"train/caf\udce9/0.png": picture()})
bad_folder("folder: blank class name", "the class folder ' ' is blank", {"train/ /0.png": picture()})
bad_folder("folder: class in test alone", "'cat' is not in the train split", {"test/cat/0.png": picture()})
bad_folder("folder: image files that are not read", r"1 image files would be left out \(1 \.heic: .*bad_images=skip", {"train/ape/x.heic": b"x"})
bad_folder("folder: images beside the splits", r"1 image files would be left out \(1 \.png: each lies outside", {"x.png": picture()})
bad_folder("folder: nothing left of a class", r"train/cat: none of the 1 images of the class 'cat' can be used", {"train/cat/0.png": b""}, bad_images="skip")
bad("folder: no folders", "holds no folders", lambda place: place.put("set/x.png", picture()) and place.dataset("set"))
bad("folder: is a file", "a file; wanted a folder", lambda place: place.put("set", b"") and place.dataset("set"))
bad("folder: is not there", "no such folder or file", lambda place: place.dataset("none"))
bad("folder: is not here", "no such folder", lambda place: open_dataset(config_lib.resolve({"dataset": "./photos"})))

# .npz
bad_npz("npz: text", "cannot be read as .npz", b"hello")
bad_npz("npz: zero bytes", "cannot be read as .npz", b"")
bad_npz("npz: truncated", "cannot be read as .npz", halved(npz()))
bad_npz("npz: flipped bytes", "cannot be read as .npz .*CRC", npz(compress=zipfile.ZIP_STORED).replace(PICTURES.tobytes(), bytes(PICTURES.nbytes)))
bad_npz("npz: a .npy", r"is a single array \(\.npy\)", npy(PICTURES))
bad("npz: folder", r"x\.npz', which is a folder", lambda place: place.put("x.npz", os.mkdir) and place.dataset("x.npz"))
bad("npz: pipe", r"x\.npz', which is a pipe", lambda place: place.put("x.npz", os.mkfifo) and place.dataset("x.npz"))
bad("npz: is not there", r"none\.npz.*no such file", lambda place: place.dataset("none.npz"))
bad_npz("npz: bomb", r"unpacking its \d+ bytes would take (1024\.0 TiB|1\.0 PiB)", zip_bomb)
bad_npz("npz: absurd shape", "array 'train_images' is truncated", npz({"train_images.npy": header((10**9, 10**9, 3), "|u1")}))
bad_npz("npz: negative shape", "array 'train_images' is truncated or damaged", npz({"train_images.npy": header((-1, 6, 5, 3), "|u1")}))
bad_npz("npz: objects", "array 'train_labels' holds pickled", npz({"train_labels.npy": npy(np.array([Bomb()], object), allow_pickle=True)}))
bad_npz("npz: an array that is a pickle", "array 'train_labels' is no .npy", npz({"train_labels.npy": pickle.dumps(Bomb())}))
bad_npz("npz: twice the same array", "holds the array 'train_labels' twice", zip_twice)
bad_npz("npz: encrypted", "its array 'train_(images|labels)' is encrypted", encrypted)
bad_npz("npz: paths out of the folder", r"has the arrays \['../../../ran'", npz({"../../../ran": b"x"}, drop=("train_images", "train_labels")))
bad_npz("npz: other names", r"has the arrays \['a'\]; wanted: train_images", npz(drop=("train_images", "train_labels"), a=LABELS))
bad_npz("npz: no labels", "has 'train_images' alone", npz(drop=("train_labels",)))
bad_npz("npz: float images", r"train_images is float64 \[24, 6, 5, 3\]; wanted uint8", npz(train_images=PICTURES / 255))
bad_npz("npz: channels first", "looks like .*transpose", npz(train_images=np.zeros((N, 3, 32, 32), np.uint8)))
bad_npz("npz: no images", "has no images", npz(train_images=PICTURES[:0], train_labels=LABELS[:0]))
bad_npz("npz: float labels", r"train_labels is float64 \[24\]; wanted integers", npz(train_labels=np.where(LABELS == 1, np.nan, 0)))
bad_npz("npz: negative labels", "8 labels of the split 'train' .* are outside 0", npz(train_labels=LABELS - 1))
bad_npz("npz: labels with gaps", "'1', '3'", npz(train_labels=LABELS * 2))
bad_npz("npz: labels beyond all bounds", "train_labels has the label 18446744073709551615", npz(train_labels=LABELS.astype(np.uint64) - 1))
bad_npz("npz: a label too many", "24 train_images but 23 train_labels", npz(train_labels=LABELS[1:]))
bad_npz("npz: records for labels", "train_labels is .*; wanted integers", npz(train_labels=np.zeros(N, "i4,f4")))
bad_npz("npz: blank class name", "class_names: the class name '' is blank", npz(class_names=np.array(["a", "", "c"])))
bad_npz("npz: class name of a million letters", "class_names: .* has 1000000 characters", npz(class_names=np.array(["a", "b" * 10**6, "c"])))
bad_npz("npz: class name that is no text", "class_names holds a name that is no UTF-8", npz(class_names=np.array([b"a", b"\xff", b"c"])))
bad_npz("npz: class name of half a letter", "class_names: .* broken UTF-8", npz(class_names=np.array(["a", "\udc80", "c"])))

# Embeddings in .npy
PICKLE = npy(np.array([Bomb()], object), allow_pickle=True)
bad_import("npy: objects", r"E\.npy holds pickled Python objects, which are not loaded", {"E.npy": PICKLE})
bad_import("npy: a pickle", r"E\.npy is a pickle, which is never loaded", {"E.npy": pickle.dumps(Bomb())})
bad_import("npy: zero bytes", r"E\.npy is no \.npy file", {"E.npy": b""})
bad_import("npy: truncated", r"E\.npy is truncated or damaged", {"E.npy": halved(npy(VECTORS))})
bad_import("npy: longer than it says", r"E\.npy is too long or damaged", {"E.npy": npy(VECTORS) + bytes(16)})
bad_import("npy: absurd shape", r"E\.npy is truncated or damaged .*4294967296000085 bytes", {"E.npy": header((2**30, 10**6))})
bad_import("npy: shape that overflows", r"E\.npy is truncated", {"E.npy": header((2**62, 8), data=bytes(64))})
bad_import("npy: header of another version", r"E\.npy is truncated or damaged \(version 3\.0", {"E.npy": header((N, 4), version=3)})
bad_import("npy: header of code", r"E\.npy is truncated or damaged", {"E.npy": header("open('ran', 'w')")})
bad_import("npy: header that nests", r"E\.npy is truncated or damaged", {"E.npy": header("(" * 9000 + ")" * 9000)})
bad_import("npy: records", r"E\.npy is .* \[24\]; wanted float16", {"E.npy": npy(np.zeros(N, "f4,f4"))})
bad_import("npy: one number", r"E\.npy is float64 \[\]; wanted", {"E.npy": npy(np.float64(1))})
bad_import("npy: cube", r"E\.npy is float32 \[24, 2, 2\]", {"E.npy": npy(VECTORS.reshape(N, 2, 2))})
bad_import("npy: one row of numbers", r"E\.npy is float32 \[96\]; wanted .* \[N, d\]", {"E.npy": npy(VECTORS.ravel())})
bad_import("npy: no rows", r"E\.npy has no rows; wanted", {"E.npy": npy(VECTORS[:0])})
bad_import("npy: no columns", r"E\.npy is float32 \[24, 0\]", {"E.npy": npy(VECTORS[:, :0])})
bad_import("npy: whole numbers", r"E\.npy is int8 \[24, 4\]", {"E.npy": npy(VECTORS.astype(np.int8))})
bad_import("npy: complex numbers", r"E\.npy is complex64 \[24, 4\]", {"E.npy": npy(VECTORS.astype(np.complex64))})
bad_import("npy: bool", r"E\.npy is bool \[24, 4\]", {"E.npy": npy(VECTORS > 0)})
bad_import("npy: NaN", r"E\.npy, row 0 holds NaN", {"E.npy": npy(np.full((N, 4), np.nan))})
bad_import("npy: zeros", r"E\.npy, row 0 is a zero vector", {"E.npy": npy(VECTORS * 0)})
bad_import("npy: pipe", r"E\.npy is a pipe, not a file", {"E.npy": os.mkfifo})
bad_import("npy: name of two lines", r"--embeddings=.*E\\n\.npy: the name holds", {"E\n.npy": npy(VECTORS)})

# Labels
bad_import("labels: objects", r"Y\.npy holds pickled Python objects", {"Y.npy": PICKLE})
bad_import("labels: absurd shape", r"Y\.npy is truncated", {"Y.npy": header((10**18,), "<i8")})
bad_import("labels: a billion texts of no size", r"Y\.npy has items of no size", {"Y.npy": header((10**9,), "<U0")})
bad_import("labels: numbers that are no letters", r"Y\.npy holds a label that is no text", {"Y.npy": header((N,), "<U1", b"\xff" * 4 * N)})
bad_import("labels: too few", r"Y\.npy has 23 labels; wanted 24", {"Y.npy": npy(LABELS[1:])})
bad_import("labels: UTF-16", r"Y\.txt is no UTF-16 text \(truncated", {"Y.txt": "0\n1\n2\n".encode("utf-16") + b"0"})
bad_import("labels: UTF-16 without its mark", r"Y\.txt: line 1 holds a NUL", {"Y.txt": "0\n1\n2\n".encode("utf-16-le") * 8})
bad_import("labels: binary garbage", r"Y\.txt is no UTF-8 text", {"Y.txt": bytes(range(256))})
bad_import("labels: NUL", r"Y\.txt: line 2 holds a NUL", {"Y.txt": b"0\n\0\n1\n" * 8})
bad_import("labels: a line of a million letters", r"the label '.*' has 1000000 characters", {"Y.txt": b"a\n" * 23 + b"b" * 10**6})
bad_import("labels: thousands of digits", r"Y\.txt: .* label", {"Y.txt": b"1\n" * 23 + b"-" + b"9" * 10**5})
bad_import("labels: tabs", r"the label 'a\\t1' holds control characters", {"Y.txt": b"a\t1\n" * N})
bad_import("labels: negative", r"Y\.txt: row 0 has the label '-1'", {"Y.txt": b"-1\n" * N})
bad_import("labels: CSV with a field without end", r"Y\.csv, line \d+, cannot be read as \.csv", {"Y.csv": b'"' + b"a\n" * 10**5})
bad_import("labels: CSV with the same header twice", r"Y\.csv has 2 columns 'a'", {"Y.csv": b"a,a\n" + b"0,1\n" * N}, columns="label=a")
bad_import("labels: CSV with a short row", r"Y\.csv: line 3 has 1 values; wanted 2", {"Y.csv": b"a,b\n0,1\n2\n" + b"0,1\n" * 22}, columns="label=a")
bad_import("labels: pipe", r"--labels=.*Y\.txt, which is a pipe", {"Y.txt": os.mkfifo})
bad_import("labels: folder", r"--labels=.*Y\.txt, which is a folder", {"Y.txt": os.mkdir})
bad_import("ids: the same twice", r"I\.txt: the rows 0 and 1 have the same id", {"I.txt": b"a\n" * N}, ids="{}/I.txt")
bad_import("class names: of two", r"names\.txt: the class name 'a' is there more than once", {"names.txt": b"a\na\nb\n"}, class_names="{}/names.txt")
bad_import("class names: controls", r"names\.txt: the class name 'a\\x1b\[0m' holds control", {"names.txt": b"a\x1b[0m\nb\nc\n"}, class_names="{}/names.txt")
bad_import("import: name of two lines", r"--name=a\\nb holds control characters", {}, name="a\nb")


# fmt: on
def bad_parquet(case, said, content, **fields):
    bad_import(case, said, {"E.parquet": content}, **fields)


def as_table(embedding, label=LABELS):
    return parquet(pa.table({"embedding": embedding, "label": label}))


lists = VECTORS.tolist()
# fmt: off
# Parquet
bad_parquet("parquet: text", r"E\.parquet cannot be read as Parquet", b"hello")
bad_parquet("parquet: zero bytes", r"E\.parquet cannot be read as Parquet", b"")
bad_parquet("parquet: truncated", r"E\.parquet cannot be read as Parquet", halved(parquet()))
bad_parquet("parquet: damaged footer", r"E\.parquet cannot be read as Parquet", damaged_footer(parquet()))
bad_parquet("parquet: encrypted", r"E\.parquet cannot be read as Parquet", parquet()[:-4] + b"PARE")
bad_parquet("parquet: texts", r"column 'embedding' is string; wanted a list", as_table(["a"] * N))
bad_parquet("parquet: lists of texts", r"column 'embedding' is list<.*string>; wanted a list of float", as_table([["a"]] * N))
bad_parquet("parquet: lists of lists", r"column 'embedding' is list<.*list<", as_table([[row] for row in lists]))
bad_parquet("parquet: structs", r"column 'embedding' is struct<", as_table([{"x": 1.0}] * N))
bad_parquet("parquet: decimals", r"column 'embedding' is list<.*decimal", as_table(pa.array([[1]] * N, pa.list_(pa.decimal128(5)))))
bad_parquet("parquet: dictionary", r"column 'embedding' is dictionary<", as_table(pa.array(["a"] * N).dictionary_encode()))
bad_parquet("parquet: lists of several lengths", r"E\.parquet, row 6: column 'embedding' has 3 numbers; wanted 4", as_table([*lists[:6], [1.0] * 3, *lists[7:]]))
bad_parquet("parquet: null embedding", r"row 6: column 'embedding' is empty \(null\)", as_table([*lists[:6], None, *lists[7:]]))
bad_parquet("parquet: null number", r"row 6: .* has an empty \(null\) number", as_table([*lists[:6], [1.0, None, 1.0, 1.0], *lists[7:]]))
bad_parquet("parquet: null first", r"row 0: column 'embedding' is no list", as_table([None, *lists[1:]]))
bad_parquet("parquet: no rows", r"E\.parquet has no rows", as_table(pa.array([], pa.list_(pa.float32())), []))
bad_parquet("parquet: no such column", r"has no column 'emb'; it has \['embedding', 'label'\]", parquet(), columns="embedding=emb")
bad_parquet("parquet: the same column twice", r"has 2 columns 'embedding'", parquet(pa.table([lists, lists, LABELS], ["embedding", "embedding", "label"])))
bad_parquet("parquet: label of bytes", r"column 'label': the labels are binary", as_table(lists, pa.array([b"a"] * N)))
bad_parquet("parquet: labels missing", r"column 'label': row 0 has no label", as_table(lists, pa.nulls(N)))
bad_parquet("parquet: labels that are no UTF-8", r"column 'label' is damaged \(.*UTF-?8", as_table(lists, pa.array([b"\xff"] * N).view(pa.string())))


# fmt: on
def parts(second):
    def do(place):
        place.put("E/1.parquet", parquet())
        place.put("E/2.parquet", second)
        import_embeddings(Request(str(place.given / "E")), place.workdir)

    return do


# fmt: off
bad("parquet: parts of other dimensions", r"2\.parquet, row 0: column 'embedding' has 1 numbers; wanted 4", parts(as_table([[1.0]] * N)))
bad("parquet: parts of other labels", r"column 'label' is int64 in .*1\.parquet and large_string in .*2\.parquet; wanted texts in all", parts(as_table(lists, ["a"] * N)))
bad("parquet: parts without the column", r"2\.parquet has no column 'embedding'", parts(parquet(pa.table({"x": [1]}))))
bad("parquet: a part that is a folder", r"2\.parquet is a folder, not a file", parts(os.mkdir))
bad("parquet: a part that is a pipe", r"2\.parquet is a pipe, not a file", parts(os.mkfifo))

# Configs
bad_config("config: steps without end", "config.steps is 1000000000000000000000000000000 ", steps=10**30)
bad_config("config: steps of thousands of digits", "config.steps is a value that cannot be shown", steps=10**5000)
bad_config("config: batch_size", "config.batch_size is 1000000000000 .*wanted: a number from 1 to", batch_size=10**12)
bad_config("config: crop_area", r"config.crop_area is \(0.5, 1.1\).*up to 1", crop_area=(0.5, 1.1))
bad_config("config: crop_aspect", "config.crop_aspect is .*the second not below", crop_aspect=(2.0, 1.0))
bad_config("config: augmentation", "config.augmentation is 'cutout' .*crop_flip", augmentation="cutout")
bad_config("config: depth", "config.depth is 6000000002 ", depth=6 * 10**9 + 2)
bad_config("config: widths", r"config.widths is \(16, 32, 1000000000\)", widths=(16, 32, 10**9))
bad_config("config: trials", "config.trials is 1000000000 ", trials=10**9)
bad_config("config: seed", "config.seed is 1180591620717411303424 ", seed=2**70)
bad_config("config: negative seed", "config.seed is -1 ", seed=-1)
bad_config("config: embedding_parts", "config.embedding_parts is 1000000000000 ", embedding_parts=10**12)
bad_config("config: image_size", "config.image_size is 10000000 ", image_size=10**7)
bad_config("config: thousands of fractions", "config.fractions is .*at most 1000", fractions=tuple(n / 5000 for n in range(1, 5001)))
bad_config("config: millions of trainings", "config.trials is 10000 and config.fractions has 1000 numbers: 20010000 trainings; wanted at most 100000", trials=10_000, fractions=tuple(n / 1001 for n in range(1, 1001)))
bad_config("config: NaN", "config.lr_per_256 is nan .*finite", lr_per_256=float("nan"))
bad_config("config: infinity", "config.epochs is inf .*finite", epochs=float("inf"))
bad_config("config: a float beyond floats", "config.lr_per_256 is 1000.*range of floats", lr_per_256=10**400)
bad_config("config: text for a number", "config.steps is '10' .*a whole number", steps="10")
bad_config("config: None", "config.steps is None ", steps=None)
bad_config("config: dict", "config.steps is .*a.*1.*a whole number", steps=ml_collections.ConfigDict({"a": 1}))
bad_config("config: bytes", "config.dataset is b'x' .*a text", dataset=b"x")
bad_config("config: bool for a number", "config.steps is True .*a whole number", steps=True)
bad_config("config: number for bool", "config.nesterov is 1 .*True or False", nesterov=1)
bad_config("config: NUL in a name", r"config.dataset is 'a\\x00b' .*control characters", dataset="a\0b")
bad_config("config: two lines in a name", r"config.train_split is 'a\\nb' .*control characters", train_split="a\nb")
bad_config("config: a name without end", "config.data_dir is 'xxx.*at most 4096 characters", data_dir="x" * 10**6)
bad_config("config: bad_images", "config.bad_images is 'ignore' .*one of stop, skip", bad_images="ignore")
bad_config("config: a field that is none", "config.sudo is not a field", sudo=True)
bad("config: a field that is no name", "config.5 is not a field", lambda place: config_lib.resolve({5: 1}))
bad("config: generated set without end", "config.dataset is 'generated:1:9", lambda place: open_dataset(config_lib.resolve({"dataset": f"generated:1:{'9' * 4000}:1", "image_size": 8})))
# fmt: on

WAY_OUT = re.compile(
    r"wanted|Wanted|[Cc]hoose|[Rr]eplace|[Rr]emove|[Rr]ename|[Cc]heck|[Uu]se |[Gg]ive|[Ss]et |[Dd]elete|[Ss]ave|[Aa]dd |transpose|"
    r"[Ww]rite it again|Name the right|lists all fields"
)


def everything(root):
    """Mode, size and time of all below a folder."""
    found = {}
    for folder, folders, files in os.walk(root):
        for path in (os.path.join(folder, name) for name in (*folders, *files)):
            status = os.lstat(path)
            found[path] = (status.st_mode, status.st_size, status.st_mtime_ns if stat.S_ISREG(status.st_mode) else 0)
    return found


def check(text, said):
    """One line that says what is wrong and what to do, in words for who gave it."""
    assert re.search(said, text), text
    assert "\n" not in text
    assert text.isprintable() or "caf" in said
    assert len(text) < 3000
    assert WAY_OUT.search(text), text
    assert not re.search(r"Traceback|\bbug\b|allow_pickle", text)


@pytest.mark.parametrize(("said", "do"), BAD)
def test_bad_input_is_an_error_of_one_line(tmp_path, monkeypatch, capfd, said, do):
    place = Place(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    put, made = place.put, everything(tmp_path)

    def remember(*given):
        path = put(*given)
        made.update(everything(tmp_path))
        return path

    place.put = remember
    began = time.process_time()
    with pytest.raises(UserError) as caught:
        do(place)
    assert time.process_time() - began < 20
    check(str(caught.value), said)
    assert isinstance(caught.value, ConfigError) == bool(re.match(r"--|config\.", str(caught.value))), caught.value
    # Nothing of it was run, and nothing written: neither beside what was given nor a workdir.
    assert everything(tmp_path) == made
    assert not os.path.exists(RAN)
    assert not os.path.exists(place.workdir.root)
    assert "Warning" not in capfd.readouterr().err


def test_an_archive_larger_than_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    place = Place(tmp_path)
    pictures = np.zeros((N, 2000, 2000, 1), np.uint8)
    place.put("x.npz", npz(train_images=pictures))
    monkeypatch.setattr(machine, "available_memory", lambda: 80_000_000)
    with pytest.raises(
        UserError, match=r"x\.npz: unpacking its \d+ bytes would take 91\.6 MiB of memory, and 76\.3 MiB"
    ):
        place.dataset("x.npz")
    monkeypatch.setattr(machine, "available_memory", lambda: 0)
    place.put("small.npz", npz())
    place.dataset("small.npz")


def command_lines(place):
    w, embeddings = ("--workdir", place.workdir.root), f"--embeddings={place.put('E.npy', npy(VECTORS))}"
    place.put("set/train/ape/0.png", picture())
    place.put("set/train/bee/0.png", b"")
    train = ("train", "--config", f"configs/folder.py:{place.given}/set", *w)
    labels = place.put("Y.npy", PICKLE)
    yield 1, r"set/train/bee/0\.png is empty", train
    yield 1, r"Y\.npy holds pickled Python objects", ("import", *w, embeddings, f"--labels={labels}")
    yield 2, "--labels=none.txt: there is no such file", ("import", *w, embeddings, "--labels=none.txt")
    yield 2, "config.steps is 1000000000000000000000000000000 ", (*train, f"--config.steps={10**30}")
    yield 2, "config.trials", (*train, "--config.trials=nan")
    yield 2, "config.bad_images is 'yes'", (*train, "--config.bad_images=yes")


@pytest.mark.soak
def test_the_command_line_prints_the_same_errors(tmp_path, redundancy):
    place = Place(tmp_path)
    for code, said, args in command_lines(place):
        result = redundancy(*args)
        assert result.returncode == code, result.stderr
        (line,) = [line for line in result.stderr.splitlines() if "error: " in line]
        check(line, said)
        assert "Traceback" not in result.stderr + result.stdout
        if "bee" in said:  # before any work
            assert sorted(os.listdir(place.workdir.root)) == ["config.json", "last_error.json"]
