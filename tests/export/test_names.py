"""Images keep their names: in the workdir, in every format, and as a folder of links or copies."""

import csv
import dataclasses
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from redundancy import config as config_lib
from redundancy.data import open_dataset
from redundancy.export.command import export
from redundancy.export.request import Request
from redundancy.runtime.errors import ConfigError, DataError
from redundancy.selection.subset import read_subset

PLAIN = [f"{number}.png" for number in range(16)]
TEXTS = ["a, b.png", '"quoted".png', "größe é 写真.png", " spaces .png", "=1+1.png"]
BREAKS = ["line\nbreak.png", "return\rhere.png"]
BYTES = [os.fsdecode(b"caf\xe9.png")]


@pytest.fixture
def photos(tmp_path, selected_from):
    """A folder of images of two classes with these names beside PLAIN, and a workdir with a subset of it."""

    def make(names=(), classes=("cat", "dog")):
        rng = np.random.default_rng(0)
        for name in [os.path.join(of, name) for of in classes for name in (*PLAIN, *names)]:
            path = tmp_path / "photos" / "train" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (9, 9, 3)).astype(np.uint8)).save(path)
        config = config_lib.resolve(
            {"dataset": str(tmp_path / "photos"), "fractions": (0.8, 0.5), "trials": 1, "test_split": ""}
        )
        dataset = open_dataset(config)
        workdir = selected_from(rng.normal(size=(len(dataset.train.labels), 3)), dataset.train.labels, config)
        subset = read_subset(workdir.subset("semantic-0.8000"))
        return workdir, dataset.file_names("train", subset.kept_positions), subset

    return make


def exported(tmp_path, workdir, form, **fields):
    path = tmp_path / f"out-{form}-{len(list(tmp_path.iterdir()))}"
    export(Request(0.8, form, str(path), **fields), workdir)
    return path


@pytest.mark.parametrize("odd", [TEXTS, TEXTS + BREAKS, TEXTS + BREAKS + BYTES], ids=["texts", "breaks", "bytes"])
def test_each_format_has_each_name(photos, tmp_path, odd):
    workdir, kept, subset = photos(odd)
    assert len(kept) == subset.kept.sum() > 20
    raw = [os.fsencode(name) for name in kept]
    if odd is TEXTS:
        assert exported(tmp_path, workdir, "txt").read_bytes() == b"".join(name + b"\n" for name in raw)
        assert exported(tmp_path, workdir, "npy", image_ids="position")
    else:
        broken = {name for name in kept if "\n" in name or "\r" in name}
        if broken:
            with pytest.raises(ConfigError, match=r"line breaks, for example .*--null"):
                exported(tmp_path, workdir, "txt")
    assert exported(tmp_path, workdir, "txt", null=True).read_bytes().split(b"\0")[:-1] == raw
    array = np.load(exported(tmp_path, workdir, "npy"))
    assert [os.fsencode(name) if isinstance(name, str) else name for name in array.tolist()] == raw
    numbers = np.load(exported(tmp_path, workdir, "npy", image_ids="position"))
    assert np.array_equal(numbers, subset.kept_positions)
    for form in ("parquet", "groups-parquet"):
        table = pq.read_table(exported(tmp_path, workdir, form))
        found = table.filter(table["kept"])["id"].to_pylist()
        assert [os.fsencode(name) if isinstance(name, str) else name for name in found] == raw
    for form in ("csv", "groups-csv"):
        with open(exported(tmp_path, workdir, form), newline="", errors="surrogateescape", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [os.fsencode(row["id"]) for row in rows if row["kept"] == "true"] == raw
    folder = exported(tmp_path, workdir, "folder")
    found = {
        os.fsencode(os.path.relpath(os.path.join(at, name), folder))
        for at, _, names in os.walk(folder)
        for name in names
    }
    assert found == {name.removeprefix(b"train/") for name in raw}


@pytest.mark.parametrize("link", ["symlink", "hard", "copy"])
def test_a_folder_of_kept_and_one_of_dropped_images(photos, tmp_path, link):
    workdir, kept, subset = photos()
    here, away = (exported(tmp_path, workdir, "folder", link=link, dropped=dropped) for dropped in (False, True))
    files = [{str(path.relative_to(root)) for path in root.rglob("*.png")} for root in (here, away)]
    assert files[0] == {name.removeprefix("train/") for name in kept}
    assert len(files[1]) == (~subset.kept).sum() > 0
    assert not files[0] & files[1]
    for name in files[0]:
        source, made = tmp_path / "photos" / "train" / name, here / name
        assert made.read_bytes() == source.read_bytes()
        assert made.is_symlink() == (link == "symlink")
        assert made.samefile(source) == (link != "copy")
    # It is a data set again.
    again = config_lib.resolve({"dataset": str(here), "test_split": ""})
    assert {f"{name}" for name in open_dataset(again).class_names} == {"cat", "dog"}


def test_files_that_are_there_stay(photos, tmp_path):
    workdir, kept, _ = photos()
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.mkdir()
    empty.mkdir()
    (full / "mine.txt").write_text("mine")
    request = Request(0.8, "folder", str(full))
    with pytest.raises(ConfigError, match="is there already"):
        export(request, workdir)
    with pytest.raises(ConfigError, match="never writes over"):
        export(dataclasses.replace(request, overwrite=True), workdir)
    with pytest.raises(ConfigError, match="is there already"):
        export(dataclasses.replace(request, output=str(full / "mine.txt")), workdir)
    assert [path.name for path in full.iterdir()] == ["mine.txt"]
    export(dataclasses.replace(request, output=str(empty)), workdir)
    assert len([*empty.rglob("*.png")]) == len(kept)
    (tmp_path / "photos" / kept[0]).unlink()
    with pytest.raises(DataError, match=r"1 of .* files are not there, for example"):
        export(dataclasses.replace(request, output=str(tmp_path / "third")), workdir)
    assert not (tmp_path / "third").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_images_that_lie_elsewhere(photos, tmp_path):
    workdir, kept, _ = photos()
    (tmp_path / "photos").rename(tmp_path / "moved")
    request = Request(0.8, "folder", str(tmp_path / "kept"))
    with pytest.raises(ConfigError, match=r"is no folder.*--images"):
        export(request, workdir)
    export(dataclasses.replace(request, images=str(tmp_path / "moved")), workdir)
    assert len([path for path in (tmp_path / "kept").rglob("*.png") if path.exists()]) == len(kept)


def test_imported_names_become_a_folder(tmp_path, selected_from):
    """The same base name in two folders, and a path that would lead out of the new folder."""
    names = [f"{'ab'[row % 2]}/{row // 2}.bin" for row in range(20)] + ["../up.bin", "/abs/x.bin"]
    root = tmp_path / "root"
    for name in names[:20]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (tmp_path / "up.bin").write_text("up")
    names[21] = str(tmp_path / "abs.bin")
    (tmp_path / "abs.bin").write_text("abs")
    (tmp_path / "I.txt").write_text("".join(f"{name}\n" for name in names))
    config = config_lib.resolve({"dataset": "", "fractions": (1.0, 0.5)})
    embeddings = np.random.default_rng(0).normal(size=(22, 3))
    workdir = selected_from(embeddings, np.zeros(22, int), config, ids=str(tmp_path / "I.txt"))
    with pytest.raises(ConfigError, match="--images"):
        export(Request(1.0, "folder", str(tmp_path / "kept")), workdir)
    export(Request(1.0, "folder", str(tmp_path / "kept"), images=str(root)), workdir)
    made = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert sorted(path.read_text() for path in made) == sorted([*names[:20], "up", "abs"])


def test_images_without_files_are_no_folder(tmp_path, selected):
    _, workdir = selected
    with pytest.raises(ConfigError, match="these have none"):
        export(Request(0.9, "folder", str(tmp_path / "kept")), workdir)
    assert not (tmp_path / "kept").exists()


def test_a_folder_is_not_made_among_the_images(photos, tmp_path):
    workdir, _, _ = photos()
    with pytest.raises(ConfigError, match="lies in the folder of images"):
        export(Request(0.8, "folder", str(tmp_path / "photos" / "kept")), workdir)
    assert not (tmp_path / "photos" / "kept").exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(ConfigError, match="is there already"):
        export(Request(0.8, "folder", str(tmp_path / "link")), workdir)


def test_a_class_named_as_its_split(photos, tmp_path):
    workdir, kept, _ = photos(classes=("train", "cat"))
    folder = exported(tmp_path, workdir, "folder")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.png")} == {
        name.removeprefix("train/") for name in kept
    }
