"""The size that is said before the report is written is within a factor of two of what is written."""

import pathlib
import re

import numpy as np
import pytest
from pages import read_page
from PIL import Image
from synthetic import make_workdir, noise_images

from redundancy.data import shared_dataset
from redundancy.estimates.page import page_bytes
from redundancy.report import browser
from redundancy.report.stage import report

UNITS = {"bytes": 1, "kB": 1e3, "MB": 1e6}


def smooth_images(count, side, classes):
    """Images uint8 [count, side, side, 3] that compress about as photos do, and labels."""
    images, labels = noise_images(count, (12, 12, 3), classes)
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((side, side), Image.BICUBIC)) for image in images]
    ), labels


def said_and_written(config, workdir, caplog):
    """Bytes by part, as the log says before they are written, and as they are written."""
    caplog.set_level("INFO", logger="absl")
    caplog.clear()
    report(config, workdir)
    (said,) = [line for line in caplog.messages if line.startswith("report: writes about")]
    parts = re.findall(r"(page|figures|classes|names|about) ([\d.]+) (bytes|kB|MB)", said)
    files = {
        path.relative_to(workdir.report).as_posix(): path.stat().st_size
        for path in pathlib.Path(workdir.report).rglob("*")
        if path.is_file()
    }
    begins = {"page": "index.html", "figures": "figures/", "classes": "classes/", "names": "names.js", "about": ""}
    written = {part: sum(size for name, size in files.items() if name.startswith(begins[part])) for part in begins}
    return {part: float(number) * UNITS[unit] for part, number, unit in parts}, written


def check(said, written):
    assert {part for part, size in written.items() if size} == said.keys()
    for part, size in said.items():
        assert size / 2 < written[part] < 2 * size, part


def check_estimate(config, written):
    """The estimate before a run knows only how many images of which size there are."""
    data = shared_dataset(config)
    counts = dict(enumerate(np.bincount(data.train.labels).tolist()))
    asked = config.fractions, config.report_fraction, "semantic" in config["methods"]
    assert written / 2 < page_bytes(counts, data.image_shape, *asked) < 2 * written


def make_photos(root, images, labels):
    """A workdir of photos in folders, so that they have names."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / "photos" / f"class {label}" / f"IMG_{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, compress_level=1)
    return make_workdir(root, images, labels, dataset=str(root / "photos"), image_size=images.shape[1])


@pytest.mark.parametrize(
    ("shape", "fields"),
    [((8, 8, 1), {}), ((8, 8, 1), dict(methods=("random",))), ((32, 32, 3), dict(classes=3, layers=("start", "end")))],
    ids=["digits", "without groups", "layers"],
)
def test_of_one_file(tmp_path, caplog, shape, fields):
    images, labels = noise_images(300, shape, fields.pop("classes", 2))
    config, workdir = make_workdir(tmp_path, images, labels, **fields)
    said, written = said_and_written(config, workdir, caplog)
    check(said, written)
    check_estimate(config, written["about"])


@pytest.mark.soak
def test_of_large_images_with_names(tmp_path, caplog):
    config, workdir = make_photos(tmp_path, *smooth_images(240, 160, 3))
    said, written = said_and_written(config, workdir, caplog)
    check(said, written)
    check_estimate(config, written["about"])


@pytest.mark.soak
def test_of_a_file_for_each_class(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(browser, "PAGE_BYTES", browser._REST_BYTES + 1)
    check(*said_and_written(*make_photos(tmp_path, *smooth_images(400, 32, 8)), caplog))


@pytest.mark.soak
def test_of_many_classes_with_many_pictures(tmp_path, caplog):
    images, labels = smooth_images(12_000, 64, 200)
    config, workdir = make_workdir(tmp_path, images, labels, fractions=(0.9, 0.7, 0.5))
    said, written = said_and_written(config, workdir, caplog)
    check(said, written)
    check_estimate(config, written["about"])
    assert not read_page(workdir).json["index"]["one_file"]
