"""The recipes of docs/interop.md work: the tests run its own blocks of code on a workdir with subsets."""

import ast
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from redundancy import config as config_lib
from redundancy.data import open_dataset
from redundancy.export.command import export
from redundancy.export.request import Request as Export
from redundancy.importing.stage import Request as Import
from redundancy.importing.stage import import_embeddings
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.selection.subset import read_subset
from redundancy.workdir import Workdir

TEXT = (pathlib.Path(__file__).resolve().parents[1] / "docs/interop.md").read_text()


def sections():
    """Heading -> its blocks in order, each a language and a text."""
    return {
        part.split("\n", 1)[0]: re.findall(r"^```(\w+)\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL)
        for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    }


def blocks(heading):
    """The Python blocks below a heading; skips the test where a package that they import is not installed."""
    found = [text for language, text in sections()[heading] if language == "python"]
    for block in found:
        for node in ast.walk(ast.parse(block)):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            for name in [*names, *([node.module] if isinstance(node, ast.ImportFrom) else [])]:
                pytest.importorskip(name)
    return found


def shell(text, folder, env, workdir, data_dir):
    """Runs the lines of a block that are commands of this program."""
    for line in filter(None, text.splitlines()):
        words = shlex.split(line)
        words = [workdir if word == "DIR" else word for word in words]
        more = [f"--config.data_dir={data_dir}"] if "--config" in words else []
        done = subprocess.run(
            [sys.executable, "-m", *words, *more], cwd=folder, env=env, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory, repo, child_env):
    """A folder with the files that the document's commands write; the data set and the semantic subset at 0.9."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from redundancy.data.digits import Digits

    folder, data_dir = tmp_path_factory.mktemp("interop"), tmp_path_factory.mktemp("tfds")
    Digits(data_dir=data_dir).download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
    config = config_lib.resolve({"data_dir": str(data_dir), "fractions": (0.9, 0.5), "trials": 1})
    dataset = open_dataset(config)
    images = dataset.read("train", dataset.train.positions)
    np.save(folder / "E.npy", images.reshape(len(images), -1).astype(np.float32))
    np.save(folder / "Y.npy", dataset.train.labels)
    workdir = Workdir(str(folder / "w"))
    workdir.claim(config)
    import_embeddings(Import(str(folder / "E.npy"), str(folder / "Y.npy")), workdir, config)
    link(config, workdir)
    select(config, workdir)
    env = {**child_env, "PYTHONPATH": os.pathsep.join([str(repo), child_env.get("PYTHONPATH", "")])}
    for of_section in sections().values():
        for language, text in of_section:
            if language == "bash":
                shell(text, folder, env, workdir.root, data_dir)
    return folder, data_dir, dataset, read_subset(workdir.subset("semantic-0.9000"))


def recipes(heading, **names):
    """Runs the Python blocks of a section in the current folder; returns the names they made, block by block."""
    found = []
    for block in blocks(heading):
        found.append(dict(names))
        exec(block, found[-1])
    return found


@pytest.fixture
def run(made, monkeypatch, tmp_path):
    """`recipes` in the folder of `made`."""
    monkeypatch.chdir(made[0])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    return recipes


def test_every_recipe_is_run():
    assert [*sections()] == [
        "What to write", "pyarrow", "pandas", "PyTorch", "TFDS and tf.data", "Hugging Face datasets", "FiftyOne",
        "TensorBoard's projector",
    ]  # fmt: skip


@pytest.mark.soak
def test_pyarrow(made, run):
    subset = made[3]
    (names,) = run("pyarrow")
    assert names["kept"]["position"].to_pylist() == subset.kept_positions.tolist()
    assert sum(map(len, names["members"]["position_list"].to_pylist())) == len(names["redundant"])
    group, sizes = np.unique(subset.group, return_counts=True)
    assert set(names["members"]["group"].to_pylist()) == set(group[sizes > 1].tolist())


@pytest.mark.soak
def test_pandas(made, run):
    subset = made[3]
    (names,) = run("pandas")
    assert names["kept"]["position"].tolist() == subset.kept_positions.tolist()
    assert names["groups"]["dissimilarity"].tolist() == subset.dissimilarity.tolist()
    assert names["widest"].iloc[0] == subset.dissimilarity.max()
    assert names["by_class"].mean() == pytest.approx(0.9, abs=0.01)


@pytest.mark.soak
def test_pytorch(made, run, tmp_path):
    torch = pytest.importorskip("torch")
    folder, *_, subset = made

    class Folder(list):
        """As torchvision's ImageFolder, in an order of its own."""

        def __init__(self, samples):
            super().__init__(samples)
            self.samples = samples

    table = pq.read_table(folder / "groups.parquet")
    files = [f"train/{label}/{position}.png" for position, label in zip(subset.positions, subset.labels, strict=True)]
    pq.write_table(table.append_column("id", [files]), folder / "names.parquet")
    images = torch.utils.data.TensorDataset(torch.arange(len(subset.positions)))
    shuffled = Folder([(f"{tmp_path}/{name}", 0) for name in reversed(files)])
    first, second = run("PyTorch", images=images, folder=shuffled, root=str(tmp_path))
    assert [int(item[0]) for item in first["train"]] == subset.kept_positions.tolist()
    assert sum(len(batch[0]) for batch in first["loader"]) == len(subset.kept_positions)
    wanted = {f"{tmp_path}/{name}" for name, kept in zip(files, subset.kept, strict=True) if kept}
    assert {path for path, _ in second["train"]} == wanted


@pytest.mark.soak
def test_tfds(made, run):
    _, _, dataset, subset = made
    first, second = run("TFDS and tf.data", data_dir=str(made[1]))
    wanted = dataset.read("train", subset.kept_positions)

    def in_order(images):
        return sorted(np.asarray(image).tobytes() for image in images)

    found = [example["image"].numpy() for example in first["train"]]
    assert in_order(found) == in_order(wanted)
    images, labels = zip(*second["train"].as_numpy_iterator(), strict=True)
    assert np.array_equal(np.stack(images), wanted)
    assert list(labels) == subset.labels[subset.kept].tolist()


@pytest.mark.soak
def test_hugging_face(made, run):
    datasets = pytest.importorskip("datasets")
    subset = made[3]
    images = datasets.Dataset.from_dict({"row": subset.positions.tolist()})
    (names,) = run("Hugging Face datasets", images=images)
    assert names["train"]["row"] == subset.kept_positions.tolist()
    assert names["again"]["group"] == subset.group.tolist()
    assert names["again"].column_names == ["row", "group", "group_size", "dissimilarity", "kept_0.9000"]


@pytest.mark.soak
def test_fiftyone(made):
    blocks("FiftyOne")
    pytest.skip("needs a MongoDB server")


NAMES = ["NA", "null", "nan", "None", "N/A", "#N/A", "007", "1.0", "1e5", "true", "inf", "-", " x", 'a "b", c', "7"]


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """named(method): a folder with what export makes of classes and ids that readers of texts take for others."""
    folder = tmp_path_factory.mktemp("named")
    labels = np.arange(20 * len(NAMES)) % len(NAMES)
    names = np.array(NAMES)[labels].tolist()
    ids = [*NAMES, *(f"{row:09d}" for row in range(len(NAMES), len(labels)))]
    table = {"embedding": list(np.random.default_rng(0).normal(size=(len(labels), 4))), "label": names, "id": ids}
    pq.write_table(pa.table(table), folder / "E.parquet")
    config = config_lib.resolve({"dataset": "", "fractions": (0.9,), "trials": 1, "layers": ("end",)})
    workdir = Workdir(str(folder / "w"))
    import_embeddings(Import(str(folder / "E.parquet"), columns="id=id", labels_are="names"), workdir)
    link(config, workdir)
    select(config, workdir)

    def made(method):
        there = folder / method
        there.mkdir(exist_ok=True)
        trial = {"method": method, "trial": 0 if method == "random" else None}
        for form, name in (("groups-csv", "groups.csv"), ("groups-parquet", "groups.parquet"), ("npy", "kept.npy")):
            positions = {"image_ids": "position"} if form == "npy" else {}
            export(Export(0.9, form, str(there / name), overwrite=True, **trial, **positions), workdir)
        pq.write_table(pq.read_table(there / "groups.parquet"), there / "names.parquet")
        return there, names, ids

    return made


@pytest.mark.parametrize("method", ["semantic", "random"])
def test_classes_and_ids_stay_what_they_are(named, monkeypatch, method):
    folder, names, ids = named(method)
    monkeypatch.chdir(folder)
    table = pq.read_table("groups.parquet")
    (pandas,) = recipes("pandas")
    assert pandas["groups"]["class"].tolist() == table["class"].to_pylist() == names
    assert pandas["groups"]["id"].tolist() == table["id"].to_pylist() == ids
    assert set(pandas["by_class"].index) == set(NAMES)
    for column in ("group", "group_size", "dissimilarity"):
        found = pandas["groups"][column]
        assert [None if missing else value for value, missing in zip(found, found.isna(), strict=True)] == table[
            column
        ].to_pylist()
    kept = [name for name, stays in zip(ids, table["kept_0.9000"].to_pylist(), strict=True) if stays]
    assert pandas["kept"]["id"].tolist() == kept
    (arrow,) = recipes("pyarrow")
    assert arrow["kept"]["id"].to_pylist() == kept


def test_ids_stay_what_they_are_in_other_recipes(named, monkeypatch, tmp_path):
    folder, names, ids = named("semantic")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    kept = np.flatnonzero(pq.read_table("groups.parquet")["kept_0.9000"].to_numpy()).tolist()
    datasets = pytest.importorskip("datasets")
    (found,) = recipes("Hugging Face datasets", images=datasets.Dataset.from_dict({"id": ids, "class": names}))
    assert found["train"]["id"] == [ids[row] for row in kept]
    assert found["again"]["class"] == names
    torch = pytest.importorskip("torch")
    images = torch.utils.data.TensorDataset(torch.arange(len(ids)))
    images.samples = [(f"{tmp_path}/{name}", 0) for name in ids]
    _, found = recipes("PyTorch", images=images, folder=images, root=str(tmp_path))
    assert found["rows"] == kept


@pytest.mark.soak
def test_the_projector_has_pictures(made):
    found = {path.name for path in (made[0] / "projector").iterdir()}
    assert found == {"tensors.tsv", "metadata.tsv", "sprite.png", "projector_config.pbtxt"}
    assert len((made[0] / "projector/tensors.tsv").read_text().splitlines()) == 500
