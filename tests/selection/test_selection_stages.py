"""link and select on a synthetic store: their files, that these are reproducible, and which inputs they refuse."""

import hashlib
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from redundancy import config as config_lib
from redundancy import storage
from redundancy.data.dataset import labels_sha256
from redundancy.embedding.store import EmbeddingStore
from redundancy.linkage import complete, cut
from redundancy.methods.counts import class_counts
from redundancy.methods.random import random_subset
from redundancy.runtime.errors import DataError, WorkdirError
from redundancy.selection import local, merges, tasks
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.selection.subset import mean_dissimilarity, read_subset
from redundancy.workdir import read_manifest, subset_name

SIZES = tuple(3 + number % 7 for number in range(20))


def _files(workdir, *folders):
    """SHA-256 of each file below the folders."""
    return {
        str(path.relative_to(workdir.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted(pathlib.Path(workdir.path(folder)).rglob("*"))
        if path.is_file()
    }


def _run(config, workdir):
    link(config, workdir)
    select(config, workdir)


def _with(config, **fields):
    return config_lib.resolve({**config_lib.to_json(config), **fields})


def test_semantic_subsets_are_those_of_the_pure_functions(synthetic):
    config, workdir = synthetic(sizes=(30, 1, 12, 7), fractions=(1.0, 0.9, 0.5, 0.01), rule="medoid")
    _run(config, workdir)
    store = EmbeddingStore(workdir.embeddings("end"))
    positions, labels = store.labels()
    for fraction in config.fractions:
        subset = read_subset(workdir.subset(subset_name("semantic", fraction)))
        assert (subset.positions == positions).all()
        assert (subset.labels == labels).all()
        counts = class_counts(store.class_counts, fraction)
        first_group = 0
        for label, count in counts.items():
            rows = np.flatnonzero(labels == label)
            _, vectors = store.read_class(label)
            group = cut.groups(complete.complete_linkage(vectors, len(rows) - 1), len(rows), count)
            kept = cut.representatives(vectors, group, "medoid")
            assert (subset.group[rows] == group + first_group).all()
            assert (np.flatnonzero(subset.kept[rows]) == np.sort(kept)).all()
            assert (subset.dissimilarity[rows] == cut.dissimilarity_to(vectors, kept[group])).all()
            first_group += count
        assert subset.metadata["size"] == len(subset.kept_positions) == sum(counts.values())
        assert subset.metadata["fraction"] == fraction
        assert [subset.metadata[name] for name in ("method", "layer", "rule")] == ["semantic", "end", "medoid"]
        assert subset.metadata["fingerprint"] == workdir.dataset_fingerprint()
        assert (subset.dissimilarity[subset.kept] == 0).all()
    full = read_subset(workdir.subset(subset_name("semantic", 1.0)))
    assert full.kept.all()
    fewest = read_subset(workdir.subset(subset_name("semantic", 0.01)))
    assert np.bincount(fewest.labels[fewest.kept]).tolist() == [1, 1, 1, 1]
    by_label, overall = mean_dissimilarity(fewest)
    assert set(by_label) == {0, 2, 3}
    assert overall == pytest.approx(np.mean(list(by_label.values())))


def test_random_subsets(synthetic):
    config, workdir = synthetic(fractions=(0.9, 0.5), trials=3, seed=4)
    _run(config, workdir)
    store = EmbeddingStore(workdir.embeddings("end"))
    positions, labels = store.labels()
    for fraction in config.fractions:
        counts = class_counts(store.class_counts, fraction)
        subsets = [read_subset(workdir.subset(subset_name("random", fraction, trial))) for trial in range(3)]
        for trial, subset in enumerate(subsets):
            assert {label: int(subset.kept[labels == label].sum()) for label in counts} == counts
            assert (subset.kept == random_subset(labels, positions, fraction, (4, trial))).all()
            assert (subset.group == -1).all()
            assert np.isnan(subset.dissimilarity).all()
            assert (subset.metadata["trial"], subset.metadata["seed"]) == (trial, [4, trial])
        assert not (subsets[0].kept == subsets[1].kept).all()
    manifest = read_manifest(workdir.subsets)
    assert {file["file"] for file in manifest["files"]} == set(storage.list_dir(workdir.subsets)) - {"manifest.json"}
    assert len(manifest["files"]) == 2 + 2 * 3
    assert {file["size"] for file in manifest["files"]} == {45, 25}


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        (dict(layers=("end", "start"), methods=("semantic",)), ["semantic-0.8000", "semantic-start-0.8000"]),
        (dict(methods=("random",)), ["random-0.8000-trial0", "random-0.8000-trial1"]),  # needs only labels
    ],
)
def test_files_of_each_layer_and_trial(synthetic, fields, names):
    config, workdir = synthetic(fractions=(0.8,), **fields)
    _run(config, workdir)
    assert storage.list_dir(workdir.subsets) == ["manifest.json", *(f"{name}.parquet" for name in names)]
    assert storage.exists(workdir.path("merges")) == ("semantic" in config.methods)


def test_a_finished_stage_is_a_no_op(synthetic, monkeypatch):
    config, workdir = synthetic()
    _run(config, workdir)
    before = _files(workdir, "merges", "subsets")

    def fail(*_, **__):
        raise AssertionError("worked again")

    monkeypatch.setattr(storage.scratch, "scratch_file", fail)
    _run(config, workdir)
    assert _files(workdir, "merges", "subsets") == before


def test_two_workdirs_of_the_same_embeddings_are_byte_identical(synthetic):
    first, second = synthetic("one", sizes=SIZES), synthetic("two", sizes=SIZES)
    _run(*first)
    _run(*second)
    found = _files(first[1], "merges", "subsets")
    assert found == _files(second[1], "merges", "subsets")
    assert sum(name.startswith("merges") for name in found) == 16 + 1
    manifest = read_manifest(first[1].merges("end"))
    assert [manifest["classes"][str(label)]["images"] for label in range(len(SIZES))] == list(SIZES)


def _written(folder):
    """When each file of a folder was written, by its name."""
    return {name: os.stat(storage.join(folder, name)).st_mtime_ns for name in storage.list_dir(folder)}


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.soak
def test_a_killed_link_continues_and_ends_the_same(synthetic, monkeypatch):
    config, workdir = synthetic("killed", sizes=SIZES)
    script = f"""
import os, signal
from redundancy import config, storage
from redundancy.linkage import batches
from redundancy.selection.link import link
batches.TOGETHER = 0
from redundancy.workdir import Workdir
create, created = storage.create_bytes, []
def create_then_die(path, data):
    if len(created) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    created.append(path)
    return create(path, data)
storage.create_bytes = create_then_die
workdir = Workdir({workdir.root!r})
link(config.resolve(storage.read_json(workdir.config)["config"]), workdir)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    finished = _written(merges.scratch(workdir.merges("end")))
    assert 0 < len(finished) <= 5
    assert read_manifest(workdir.merges("end")) is None
    with pytest.raises(WorkdirError, match="redundancy link"):
        select(config, workdir)
    created = []
    create = storage.create_bytes
    monkeypatch.setattr(storage, "create_bytes", lambda path, data: created.append(path) or create(path, data))
    _run(config, workdir)
    assert len(created) == len(SIZES) - len(finished)
    unbroken = synthetic("unbroken", sizes=SIZES)
    _run(*unbroken)
    assert _files(workdir, "merges", "subsets") == _files(unbroken[1], "merges", "subsets")


def test_a_link_killed_in_the_walk_of_a_large_class_loses_that_class_alone(synthetic, monkeypatch):
    made = dict(sizes=(20_000, 17_000, 30), dimension=3, fractions=(0.95,))
    config, workdir = synthetic(**made)
    script = f"""
import os, signal
from redundancy import config, storage
from redundancy.linkage import walk
from redundancy.selection.link import link
from redundancy.workdir import Workdir
within, walks = walk.within, []
def killed(*arguments, advance, **more):
    walks.append(arguments)
    def halfway(share):
        if len(walks) == 2 and share > 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        advance(share)
    return within(*arguments, advance=halfway, **more)
walk.within = killed
workdir = Workdir({workdir.root!r})
link(config.resolve(storage.read_json(workdir.config)["config"]), workdir)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(_written(merges.scratch(workdir.merges("end")))) == 1  # the largest class, which is first
    linked, real = [], tasks.link_class
    monkeypatch.setattr(tasks, "link_class", lambda task, *more: linked.append(task.labels) or real(task, *more))
    link(config, workdir)
    assert sorted(linked) == [(1,), (2,)]
    config, unbroken = synthetic("unbroken", **made)
    link(config, unbroken)
    assert _files(workdir, "merges") == _files(unbroken, "merges")


@pytest.mark.usefixtures("one_by_one")
def test_a_link_killed_while_packing_ends_the_same(synthetic, monkeypatch):
    config, workdir = synthetic()
    link(config, workdir)
    before = _files(workdir, "merges")
    storage.remove(workdir.merges("end"))

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merges, "write_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            link(config, workdir)
    path = storage.join(workdir.merges("end"), "part-00002-of-00004.parquet")
    storage.write_bytes(path, storage.read_bytes(path)[:200])
    damaged = merges.task_path(workdir.merges("end"), [2])
    storage.write_bytes(damaged, storage.read_bytes(damaged)[:100])
    link(config, workdir)
    assert _files(workdir, "merges") == before


def test_an_interrupted_select_ends_the_same(synthetic, monkeypatch):
    config, workdir = synthetic()
    _run(config, workdir)
    before = _files(workdir, "subsets")
    storage.remove(storage.join(workdir.subsets, "manifest.json"))
    storage.remove(workdir.subset("semantic-0.5000"))
    storage.write_bytes(workdir.subset("random-0.5000-trial1"), b"half")
    select(config, workdir)
    assert _files(workdir, "subsets") == before


def _take_layer(synthetic, workdir, layer):
    """Puts another store in the place of the workdir's embeddings of a layer."""
    _, other = synthetic("other", layers=(layer,), store_seed=3)
    storage.remove(workdir.embeddings(layer))
    os.rename(other.embeddings(layer), workdir.embeddings(layer))


@pytest.mark.parametrize(
    ("stages", "refused", "what"),
    [((link,), (link, select), "merges/end was made from other embeddings.*link.* again"),
     ((link, select), (select,), "subsets was made from other embeddings/end")],
)  # fmt: skip
def test_other_embeddings_are_refused(synthetic, stages, refused, what):
    config, workdir = synthetic()
    for stage in stages:
        stage(config, workdir)
    _take_layer(synthetic, workdir, "end")
    for stage in refused:
        with pytest.raises(WorkdirError, match=what):
            stage(config, workdir)


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN or infinity"), (np.inf, "NaN"), (0, "zero vector")])
def test_a_wrong_embedding_is_named_before_any_class_is_linked(synthetic, value, what):
    # As another program might have written it: the store's own writer refuses such a row.
    config, workdir = synthetic()
    folder = workdir.embeddings("end")
    manifest = storage.read_json(storage.join(folder, "manifest.json"))
    path = storage.join(folder, manifest["parts"][1]["file"])
    table = storage.read_parquet(path)
    vectors = np.stack(table["embedding"].to_numpy())
    vectors[5] = value
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = table.set_column(2, table.schema.field("embedding"), column)
    manifest["parts"][1]["sha256"] = storage.write_parquet(path, [table], storage.parquet_metadata(table))
    storage.write_json(storage.join(folder, "manifest.json"), manifest)
    with pytest.raises(DataError, match=rf"position {table['position'][5].as_py()} .*{what}"):
        link(config, workdir)
    assert not storage.exists(workdir.merges("end"))


def test_damaged_merges_are_refused(synthetic):
    config, workdir = synthetic()
    link(config, workdir)
    path = storage.join(workdir.merges("end"), "part-00001-of-00004.parquet")
    storage.write_bytes(path, storage.read_bytes(path) + b"x")
    with pytest.raises(DataError, match=rf"{path} is missing, damaged .*redundancy link"):
        select(config, workdir)
    assert not storage.exists(workdir.subsets)


def test_one_tree_serves_every_larger_fraction(synthetic):
    # The largest remainder gives class 3 five of its nine images at 0.5, and four at 0.51.
    config, workdir = synthetic(sizes=(49, 28, 10, 9, 23, 45, 19, 2, 41), fractions=(0.5,), methods=("semantic",))
    counts = dict(enumerate((49, 28, 10, 9, 23, 45, 19, 2, 41)))
    assert class_counts(counts, 0.51)[3] < class_counts(counts, 0.5)[3]
    link(config, workdir)
    fractions = tuple(percent / 100 for percent in range(50, 101))
    select(_with(config, fractions=fractions), workdir)
    assert len(read_manifest(workdir.subsets)["files"]) == 51


def test_two_links_of_one_workdir_at_once(synthetic, monkeypatch):
    config, workdir = synthetic(sizes=SIZES)
    other = []

    def finish_elsewhere(todo, finished):
        local.run(todo, finished)
        if not other:  # the other command packs and removes the classes before this one does
            other.append(1)
            link(config, workdir, finish_elsewhere)

    link(config, workdir, finish_elsewhere)
    unbroken = synthetic("unbroken", sizes=SIZES)
    link(*unbroken)
    assert _files(workdir, "merges") == _files(unbroken[1], "merges")
    storage.make_dirs(merges.scratch(workdir.merges("end")))
    link(config, workdir)
    assert not storage.exists(merges.scratch(workdir.merges("end")))


def test_other_fractions_are_added_and_the_earlier_ones_stay(synthetic):
    config, workdir = synthetic(fractions=(0.9, 0.5), trials=2, layers=("end", "start"))
    link(config, workdir)
    select(_with(config, fractions=(0.5,), trials=1, layers=("end",)), workdir)
    first = _written(workdir.subsets)
    del first["manifest.json"]
    assert set(first) == {"semantic-0.5000.parquet", "random-0.5000-trial0.parquet"}
    select(_with(config, methods=("semantic",), fractions=(0.9, 0.5)), workdir)
    assert _written(workdir.subsets).items() >= first.items()
    select(_with(config, methods=("random",), fractions=(0.9,)), workdir)
    select(config, workdir)
    # All of them are those that one command makes.
    config, at_once = synthetic("once", fractions=(0.5, 0.9), trials=2, layers=("end", "start"))
    _run(config, at_once)
    added, whole = _files(workdir, "subsets"), _files(at_once, "subsets")
    del added["subsets/manifest.json"], whole["subsets/manifest.json"]
    assert added == whole
    assert read_manifest(workdir.subsets)["files"] == read_manifest(at_once.subsets)["files"]


def test_an_interrupted_second_select_keeps_the_first(synthetic, monkeypatch):
    config, workdir = synthetic(fractions=(0.9, 0.5), trials=1)
    link(config, workdir)
    select(_with(config, fractions=(0.9,)), workdir)
    first = _files(workdir, "subsets")
    with monkeypatch.context() as patch:
        patch.setattr("redundancy.selection.select.write_manifest", lambda *_: pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            select(config, workdir)
    now = _files(workdir, "subsets")
    assert len(now) == len(first) + 2
    assert now.items() >= first.items()
    select(config, workdir)
    assert len(read_manifest(workdir.subsets)["files"]) == 4


@pytest.mark.parametrize(("field", "value"), [("rule", "medoid"), ("seed", 5)])
def test_subsets_of_another_rule_or_seed_are_not_mixed(synthetic, field, value):
    config, workdir = synthetic(fractions=(0.9, 0.5), trials=1)
    _run(config, workdir)
    before = _files(workdir, "subsets")
    with pytest.raises(WorkdirError, match=rf"was made with {field} .* config.{field} is .*Delete .*subsets"):
        select(_with(config, fractions=(0.9, 0.7), **{field: value}), workdir)
    assert _files(workdir, "subsets") == before
    storage.remove(workdir.subsets)
    select(_with(config, **{field: value}), workdir)


def test_embeddings_must_be_of_the_data_set_and_have_its_labels(synthetic):
    config, workdir = synthetic()
    _, labels = EmbeddingStore(workdir.embeddings("end")).labels()
    found = storage.read_json(workdir.config)
    others = {"labels_sha256": labels_sha256(np.where(np.arange(len(labels)) == 3, labels + 1, labels))}
    disagree = rf"{workdir.embeddings('end')}: the labels disagree with those of the data set 'synthetic'"

    def record(**fields):
        storage.write_json(workdir.config, {**found, "dataset": {**found["dataset"], **fields}})

    for fields, what in (({"shard_lengths": [98]}, r"another data set\. Differing: shard_lengths"), (others, disagree)):
        record(**fields)
        for stage in (link, select):
            with pytest.raises((WorkdirError, DataError), match=what):
                stage(config, workdir)
    assert not storage.exists(workdir.merges("end"))
    record(labels_sha256=labels_sha256(labels))
    link(config, workdir)
    record(**others)
    with pytest.raises(DataError, match=disagree):
        select(config, workdir)
    record(labels_sha256=labels_sha256(labels))
    select(config, workdir)


@pytest.mark.parametrize(
    ("layers", "what"),
    [
        (("start",), "holds other images or labels than the embeddings do now"),  # differs from the existing subsets
        (("end", "start"), "hold other images or labels"),
    ],
)
def test_layers_of_other_images_are_refused(synthetic, layers, what):
    config, workdir = synthetic(
        layers=("end",) if len(layers) == 1 else layers, fractions=(0.8,), methods=("semantic",)
    )
    if len(layers) == 1:
        _run(config, workdir)
    _take_layer(synthetic, workdir, "start")
    config = _with(config, layers=layers)
    link(config, workdir)
    with pytest.raises(DataError, match=what):
        select(config, workdir)
