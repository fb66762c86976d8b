"""The fingerprint of a data set that lies elsewhere than when its workdir was made."""

import shutil

import numpy as np
import pytest
from PIL import Image

from redundancy import config as config_lib
from redundancy.data import open_dataset, sources


def resolved(path, **fields):
    return config_lib.resolve({"dataset": str(path), **fields})


def elsewhere(path, first, fingerprint, **fields):
    """What a stage sees of the set at `path`, in the workdir of the same set at `first`."""
    return sources.fingerprint(config_lib.known_as(resolved(path, **fields), str(first), fingerprint["name"]))


@pytest.fixture
def photos(tmp_path):
    for name in ("ape", "cat"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def test_a_folder_copied_linked_and_by_a_relative_path(photos, tmp_path, monkeypatch):
    first = open_dataset(resolved(photos)).fingerprint
    assert first["name"] == "photos"
    shutil.copytree(photos, tmp_path / "copy")
    (tmp_path / "link").symlink_to("copy")
    monkeypatch.chdir(tmp_path / "copy")
    for path in (tmp_path / "copy", tmp_path / "link", ".", "../link", f"{tmp_path}/link/"):
        assert elsewhere(path, photos, first) == first
    Image.new("RGB", (8, 8)).save(tmp_path / "copy" / "cat" / "more.png")
    assert elsewhere(tmp_path / "copy", photos, first) != first


def test_arrays_under_another_name(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (10, 8, 8, 3), np.uint8), np.arange(10) % 2
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    first = open_dataset(resolved(tmp_path / "a.npz")).fingerprint
    shutil.copy(tmp_path / "a.npz", tmp_path / "b.npz")
    assert elsewhere(tmp_path / "b.npz", tmp_path / "a.npz", first) == first


@pytest.mark.soak
def test_a_tfds_set_by_name_in_another_data_dir_and_by_its_folder(tmp_path):
    first = open_dataset(resolved("digits", data_dir=str(tmp_path / "tfds"))).fingerprint
    (tmp_path / "tfds").rename(tmp_path / "moved")
    for dataset, data_dir in (
        ("digits:1.0.0", tmp_path / "moved"),
        (tmp_path / "moved" / "digits" / "1.0.0", ""),
        (tmp_path / "moved" / "digits", ""),
    ):
        assert elsewhere(dataset, "digits", first, data_dir=str(data_dir)) == first


def test_nothing_is_downloaded_to_be_compared(photos, monkeypatch):
    monkeypatch.setattr(sources, "open_dataset", lambda config: pytest.fail("opened"))
    first = {"name": "photos"}
    assert elsewhere("mnist", photos, first) is None
    assert elsewhere("generated:2:4:4", photos, first) is None
