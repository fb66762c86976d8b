"""All stages as a user runs them, from one command to the page, on several kinds of data."""

import csv
import re
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from redundancy import config as config_lib
from redundancy import storage
from redundancy.embedding.extract import embed
from redundancy.experiment.sweep import sweep
from redundancy.report.stage import report
from redundancy.runtime.errors import DataError, WorkdirError
from redundancy.selection.subset import read_subset
from redundancy.training.pretrain import train
from redundancy.workdir import STAGES, Workdir

DIGITS = "--config=configs/digits.py:smoke"


def results(workdir):
    return list(csv.DictReader((workdir / "results.csv").open()))


@pytest.fixture(scope="module")
def flags(digits_npz):
    return (DIGITS, f"--config.dataset={digits_npz}")


@pytest.fixture(scope="module")
def unbroken(flags, child_env, repo, tmp_path_factory):
    """A whole run on arrays, on a machine without TensorFlow."""
    workdir = tmp_path_factory.mktemp("unbroken") / "w"
    absent = tmp_path_factory.mktemp("absent")
    for module in ("tensorflow", "tensorflow_datasets"):
        (absent / f"{module}.py").write_text(f"raise ImportError('{module} was imported')")
    child_env = {**child_env, "PYTHONPATH": str(absent)}
    command = [sys.executable, "-m", "redundancy", "run", *flags, f"--workdir={workdir}"]
    done = subprocess.run(command, cwd=repo, env=child_env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_run_ends_with_a_report_and_the_table_of_runs(unbroken):
    workdir, done = unbroken
    assert f"report: {workdir}/report/index.html" in done.stdout
    page = (workdir / "report" / "index.html").read_text()
    assert "<svg" in page
    assert "data:image/png;base64," in page
    rows = results(workdir)
    assert len(rows) == 2 + 2 * 2 * 2
    assert {row["run"] for row in rows} >= {"full-1.0000-trial1", "semantic-0.9000-trial0", "random-0.5000-trial1"}
    for row in rows:
        assert int(row["test_correct"]) / int(row["test_size"]) == float(row["test_accuracy"])
        assert int(row["size"]) == round(float(row["fraction"]) * 1347 + 1e-9)


def test_subsets_are_what_the_runs_were_trained_on(unbroken):
    workdir, _ = unbroken
    for row in results(workdir):
        if row["method"] == "full":
            continue
        trial = f"-trial{row['trial']}" if row["method"] == "random" else ""
        subset = read_subset(str(workdir / "subsets" / f"{row['method']}-{row['fraction']}{trial}.parquet"))
        assert subset.kept.sum() == int(row["size"])
        counts, kept = np.bincount(subset.labels), np.bincount(subset.labels[subset.kept], minlength=10)
        # Largest remainder: no class is a whole image away from its share.
        assert np.all(np.abs(kept - counts * int(row["size"]) / counts.sum()) < 1)


def test_a_finished_run_is_a_no_op(unbroken, redundancy, flags):
    workdir, _ = unbroken
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    done = redundancy("run", *flags, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    for stage in (each for each in STAGES if each != "score"):  # no method of the config reads one
        assert re.search(rf" {stage}[ a-z]*: finished already", done.stderr), stage
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()} == before


def test_logs_are_plain_lines_with_rate_and_time_left(unbroken):
    _, done = unbroken
    assert "train: 20/20 steps" in done.stderr
    assert "/s" in done.stderr
    assert "\r" not in done.stderr


@pytest.mark.soak
def test_the_embedded_digits_through_tfds(redundancy, tmp_path, unbroken):
    done = redundancy("run", DIGITS, f"--config.data_dir={tmp_path}/tfds", f"--workdir={tmp_path}/w")
    assert done.returncode == 0, done.stderr
    # The same images as in the .npz file, so the same numbers.
    assert (tmp_path / "w" / "results.csv").read_bytes() == (unbroken[0] / "results.csv").read_bytes()


def _photos(folder, rng):
    """JPEG photos of varied sizes in 3 classes, one of them with few images; held-out test."""
    for name, count in (("arcs", 14), ("bars", 9), ("cats & <b>dogs", 3)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            height, width = rng.integers(30, 90, size=2)
            pixels = rng.integers(0, 255, size=(height, width, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.jpg")


SHRUNK = (
    "--config.image_size=16", "--config.depth=8", "--config.widths=(4,4,8)", "--config.steps=4",
    "--config.warmup_steps=1", "--config.batch_size=8", "--config.fractions=(0.9,0.5)", "--config.trials=1",
)  # fmt: skip


@pytest.mark.soak
def test_a_folder_of_photos_of_varied_sizes(redundancy, tmp_path):
    _photos(tmp_path / "photos", np.random.default_rng(0))
    run = ("run", f"--config=configs/folder.py:{tmp_path}/photos", f"--workdir={tmp_path}/w", *SHRUNK)
    done = redundancy(*run)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "w" / "report" / "index.html").read_text()
    assert "cats &amp; &lt;b&gt;dogs" in page
    assert "<b>dogs" not in page
    # Another image in the folder makes other positions: the finished workdir must not be continued with it.
    Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "arcs" / "new.jpg")
    (tmp_path / "w" / "report" / "manifest.json").unlink()
    refused = redundancy(*run)
    assert refused.returncode == 1
    assert "another data set" in refused.stderr


@pytest.mark.soak
def test_real_photos(redundancy, repo, tmp_path):
    archive = repo.parent / "shared" / "data" / "photos.tar"
    if not archive.exists():
        pytest.skip("the photos are not here")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    done = redundancy("run", f"--config=configs/folder.py:{tmp_path}/imagenette", f"--workdir={tmp_path}/w", *SHRUNK)
    assert done.returncode == 0, done.stderr
    assert len(results(tmp_path / "w")) == 1 + 2 * 2


@pytest.fixture
def finished(unbroken, tmp_path):
    """A copy of a finished workdir to tamper with, and its config."""
    shutil.copytree(unbroken[0], tmp_path / "w")
    workdir = Workdir(str(tmp_path / "w"))
    return workdir, config_lib.resolve(storage.read_json(workdir.config)["config"])


def test_results_that_were_changed_or_lost_are_derived_again(finished, unbroken):
    workdir, config = finished
    right = (unbroken[0] / "results.csv").read_bytes()
    storage.write_bytes(workdir.results, right.replace(b"1212", b"9999"))
    storage.remove(workdir.report)
    with pytest.raises(DataError, match=r'results\.csv is missing or was changed.*run|Run "redundancy sweep"'):
        report(config, workdir)
    for damage in (lambda: None, lambda: storage.remove(workdir.results)):
        damage()
        sweep(config, workdir)
        assert storage.read_bytes(workdir.results) == right


def test_the_error_for_a_lost_checkpoint_says_how_to_train_again(finished):
    workdir, config = finished
    storage.remove(workdir.embeddings("end"))
    storage.remove(storage.join(workdir.pretrain, "checkpoints"))
    with pytest.raises(WorkdirError, match=r"20 is missing\. Delete .*pretrain and run"):
        embed(config, workdir)
    storage.remove(workdir.pretrain)
    train(config, workdir)
    embed(config, workdir)
