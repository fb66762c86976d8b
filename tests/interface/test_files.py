"""What a finished workdir holds, read from Python."""

import hashlib

import numpy as np
import pytest

from redundancy import load_embeddings, load_merges, load_results, load_subset
from redundancy.embedding.store import EmbeddingStore
from redundancy.runtime.errors import ConfigError, DataError, UserError, WorkdirError
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.workdir import write_manifest
from tests.selection.conftest import make_workdir


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    config, workdir = make_workdir(tmp_path_factory.mktemp("interface") / "w", layers=("end", "start"))
    link(config, workdir)
    select(config, workdir)
    return workdir


def test_subsets(made, tmp_path):
    subset = load_subset(made.root, 0.9)
    assert subset.metadata["fraction"] == 0.9
    assert len(subset.kept_positions) == 45
    assert load_subset(made.root, 0.5, layer="start").metadata["layer"] == "start"
    assert load_subset(made.root, 0.5, method="random", trial=1).metadata["trial"] == 1
    with pytest.raises(ConfigError, match=r"has no semantic-0\.7000\. There are the fractions .*0\.9, 0\.5"):
        load_subset(made.root, 0.7)
    with pytest.raises(ConfigError, match="trial is missing: there is a random subset for each trial"):
        load_subset(made.root, 0.5, method="random")
    with pytest.raises(ConfigError, match="fraction is '90%'; wanted a number"):
        load_subset(made.root, "90%")
    with pytest.raises(ConfigError, match="workdir=gs:/bucket/w: a URL has two slashes"):
        load_subset("gs:/bucket/w", 0.5)
    with pytest.raises(WorkdirError, match='run "redundancy select"'):
        load_subset(tmp_path, 0.9)


def test_embeddings_and_merges(made):
    for layer in ("end", "start"):
        found, store = load_embeddings(made.root, layer), EmbeddingStore(made.embeddings(layer))
        assert np.array_equal(found.positions, store.labels()[0])
        assert np.array_equal(found.labels, store.labels()[1])
        assert found.class_names == ["class 0", "class 1", "class 2", "class 3"]
        assert (found.vectors.shape, found.vectors.dtype) == ((50, 5), np.float32)
        for label in range(4):
            assert np.array_equal(found.vectors[found.labels == label], store.read_class(label)[1])
        found = load_merges(made.root, layer)
        assert {label: len(merges) for label, merges in found.items()} == {0: 16, 1: 0, 2: 7, 3: 5}
    for load in (load_embeddings, load_merges):
        with pytest.raises(ConfigError, match=r"layer is 'last'; wanted .*start, middle, end"):
            load(made.root, "last")
        with pytest.raises(WorkdirError, match=r"has no manifest\.json"):
            load(made.root, "middle")


def test_results(tmp_path):
    with pytest.raises(WorkdirError, match='run "redundancy sweep"'):
        load_results(tmp_path)
    text = "run,method,fraction,test_accuracy\nfull-1.0000-trial0,full,1.0000,0.5\n"
    (tmp_path / "results.csv").write_text(text)
    write_manifest(str(tmp_path / "runs"), {"results_sha256": hashlib.sha256(text.encode()).hexdigest()})
    assert load_results(tmp_path).to_pylist() == [
        {"run": "full-1.0000-trial0", "method": "full", "fraction": 1.0, "test_accuracy": 0.5}
    ]
    (tmp_path / "results.csv").write_text(text.replace("0.5", "0.9"))
    with pytest.raises(DataError, match="was changed since the sweep"):
        load_results(tmp_path)


@pytest.mark.parametrize("workdir", ["/nope", b"/nope", None, __file__])
def test_what_is_no_workdir(workdir):
    with pytest.raises(UserError, match="workdir"):
        load_subset(workdir, 0.9)


def test_no_method(tmp_path):
    with pytest.raises(ConfigError, match="method is None; wanted one of"):
        load_subset(tmp_path, 0.9, method=None)
