"""Randomly changed JSON files of a workdir: the stages work correctly, or a UserError reports what is wrong."""

import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redundancy import config as config_lib
from redundancy import storage
from redundancy.embedding import ids as ids_lib
from redundancy.embedding.store import EmbeddingStore
from redundancy.export.command import Request as ExportRequest
from redundancy.export.command import export
from redundancy.importing.stage import Request, import_embeddings
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.selection.subset import read_subset
from redundancy.workdir import Workdir, need_manifest, read_manifest
from tests.fuzzed import LABELS, VECTORS, N, changed, restructured, saved, tried
from tests.fuzzed import elsewhere as elsewhere
from tests.tiers import examples

CONFIG = config_lib.resolve({"dataset": "", "fractions": (0.75, 0.5), "trials": 1})
MORE = config_lib.resolve({"dataset": "", "fractions": (0.75, 0.5, 0.6), "trials": 2})


def made_workdir():
    """A finished workdir, for the tests to copy; and the JSON files in it."""
    root = tempfile.mkdtemp()
    given = os.path.join(root, "given")
    os.mkdir(given)
    pathlib.Path(given, "E.npy").write_bytes(saved(np.save, VECTORS))
    pathlib.Path(given, "Y.npy").write_bytes(saved(np.save, LABELS))
    pathlib.Path(given, "I.txt").write_text("".join(f"i{row}\n" for row in range(N)))
    workdir = Workdir(os.path.join(root, "w"))
    import_embeddings(Request(*(os.path.join(given, name) for name in ("E.npy", "Y.npy", "I.txt")), parts=2), workdir)
    workdir.claim(CONFIG)
    link(CONFIG, workdir)
    select(CONFIG, workdir)
    for folder, manifest in (
        (workdir.pretrain, {"step": 5, "fingerprint": {"name": "x"}, "test_accuracy": 0.5}),
        (workdir.runs, {"runs": ["x"], "results_sha256": "0"}),
    ):
        os.mkdir(folder)
        pathlib.Path(folder, "manifest.json").write_text(json.dumps(manifest))
    # Without the checksum, which would show any change.
    paths = sorted(pathlib.Path(workdir.root).rglob("*.json"))
    found = {str(path.relative_to(workdir.root)): storage.read_json(str(path)) for path in paths}
    return workdir.root, found


TEMPLATE, FOUND = made_workdir()


@pytest.fixture(scope="module", autouse=True)
def template():
    yield
    shutil.rmtree(os.path.dirname(TEMPLATE))


def use_store(workdir):
    store = tried(EmbeddingStore, workdir.embeddings("end"))
    if store is None:
        return
    found = tried(store.labels)
    tried(store.check_vectors)
    tried(store.check_labels, {"name": "x", "labels_sha256": "0"})
    if found is not None:
        assert len(found[0]) == store.num_examples
        tried(store.read_class, int(found[1][0]))


def use_stages(workdir):
    """Runs the stages again; what they write can be read."""
    for config in (CONFIG, MORE):
        tried(link, config, workdir)
        if tried(lambda config=config: select(config, workdir) or True):
            for name in os.listdir(workdir.subsets):
                if name.endswith(".parquet"):
                    assert read_subset(os.path.join(workdir.subsets, name)).kept.any()
    for number, kind in enumerate(("npy", "txt", "parquet", "tfds")):
        output = os.path.join(os.path.dirname(workdir.root), f"out{number}")
        tried(export, ExportRequest(0.75, kind, output), workdir)


def use_changed(name, data, use, *gone):
    """Uses a workdir with these bytes in the file's place, and without some folders."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = Workdir(os.path.join(folder, "w"))
        shutil.copytree(TEMPLATE, workdir.root)
        pathlib.Path(workdir.path(name)).write_bytes(data)
        for each in gone:
            shutil.rmtree(workdir.path(each))
        use(workdir)
        assert set(os.listdir(folder)) <= {"w", "out0", "out1", "out2", "out3"}


def use_embeddings(workdir):
    use_store(workdir)
    tried(read_manifest, workdir.embeddings("end"), class_names=list)
    tried(ids_lib.read, workdir.embeddings("end"))
    given = (os.path.join(os.path.dirname(TEMPLATE), "given", name) for name in ("E.npy", "Y.npy", "I.txt"))
    tried(import_embeddings, Request(*given), workdir)
    use_stages(workdir)


def use_config(workdir):
    tried(workdir.claim, CONFIG)
    tried(workdir.claim, MORE)
    tried(workdir.dataset_fingerprint)
    tried(workdir.claim_dataset, {"name": "x"})
    use_stages(workdir)


def use_training(name, **fields):
    def use(workdir):
        found = tried(read_manifest, workdir.path(name), **fields)
        assert found is None or isinstance(found, dict)
        tried(need_manifest, workdir.path(name), "train", fingerprint=dict)
        tried(workdir.claim, MORE)

    return use


USES = {
    "embeddings/end/manifest.json": (use_embeddings, ("merges", "subsets")),
    "merges/end/manifest.json": (use_stages, ("subsets",)),
    "subsets/manifest.json": (use_stages, ()),
    "config.json": (use_config, ()),
    "pretrain/manifest.json": (use_training("pretrain", step=int), ()),
    "runs/manifest.json": (use_training("runs", results_sha256=str), ()),
}


@pytest.mark.parametrize("name", USES)
@examples(40)
@given(st.data())
@pytest.mark.soak
def test_manifests_of_other_structure(name, data):
    use, later = USES[name]
    value = json.dumps(data.draw(restructured(FOUND[name]))).encode()
    use_changed(name, value, use, *(later if data.draw(st.booleans()) else ()))


@examples(25)
@given(st.data())
def test_manifests_that_are_no_json(data):
    def use(workdir):
        use_store(workdir)
        tried(workdir.claim, MORE)
        use_stages(workdir)

    name = data.draw(st.sampled_from(sorted(FOUND)))
    use_changed(name, data.draw(changed([json.dumps(FOUND[name]).encode()])), use)
