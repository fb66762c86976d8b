import hashlib
import io
import logging
import os
import pathlib
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from redundancy import config
from redundancy.data import images, open_dataset
from redundancy.data.dataset import labels_sha256
from redundancy.runtime.errors import ConfigError, DataError

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared"


def write(path, size=(12, 10), mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3)
    image = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(image).convert(mode).save(path)


def open_images(path, **fields):
    return open_dataset(config.resolve({"dataset": str(path), **fields}))


@pytest.fixture
def tree(tmp_path):
    """Two splits, two classes, three images each of one size."""
    for split in ("train", "val"):
        for name in ("cat", "ape"):
            for i in range(3):
                write(tmp_path / "pets" / split / name / f"{i}.png", seed=i)
    return tmp_path / "pets"


def test_layout_with_splits(tree):
    data = open_images(tree)
    assert data.class_names == ("ape", "cat")
    assert (data.train.stored, data.test.stored) == ("train", "val")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.image_shape == (10, 12, 3)
    expected = np.asarray(Image.open(tree / "train" / "cat" / "1.png"))
    assert np.array_equal(data.read("train", [4])[0], expected)


def test_layout_without_splits(tree):
    data = open_images(tree / "train", holdout=0.34)
    assert data.fingerprint["name"] == "train"
    assert data.fingerprint["shard_lengths"] == [6]
    assert len(data.test.positions) == 2


def test_streamed_equals_resident(tree):
    resident, streaming = open_images(tree, image_size=8), open_images(tree, image_size=8, resident_mb=0)
    assert (resident.resident, streaming.resident) == (True, False)
    one, other = (data.stream("train", [0, 2, 3, 5], 3, seed=(1,), start_step=2) for data in (resident, streaming))
    for _ in range(4):
        for first, second in zip(next(one), next(other), strict=True):
            assert np.array_equal(first, second)


def test_varied_sizes_need_image_size(tree):
    write(tree / "train" / "ape" / "wide.JPEG", (300, 40))
    write(tree / "train" / "ape" / "grey.bmp", (20, 30), mode="L")
    write(tree / "train" / "ape" / "animation.gif", (20, 30), mode="P")
    with pytest.raises(ConfigError, match=r"image_size.*differ"):
        open_images(tree)
    data = open_images(tree, image_size=16)
    assert data.read("train", data.train.positions).shape == (9, 16, 16, 3)


def test_file_that_goes_bad_later_is_named(tree):
    data = open_images(tree, resident_mb=0)
    (tree / "train" / "ape" / "2.png").write_bytes(b"gone")
    with pytest.raises(DataError, match=r"2\.png"):
        list(data.stream("train", data.train.positions, 4))


def test_other_files_are_ignored_with_a_warning(tree, caplog):
    (tree / "train" / "ape" / "notes.txt").write_text("x")
    with caplog.at_level(logging.WARNING, "absl"):
        data = open_images(tree)
    assert len(data.train.positions) == 6
    assert "1 files" in caplog.text
    assert "notes.txt" in caplog.text


def test_fingerprint_follows_files_not_place(tree):
    before = open_images(tree).fingerprint
    moved = tree.parent / "elsewhere"
    moved.mkdir()
    tree.rename(moved / "pets")
    assert open_images(moved / "pets").fingerprint == before
    write(moved / "pets" / "train" / "ape" / "more.png")
    assert open_images(moved / "pets").fingerprint != before


@pytest.mark.skipif(not (SHARED / "data" / "photos.tar").exists(), reason="no photos.tar")
def test_photographs(tmp_path):
    import tarfile

    with tarfile.open(SHARED / "data" / "photos.tar") as tar:
        members = [m for m in tar.getmembers() if m.name.startswith("imagenette/") and m.isfile()]
        tar.extractall(tmp_path, members[::10], filter="data")
    data = open_images(tmp_path / "imagenette", image_size=32)
    assert len(data.class_names) == 10
    pictures = data.read("train", data.train.positions)
    assert pictures.shape[1:] == (32, 32, 3)
    assert 60 < pictures.mean() < 180


# Files that cannot be decoded


@pytest.fixture
def broken(tree):
    """Two bad files in train, one in val; all files are an hour old."""
    (tree / "train" / "ape" / "1.png").write_bytes(b"")
    (tree / "train" / "cat" / "0.png").write_text("words")
    (tree / "val" / "cat" / "2.png").unlink()
    (tree / "val" / "cat" / "2.png").symlink_to("nowhere")
    settle(tree)
    return tree


def settle(folder):
    for path in folder.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (time.time() - 3600,) * 2)


def test_bad_images_are_left_out_before_positions_are_given(broken, caplog):
    with pytest.raises(DataError, match=r"3 of 12 image files cannot be used; .*bad_images=skip") as error:
        open_images(broken)
    assert all(name in str(error.value) for name in ("ape/1.png", "cat/0.png", "cat/2.png"))
    data = open_images(broken, bad_images="skip")
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1]
    assert data.skipped == (
        ("train/ape/1.png", "is empty (0 bytes)"),
        ("train/cat/0.png", f"cannot be identified as {images.FORMAT_NAMES} (it begins with b'words')"),
        ("val/cat/2.png", "is a symbolic link to 'nowhere', which cannot be followed (No such file or directory)"),
    )
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{broken}: 3 of 12 image files are left out, as config.bad_images says:",
        *(f"  {name} {reason}" for name, reason in data.skipped),
    ]
    for position, name in enumerate(("ape/0.png", "ape/2.png", "cat/1.png", "cat/2.png")):
        pixels = np.asarray(Image.open(broken / "train" / name))
        assert np.array_equal(data.read("train", [position])[0], pixels)
    for number in range(20):
        (broken / "train" / "cat" / f"empty{number}.png").touch()
    with pytest.raises(DataError, match="and 13 more"):
        open_images(broken)
    caplog.clear()
    assert len(open_images(broken, bad_images="skip").skipped) == 23
    assert caplog.records[-1].getMessage() == "  and 13 more"
    assert len(caplog.records) < 20


def test_the_fingerprint_tells_what_was_left_out(broken):
    some = open_images(broken, bad_images="skip").fingerprint
    assert some["skipped"]["files"] == 3
    assert open_images(broken, bad_images="skip").fingerprint == some
    (broken / "train" / "ape" / "1.png").unlink()
    fewer = open_images(broken, bad_images="skip").fingerprint
    assert fewer != some
    assert fewer["sha256"] == some["sha256"]
    for name in ("train/cat/0.png", "val/cat/2.png"):
        (broken / name).unlink()
    none = open_images(broken, bad_images="skip").fingerprint
    assert "skipped" not in none
    assert none == open_images(broken).fingerprint
    assert {key: value for key, value in fewer.items() if key != "skipped"} == none
    # A folder without bad files has the fingerprint that earlier workdirs recorded.
    every = sorted(path for path in broken.rglob("*.png"))
    lines = "".join(f"{path.relative_to(broken)}, {path.stat().st_size}\n" for path in every)
    assert none == {
        "name": "pets", "sha256": hashlib.sha256(lines.encode()).hexdigest(), "split": "train", "shard_lengths": [4],
        "test_split": "val", "test_shard_lengths": [5], "labels_sha256": labels_sha256(np.array([0, 0, 1, 1])),
    }  # fmt: skip


def test_what_is_bad_is_remembered_for_stop_and_skip_alike(broken, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checked, unpatched = [], images.check
    monkeypatch.setattr(images, "check", lambda path: checked.append(path) or unpatched(path))
    said = []
    for bad_images in ("stop", "skip", "stop", "skip"):
        if bad_images == "skip":
            said.append(open_images(broken, bad_images="skip").skipped)
        else:
            with pytest.raises(DataError) as caught:
                open_images(broken)
            said.append(str(caught.value))
        assert len(checked) == 11  # not the link that leads nowhere
    assert said[:2] == said[2:]
    write(broken / "train" / "ape" / "1.png")
    assert len(open_images(broken, bad_images="skip").skipped) == 2
    assert len(checked) == 22


def test_a_class_of_which_nothing_is_left_is_an_error(broken):
    for number in range(3):
        (broken / "val" / "ape" / f"{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"val/ape: none of the 3 images of the class 'ape' .*0\.png is empty"):
        open_images(broken, bad_images="skip")
    for path in broken.rglob("*.png"):
        if not path.is_symlink():
            path.write_bytes(b"")
    with pytest.raises(DataError, match="train/ape: none of the 3 images"):
        open_images(broken, bad_images="skip")


def test_a_fault_of_the_machine_skips_nothing(tree, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Image, "open", fail)
    for bad_images in ("stop", "skip"):
        with pytest.raises(DataError, match=r"0\.png cannot be read \(Input/output error\), a fault of this machine"):
            open_images(tree, bad_images=bad_images)


def test_nothing_but_regular_files_is_opened(tree):
    folder = tree / "train" / "ape"
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to("loop.png")
    (tree / "train" / "loop").symlink_to("loop")
    (folder / "fine.png").symlink_to("../cat/0.png")
    (tree / "train" / "linked").symlink_to("cat")
    data = open_images(tree, bad_images="skip")
    assert [reason for _, reason in data.skipped] == [
        "is a device, not a file",
        "is a folder, not a file",
        "is a symbolic link to 'loop.png', which cannot be followed (Too many levels of symbolic links)",
        "is a pipe, not a file",
        "is a link to what is not there",
    ]
    assert data.class_names == ("ape", "cat", "linked")
    assert np.bincount(data.train.labels).tolist() == [4, 3, 3]


def test_names_that_cannot_be_shown(tree, caplog):
    for name in (
        "line\nbreak.png",
        "\x1b[31mred.png",
        "-rf.png",
        "<b>&.png",
        "é.png",
        "e\u0301.png",
        "x" * 251 + ".png",
    ):
        write(tree / "train" / "ape" / name)
    (tree / "train" / "ape" / "bad\nname.png").touch()
    with open(os.fsencode(tree / "train" / "ape") + b"/caf\xe9.png", "wb"):
        pass
    data = open_images(tree, bad_images="skip")
    assert len(data.train.positions) == 13
    assert [name for name, _ in data.skipped] == ["train/ape/bad\\nname.png", "train/ape/caf\\udce9.png"]
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_class_names_of_all_kinds(tree):
    names = ("Cat", "<script>", "'quo\"tes'", "é", "e\u0301", "猫", "👩\u200d🔬", "-f", "a" * 255)
    for name in names:
        write(tree / "train" / name / "0.png")
    assert open_images(tree).class_names == tuple(sorted((*names, "ape", "cat")))


def cmyk(adobe):
    """A CMYK JPEG as Adobe writes it, with inverted numbers, or of the same numbers without Adobe's marker."""
    buffer = io.BytesIO()
    ink = np.full((16, 16, 4), (255, 64, 0, 32), np.uint8)
    Image.fromarray(ink if adobe else 255 - ink, "CMYK").save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    if adobe:
        return data
    marker = data.index(b"\xff\xee")
    return data[:marker] + data[marker + 2 + struct.unpack(">H", data[marker + 2 : marker + 4])[0] :]


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk(tmp_path, adobe):
    (tmp_path / "ink.jpg").write_bytes(cmyk(adobe))
    assert images.check(str(tmp_path / "ink.jpg")) == ((16, 16), "")
    wanted = [0, (255 - 64) * (255 - 32) / 255, 255 - 32]
    assert np.abs(images.decode(str(tmp_path / "ink.jpg"), 0) - np.array(wanted)).max() < 5


@pytest.mark.parametrize(
    "kind", ["1.png", "1.bmp", "L.jpg", "LA.png", "RGBA.png", "RGBA.bmp", "P.png", "P.gif", "apng", "gif"]
)
def test_modes_become_rgb(tmp_path, kind):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8))
    other = image.transpose(Image.Transpose.ROTATE_180)
    mode, _, extension = kind.rpartition(".")
    path = tmp_path / f"x.{extension or kind}".replace("apng", "png")
    if not mode:  # an animation, of which the first frame counts
        image = image.quantize(256) if kind == "gif" else image
        image.save(path, save_all=True, append_images=[other] * 3)
    else:
        image = image.quantize(16) if mode == "P" else image.convert(mode)
        image.save(path, **({"transparency": 3} if mode == "P" else {}))
    wanted = np.asarray(image.convert("RGB"))
    if extension == "jpg":
        wanted = np.asarray(Image.open(path).convert("RGB"))
    assert images.check(str(path)) == ((11, 9), "")
    assert np.array_equal(images.decode(str(path), 0), wanted)
    assert images.decode(str(path), 4).shape == (4, 4, 3)


def test_warnings_of_pillow_are_not_passed_on(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)).quantize(16)
    path = str(tmp_path / "palette.png")
    image.save(path, transparency=bytes(range(16)))
    script = f"from redundancy.data import images; print(images.check({path!r}), images.decode({path!r}, 4).shape)"
    done = subprocess.run([sys.executable, "-W", "always", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "((11, 9), '') (4, 4, 3)\n"
    assert "Palette" not in done.stderr
