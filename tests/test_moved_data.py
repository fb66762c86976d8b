"""A data set that is moved, copied, or reached by another way while a workdir is made, is the same data set."""

import hashlib
import os
import shutil

import numpy as np
import pytest
from PIL import Image

SHRUNK = (
    "--config.image_size=16", "--config.depth=8", "--config.widths=(4,4,8)", "--config.steps=4",
    "--config.warmup_steps=1", "--config.batch_size=8", "--config.fractions=(0.9,0.5)", "--config.trials=1",
)  # fmt: skip


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("arcs", "bars"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for index in range(10):
            Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(folder / f"{index}.jpg")
    return tmp_path / "photos"


def contents(workdir):
    """What the stages made, without times, and without the report, which shows seconds."""
    return {
        str(path.relative_to(workdir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in workdir.rglob("*")
        if path.suffix in (".parquet", ".csv") or path.name in ("config.json", "manifest.json")
        if path.is_file() and "report" not in path.parts and "checkpoints" not in path.parts
    }


@pytest.mark.soak
def test_every_stage_goes_on_where_the_images_lie(redundancy, photos, tmp_path):
    def run(stage, path, workdir="w", **more):
        done = redundancy(
            stage, f"--config=configs/folder.py:{path}", f"--workdir={tmp_path / workdir}", *SHRUNK, **more
        )
        assert done.returncode == 0, done.stderr
        return done

    run("train", photos)
    shutil.copytree(tmp_path / "w", tmp_path / "unmoved")
    run("run", photos, "unmoved")
    # The place of the images is part of the identity of every training: it stays the one that the first stage wrote.
    copy = tmp_path / "elsewhere" / "another name"
    shutil.copytree(photos, copy)
    photos.rename(tmp_path / "gone")
    run("embed", copy)
    (tmp_path / "link").symlink_to(copy)
    run("link", tmp_path / "link")
    relative = ("--config.dataset=" + os.path.relpath(copy, os.getcwd()),)
    done = redundancy("select", "--config=configs/folder.py:x", *relative, f"--workdir={tmp_path}/w", *SHRUNK)
    assert done.returncode == 0, done.stderr
    run("sweep", copy)
    run("report", tmp_path / "link")
    assert contents(tmp_path / "w") == contents(tmp_path / "unmoved")
    assert "runs/manifest.json" in contents(tmp_path / "w")
    # Another set is refused, also by a stage that opens no images.
    Image.new("RGB", (40, 40)).save(copy / "arcs" / "new.jpg")
    flags = (f"--config=configs/folder.py:{copy}", f"--workdir={tmp_path}/w", *SHRUNK)
    for stage in ("link", "sweep"):
        refused = redundancy(stage, *flags)
        assert refused.returncode == 1
        assert "belongs to another data set. Differing: " in refused.stderr
        assert "; sha256: " in refused.stderr
    refused = redundancy("link", f"--config=configs/folder.py:{tmp_path}/nowhere", f"--workdir={tmp_path}/w", *SHRUNK)
    assert "no such folder" in refused.stderr
