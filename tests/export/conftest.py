"""The synthetic embeddings that selection is tested on, and workdirs to export from."""

import numpy as np
import pytest
from PIL import Image

from redundancy import config as config_lib
from redundancy.data import open_dataset
from redundancy.importing.stage import Request as Import
from redundancy.importing.stage import import_embeddings
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.workdir import Workdir
from tests.selection.conftest import synthetic as synthetic


@pytest.fixture
def selected(synthetic):
    """A workdir with semantic subsets of two layers and two random ones of each fraction."""
    config, workdir = synthetic(layers=("end", "start"))
    link(config, workdir)
    select(config, workdir)
    return config, workdir


@pytest.fixture
def selected_from(tmp_path):
    """Imports these embeddings, as of the config's data set if it has one, links them and selects from them."""

    def make(embeddings, labels, config, **fields):
        np.save(tmp_path / "E.npy", embeddings)
        np.save(tmp_path / "Y.npy", labels)
        workdir = Workdir(str(tmp_path / "v"))
        request = Import(str(tmp_path / "E.npy"), str(tmp_path / "Y.npy"), **fields)
        import_embeddings(request, workdir, config if config.dataset else None)
        workdir.claim(config)
        link(config, workdir)
        select(config, workdir)
        return workdir

    return make


@pytest.fixture
def images(tmp_path, selected_from):
    """A folder of images of two classes, with subsets of embeddings of them: config, workdir, data set."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "images" / "train" / label).mkdir(parents=True)
        (tmp_path / "images" / "test" / label).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 255, (12, 9, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / "train" / label / f"{number}.png")
        Image.fromarray(pixels).save(tmp_path / "images" / "test" / label / "0.png")
    config = config_lib.resolve({"dataset": str(tmp_path / "images"), "fractions": (0.8,), "trials": 1})
    dataset = open_dataset(config)
    workdir = selected_from(rng.normal(size=(40, 3)).astype(np.float32), dataset.train.labels, config)
    return config, workdir, dataset
