"""Folders of images as people have them: kinds of files, subfolders, names of splits, what systems put beside images."""

import logging
import os

import numpy as np
import pytest
from PIL import Image

from redundancy import config
from redundancy.data import images, layout, open_dataset, split_names
from redundancy.runtime.errors import DataError


def pixels(seed, size=(12, 10)):
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)


def write(path, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path, **options)


def open_images(path, **fields):
    return open_dataset(config.resolve({"dataset": str(path), **fields}))


def names(data, split="train"):
    return data.file_names(split, (data.train if split == "train" else data.test).positions)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def pets(tmp_path):
    """Three images of each of two classes, and no splits."""
    for seed, name in enumerate(("ape", "cat")):
        for number in range(3):
            write(tmp_path / "pets" / name / f"{number}.png", 10 * seed + number)
    return tmp_path / "pets"


@pytest.fixture
def split_pets(pets):
    """The same below train/."""
    (pets.parent / "split").mkdir()
    pets.rename(pets.parent / "split" / "train")
    return pets.parent / "split"


LOSSLESS = {
    ".png": {}, ".bmp": {}, ".webp": {"lossless": True}, ".tif": {}, ".tiff": {"compression": "tiff_lzw"}, ".ppm": {},
    ".jp2": {}, ".tga": {}, ".apng": {"format": "PNG"}, ".TIF": {}, ".dib": {"format": "DIB"},
}  # fmt: skip


@pytest.mark.parametrize("ending", LOSSLESS)
def test_kinds_that_are_read_as_they_are(pets, ending):
    write(pets / "cat" / f"more{ending}", 99, **LOSSLESS[ending])
    data = open_images(pets, test_split="", holdout=0.2)
    assert f"cat/more{ending}" in [*names(data), *names(data, "test")]
    position = sorted([*names(data), *names(data, "test")]).index(f"cat/more{ending}")
    assert np.array_equal(data._read(data.train, np.array([position]))[0], pixels(99))


@pytest.mark.parametrize("ending", [".jfif", ".jpe", ".JFIF", ".avif", ".webp", ".gif", ".jpeg", ".mpo"])
def test_kinds_that_lose_a_little(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    smooth = np.broadcast_to(np.linspace(20, 220, 32, dtype=np.uint8)[:, None, None], (32, 32, 3))
    Image.fromarray(np.ascontiguousarray(smooth)).save(path, **({"format": "JPEG"} if "j" in ending.lower() else {}))
    assert images.check(str(path)) == ((32, 32), "")
    assert np.abs(images.decode(str(path), 0).astype(int) - smooth).max() < 8


def test_a_tiff_of_inks_is_not_taken_for_one_of_adobes(tmp_path):
    Image.fromarray(np.full((16, 16, 4), (0, 191, 255, 223), np.uint8), "CMYK").save(tmp_path / "ink.tif")
    wanted = [32, 64 * 32 / 255, 0]
    assert np.abs(images.decode(str(tmp_path / "ink.tif"), 0) - np.array(wanted)).max() < 2


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_more_than_eight_bits_are_refused(tmp_path, mode):
    Image.fromarray(np.ones((8, 8), {"I;16": np.uint16, "F": np.float32}[mode])).save(tmp_path / "deep.tif")
    assert images.check(str(tmp_path / "deep.tif")) == (None, f"has pixels of mode {mode}; wanted 8 bits a channel")


def test_image_files_that_would_be_left_out_stop(pets, caplog):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0"
    for name in ("ape/a.heic", "ape/b.HEIC", "cat/c.svg"):
        (pets / name).write_bytes(heic)
    write(pets / "cat" / "photo.jpg_large", format="JPEG")
    write(pets / "cat" / "0003", format="PNG")
    write(pets / "loose.jpg")
    (pets / "cat" / "notes.txt").write_text("x")
    (pets / "README").write_text("x")
    with pytest.raises(DataError) as error:
        open_images(pets)
    message = str(error.value)
    assert f"{pets}: 6 image files would be left out; " in message
    assert "2 .heic, 1 .svg: each is of a kind that is not read" in message
    assert "1 .jpg: each lies outside of the class folders" in message
    assert "1 .jpg_large" in message
    assert "1 without an ending" in message
    assert "--config.bad_images=skip" in message
    caplog.clear()
    data = open_images(pets, bad_images="skip")
    assert data.fingerprint["shard_lengths"] == [6]
    assert "skipped" not in data.fingerprint
    assert sorted(name for name, _ in data.skipped) == [
        "ape/a.heic", "ape/b.HEIC", "cat/0003", "cat/c.svg", "cat/photo.jpg_large", "loose.jpg",
    ]  # fmt: skip
    said = "\n".join(warnings(caplog))
    assert "6 of 12 image files are left out" in said
    assert "1 files are not images by their names and are ignored: 1 .txt" in said


@pytest.mark.parametrize("place", ["", "train", "test"])
def test_loose_images_beside_classes_and_splits(split_pets, place):
    write(split_pets / "test" / "cat" / "0.png")
    write(split_pets / place / "loose.webp")
    with pytest.raises(DataError, match=r"1 image files would be left out \(1 \.webp: each lies outside"):
        open_images(split_pets)
    assert len(open_images(split_pets, bad_images="skip").train.positions) == 6


def test_left_out_and_damaged_images_are_listed_together(pets):
    (pets / "ape" / "0.png").write_bytes(b"")
    (pets / "ape" / "x.heif").write_bytes(b"x")
    data = open_images(pets, bad_images="skip")
    assert [name for name, _ in data.skipped] == ["ape/0.png", "ape/x.heif"]
    assert data.fingerprint["skipped"]["files"] == 1


def test_a_class_of_kinds_that_are_not_read_is_an_error(pets):
    for number in range(2):
        (pets / "bat").mkdir(exist_ok=True)
        (pets / "bat" / f"{number}.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"bat: no image in this class folder \(2 \.heic\)"):
        open_images(pets)


def test_subfolders_of_a_class_are_that_class(pets, caplog):
    plain = open_images(pets).fingerprint
    write(pets / "cat" / "indoor" / "sofa" / "0.png", 50)
    write(pets / "cat" / "a" / "9.png", 51)
    write(pets / "ape" / "z" / "0.webp", 52, lossless=True)
    (pets / "ape" / "notes").mkdir()
    (pets / "ape" / "notes" / "x.txt").write_text("x")
    caplog.set_level(logging.INFO, "absl")
    found, labels = layout.list_train(str(pets), str(pets), ("ape", "cat"))
    assert found.images == [
        "ape/0.png", "ape/1.png", "ape/2.png", "ape/z/0.webp",
        "cat/0.png", "cat/1.png", "cat/2.png", "cat/a/9.png", "cat/indoor/sofa/0.png",
    ]  # fmt: skip
    assert labels.tolist() == [0] * 4 + [1] * 5
    assert found.others == ["ape/notes/x.txt"]
    assert "3 images lie in subfolders of class folders" in caplog.text
    data = open_images(pets)
    assert data.fingerprint["shard_lengths"] == [9]
    assert data.class_names == ("ape", "cat")
    assert np.array_equal(data._read(data.train, np.array([8]))[0], pixels(50))
    assert plain["shard_lengths"] == [6]


def test_links_that_lead_back_are_followed_once(pets):
    (pets / "cat" / "again").symlink_to("..")
    (pets / "cat" / "self").symlink_to(".")
    (pets / "ape" / "other").symlink_to("../cat")
    found, labels = layout.list_train(str(pets), str(pets), ("ape", "cat"))
    assert [name for name in found.images if name.startswith("cat/")] == ["cat/0.png", "cat/1.png", "cat/2.png"]
    assert [name for name in found.images if "other" in name] == [f"ape/other/{number}.png" for number in range(3)]
    assert len(labels) == len(found.images)


CLUTTER = (
    "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", ".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/cat/._0.png", ".hidden/0.png",
    "._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".thumbnails/x.jpg", "#recycle/old.png", "lost+found/x.png",
)  # fmt: skip


@pytest.mark.parametrize("layer", ["", "train", "train/cat", "test", "test/ape"])
def test_what_systems_put_beside_images_is_nothing(split_pets, layer, caplog):
    for name in ("ape", "cat"):
        write(split_pets / "test" / name / "0.png")
    before = open_images(split_pets)
    for clutter in CLUTTER:
        path = split_pets / layer / clutter
        if path.suffix in (".png", ".jpg"):
            write(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    (split_pets / layer / "._1.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    caplog.clear()
    data = open_images(split_pets)
    assert data.fingerprint == before.fingerprint
    assert data.class_names == ("ape", "cat")
    assert names(data) == names(before)
    assert data.skipped == ()
    assert warnings(caplog) == []


def test_clutter_beside_classes_without_splits(pets):
    before = open_images(pets).fingerprint
    write(pets / "@eaDir" / "cat" / "x.jpg")
    write(pets / "__MACOSX" / "pets" / "cat" / "._0.png")
    write(pets / ".ipynb_checkpoints" / "0.png")
    write(pets / "cat" / "@eaDir" / "0.png" / "SYNOPHOTO_THUMB_XL.jpg")
    assert open_images(pets).fingerprint == before


# Splits


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "valid"), ("Train", "Test"), ("TRAIN", "VAL"), ("training", "testing"), ("Training", "Validation"),
        ("train_set", "test_set"), ("trainset", "valset"), ("train2017", "val2017"), ("training_data", "dev"),
        ("Train Images", "Test Images"), ("training-set", "eval"), ("1_train", "2_test"), ("images_train", "images_test"),
    ],
)  # fmt: skip
def test_splits_as_people_name_them(pets, train, test):
    root = pets.parent / "set"
    root.mkdir()
    pets.rename(root / train)
    write(root / test / "cat" / "7.png", 7)
    data = open_images(root)
    assert (data.train.stored, data.test.stored) == (train, test)
    assert data.class_names == ("ape", "cat")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [1]
    assert names(data, "test") == [f"{test}/cat/7.png"]
    assert np.array_equal(data.read("test", [0])[0], pixels(7))


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train", "train"), ("Valid", "validation"), ("tests", "test"), ("test1", "test"), ("ValidationSet", "validation"),
        ("trainee", None), ("trains", None), ("testudo", None), ("valley", None), ("device", None), ("images", None),
        ("evaluating", None), ("contest", None), ("data", None), ("12", None), ("protest", None), ("validity", None),
    ],
)  # fmt: skip
def test_roles(name, role):
    assert split_names.role(name) == role


def test_the_likeliest_split_is_tried_first(split_pets):
    for name in ("valid", "val", "validation", "Testing", "test"):
        write(split_pets / name / "cat" / "0.png")
    stored = []
    while (data := open_images(split_pets)).test.stored != "train":
        stored.append(data.test.stored)
        os.rename(split_pets / data.test.stored, split_pets / f"x{len(stored)}")
    assert stored == ["test", "Testing", "validation", "val", "valid"]


def test_a_config_may_name_a_split_by_its_usual_name_or_its_own(split_pets):
    (split_pets / "train").rename(split_pets / "Training")
    for name in ("Testing", "valid", "fold_2"):
        write(split_pets / name / "cat" / "0.png")
    assert open_images(split_pets, train_split="train", test_split="validation").test.stored == "valid"
    assert open_images(split_pets, train_split="training", test_split="test").test.stored == "Testing"
    assert open_images(split_pets, train_split="Training", test_split="fold_2").test.stored == "fold_2"


@pytest.mark.parametrize("folders", [("seg_train", "seg_test"), ("fold_1", "fold_2"), ("test", "cats"), ("val", "dev")])
def test_folders_that_look_like_splits_and_are_not_known(tmp_path, folders):
    for name in folders:
        for class_name in ("ape", "cat"):
            for number in range(2):
                write(tmp_path / "set" / name / class_name / f"{number}.png")
    with pytest.raises(DataError, match=r"looks? like (a )?splits?, but none .*train or training, test or testing"):
        open_images(tmp_path / "set")
    data = open_images(tmp_path / "set", train_split=folders[0], test_split=folders[1])
    assert (data.train.stored, data.test.stored, len(data.train.positions)) == (*folders, 4)


def test_two_folders_for_training_are_asked_about(split_pets):
    (split_pets / "train").rename(split_pets / "train_1")
    write(split_pets / "train_2" / "cat" / "0.png")
    with pytest.raises(DataError, match=r"train_1, train_2 may each be the split .*--config\.train_split=train_1"):
        open_images(split_pets)
    assert len(open_images(split_pets, train_split="train_1", test_split="").train.positions) == 4


def test_classes_called_like_splits_are_classes(pets):
    for number in range(3):
        for name in ("Test", "Training shoes", "dev"):
            write(pets / name / f"{number}.png")
    assert open_images(pets).class_names == ("Test", "Training shoes", "ape", "cat", "dev")


def test_a_folder_around_the_folders_is_named(pets, split_pets):
    around = split_pets.parent / "around"
    (around / "inner").mkdir(parents=True)
    split_pets.rename(around / "inner" / "set")
    write(around / "inner" / "set" / "val" / "cat" / "0.png")
    with pytest.raises(DataError, match=r"the 2 folders train, val; .*Give .*around/inner/set as the data set"):
        open_images(around)
    (around / "inner" / "set" / "train").rename(around / "inner" / "set" / "x")
    (around / "inner" / "set" / "train").mkdir()
    (around / "inner" / "set" / "x").rename(around / "inner" / "set" / "train" / "train")
    with pytest.raises(DataError, match=r"the 2 folders ape, cat; .*Move them up to .*set/train;"):
        open_images(around / "inner" / "set")


def test_splits_inside_of_classes_are_named(tmp_path):
    for name in ("ape", "cat"):
        for split in ("train", "test"):
            write(tmp_path / "set" / name / split / "0.png")
    with pytest.raises(
        DataError, match=r"ape holds the folders train and test, which look like splits inside of a class"
    ):
        open_images(tmp_path / "set")


# Splits without labels


@pytest.fixture
def tiny(tmp_path):
    """Tiny ImageNet as it comes, with two classes."""
    root = tmp_path / "tiny-imagenet-200"
    for label, name in enumerate(("n01443537", "n02124075")):
        for number in range(5):
            write(root / "train" / name / "images" / f"{name}_{number}.JPEG", 10 * label + number)
        (root / "train" / name / f"{name}_boxes.txt").write_text(
            "".join(f"{name}_{i}.JPEG\t0\t0\t9\t9\n" for i in range(5))
        )
    for number in range(4):
        write(root / "val" / "images" / f"val_{number}.JPEG", 100 + number)
        write(root / "test" / "images" / f"test_{number}.JPEG", 200 + number)
    lines = [f"val_{i}.JPEG\t{('n02124075', 'n01443537')[i // 3]}\t0\t0\t9\t9\n" for i in (2, 0, 1, 3)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("n02124075\nn01443537\n")
    (root / "words.txt").write_text("n02124075\tEgyptian cat\n")
    return root


def test_tiny_imagenet_as_it_comes(tiny, caplog):
    data = open_images(tiny)
    assert data.class_names == ("n01443537", "n02124075")
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5
    assert (data.train.stored, data.test.stored) == ("train", "val")
    assert data.test.labels.tolist() == [1, 1, 1, 0]
    assert names(data, "test") == [f"val/images/val_{number}.JPEG" for number in range(4)]
    wanted = np.asarray(Image.open(tiny / "train" / "n02124075" / "images" / "n02124075_3.JPEG"))
    assert np.array_equal(data.read("train", [8])[0], wanted)
    said = "\n".join(warnings(caplog))
    assert f"{tiny}/test: the 4 images have no labels, since none of its folders (images) is a class" in said
    assert "2 files are not images by their names and are ignored: 2 .txt" in said
    before = data.fingerprint
    (tiny / "val" / "val_annotations.txt").write_text("\n".join(f"val_{i}.JPEG\tn02124075" for i in range(4)))
    assert open_images(tiny).fingerprint != before


def test_a_list_of_labels_that_does_not_fit(tiny):
    path = tiny / "val" / "val_annotations.txt"
    lines = path.read_text().splitlines()
    for text, wrong in (
        ("\n".join(lines[:-1]), r"val_annotations.txt: 1 of 4 images have no line, for example val/images/val_3\.JPEG"),
        ("\n".join([*lines, "val_9.JPEG\tn02124075"]), r"1 of its 5 images are not there, for example val_9\.JPEG"),
        ("\n".join(["val_0.JPEG\tn99", *lines]), r"line 1 is 'val_0\.JPEG\\tn99'; wanted FILE, a tab, and a class"),
        ("val_0.JPEG n02124075", "line 1 is .*a tab"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=wrong):
            open_images(tiny)
    assert open_images(tiny, test_split="").test.stored == "train"
    path.unlink()
    assert open_images(tiny).test.stored == "train"  # neither has labels: a share is held out


@pytest.mark.parametrize("inner", ["", "images", "unknown", "0"])
def test_a_test_split_without_labels_is_passed_over(split_pets, inner, caplog):
    for number in range(3):
        write(split_pets / "test" / inner / f"{number}.jpg")
    data = open_images(split_pets)
    assert data.test.stored == "train"
    (said,) = warnings(caplog)
    assert "test: the 3 images have no labels, since" in said
    write(split_pets / "valid" / "cat" / "0.png")
    assert open_images(split_pets).test.stored == "valid"
    with pytest.raises(DataError, match=r"the 3 images have no labels.*config\.test_split is 'test'"):
        open_images(split_pets, test_split="test")


def test_classes_spelled_otherwise_in_the_test_split_are_no_missing_labels(split_pets):
    write(split_pets / "test" / "Cat" / "0.png")
    with pytest.raises(DataError, match=r"the class 'Cat' is not in the train split; .* It is most likely 'cat'"):
        open_images(split_pets)


def test_class_folders_that_are_most_likely_one(pets, caplog):
    write(pets / "Cat" / "0.png")
    write(pets / "ape " / "0.png")
    data = open_images(pets)
    assert data.class_names == ("Cat", "ape", "ape ", "cat")
    said = "\n".join(warnings(caplog))
    assert "'Cat' and 'cat'" in said
    assert "'ape' and 'ape '" in said


def test_a_test_split_that_lacks_a_class_of_subfolders(tmp_path):
    for name in ("train/a/x/0.png", "train/a/y/1.png", "train/b/x/0.png", "train/b/y/1.png", "test/b/x/0.png"):
        write(tmp_path / name)
    dataset = open_images(tmp_path)
    assert dataset.class_names == ("a", "b")
    assert dataset.test.labels.tolist() == [1]


def test_a_split_that_is_named_with_a_number_is_no_other(tmp_path):
    assert split_names.resolve("training2", ["train", "test"]) == "training2"
    assert split_names.resolve("training", ["Train", "test"]) == "Train"


def test_a_png_that_is_called_tga_and_a_dead_link_to_notes(tmp_path):
    write(tmp_path / "a" / "0.png")
    (tmp_path / "a" / "0.png").rename(tmp_path / "a" / "0.tga")
    for name in ("a/1.png", "b/0.png", "b/1.png"):
        write(tmp_path / name)
    (tmp_path / "b" / "notes.txt").symlink_to("annexed")
    assert open_images(tmp_path, test_split="", holdout=0.5, image_size=8).class_names == ("a", "b")
