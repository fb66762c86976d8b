"""The files for TensorBoard's embedding projector."""

import contextlib
import dataclasses
import io
import json
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pyarrow.csv as csv
import pytest
from PIL import Image

from redundancy import storage
from redundancy.export.command import Request, export
from redundancy.runtime.errors import ConfigError, WorkdirError
from redundancy.selection.subset import read_subset
from tests.ports import free_port
from tests.waiting import wait_until


@contextlib.contextmanager
def tensorboard(folder):
    """TensorBoard itself, at an address of this machine."""
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--host=127.0.0.1", f"--port={port}"]
    child = subprocess.Popen([*command, "--load_fast=false"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/plugin/projector/{path}", timeout=120) as answer:
            return answer.read()

    def runs():
        assert child.poll() is None
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return json.loads(ask("runs"))

    try:
        wait_until(runs, every=0.2)
        yield ask
    finally:
        child.kill()
        child.wait()


@pytest.mark.soak
def test_tensorboard_shows_the_embeddings(images, tmp_path):
    pytest.importorskip("tensorboard")
    config, workdir, dataset = images
    export(Request(0.8, "projector", str(tmp_path / "p")), workdir, config)
    with tensorboard(str(tmp_path / "p")) as ask:
        (run,) = json.loads(ask("runs"))
        (embedding,) = json.loads(ask(f"info?run={run}"))["embeddings"]
        assert (embedding["tensorName"], embedding["tensorShape"]) == ("end", [40, 3])
        vectors = np.frombuffer(ask(f"tensor?run={run}&name=end"), np.float32).reshape(40, 3)
        assert (vectors == np.load(tmp_path / "E.npy")).all()
        table = csv.read_csv(
            io.BytesIO(ask(f"metadata?run={run}&name=end")), parse_options=csv.ParseOptions(delimiter="\t")
        )
        subset = read_subset(workdir.subset("semantic-0.8000"))
        assert table["position"].to_pylist() == subset.positions.tolist()
        assert table["group"].to_pylist() == subset.group.tolist()
        assert table["kept"].to_pylist() == ["yes" if kept else "no" for kept in subset.kept]
        assert set(table["class"].to_pylist()) == {"cat", "dog"}
        assert table["id"].to_pylist() == dataset.file_names("train", subset.positions)
        side = embedding["sprite"]["singleImageDim"][0]
        sprite = np.asarray(Image.open(io.BytesIO(ask(f"sprite_image?run={run}&name=end"))))
        assert sprite.shape == (6 * side, 7 * side, 3)
        picture = Image.fromarray(dataset.read("train", subset.positions[[9]])[0]).resize((side, side))
        assert (sprite[side : 2 * side, 2 * side : 3 * side] == np.asarray(picture)).all()


def test_the_projector_gets_a_share_of_each_class(selected, tmp_path, caplog):
    _, workdir = selected
    caplog.set_level("INFO", "absl")
    requests = [Request(0.9, "projector", str(tmp_path / name), limit=20) for name in ("a", "b")]
    for request in requests:
        export(request, workdir)
    assert "20 of them in the projector, of each class its share" in caplog.records[-1].getMessage()
    a, b = (tmp_path / "a", tmp_path / "b")
    assert {path.name for path in a.iterdir()} == {"tensors.tsv", "metadata.tsv", "projector_config.pbtxt"}
    for path in a.iterdir():
        assert path.read_bytes() == (b / path.name).read_bytes()
    table = csv.read_csv(a / "metadata.tsv", parse_options=csv.ParseOptions(delimiter="\t"))
    counts = np.bincount(table["label"].to_numpy())
    assert counts.sum() == 20
    assert np.abs(counts - 20 * np.array([30, 1, 12, 7]) / 50).max() <= 1
    with pytest.raises(ConfigError, match=r"a holds metadata\.tsv already.*--overwrite"):
        export(requests[0], workdir)
    export(dataclasses.replace(requests[0], overwrite=True, limit=None), workdir)
    assert len((a / "tensors.tsv").read_text().splitlines()) == 50
    (a / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"a holds mine\.txt; wanted a folder, new or empty"):
        export(dataclasses.replace(requests[0], overwrite=True), workdir)
    with pytest.raises(ConfigError, match=r"mine\.txt is a file; wanted a folder"):
        export(dataclasses.replace(requests[0], output=str(a / "mine.txt")), workdir)
    storage.remove(workdir.path("embeddings"))
    with pytest.raises(WorkdirError, match="has no embeddings, which the projector shows"):
        export(dataclasses.replace(requests[0], output=str(tmp_path / "c")), workdir)
    assert not (tmp_path / "c").exists()
