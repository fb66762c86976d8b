"""What export writes is what the subset keeps, in every format; nothing is overwritten unless asked for."""

import dataclasses
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from redundancy import config as config_lib
from redundancy import storage
from redundancy.data import open_dataset
from redundancy.embedding import ids as ids_lib
from redundancy.export.command import Request, export
from redundancy.importing.stage import Request as Import
from redundancy.importing.stage import import_embeddings
from redundancy.runtime.errors import ConfigError, DataError, UserError, WorkdirError
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.selection.subset import read_subset, write_subset
from redundancy.status.survey import survey
from redundancy.workdir import Workdir


def lines(path):
    return open(path).read().splitlines()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"fraction": 0.9}, "semantic-0.9000"),
        ({"fraction": 0.5, "layer": "start"}, "semantic-start-0.5000"),
        ({"fraction": 0.5, "method": "random", "trial": 1}, "random-0.5000-trial1"),
    ],
)
@pytest.mark.parametrize("dropped", [False, True])
def test_every_format(selected, tmp_path, fields, name, dropped):
    _, workdir = selected
    subset = read_subset(workdir.subset(name))
    chosen = ~subset.kept if dropped else subset.kept
    for kind in ("npy", "txt", "parquet"):
        export(Request(format=kind, output=str(tmp_path / f"out.{kind}"), dropped=dropped, **fields), workdir)
    positions = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert positions.dtype == np.int64
    assert (positions == subset.positions[chosen]).all()
    assert lines(tmp_path / "out.txt") == list(map(str, positions))
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["position", "label", "class", "group", "kept", "dissimilarity"]
    assert table["position"].to_pylist() == positions.tolist()
    assert table["label"].to_pylist() == subset.labels[chosen].tolist()
    assert table["class"].to_pylist() == [f"class {label}" for label in subset.labels[chosen]]
    assert set(table["kept"].to_pylist()) == {not dropped}
    groups = subset.group[chosen].tolist()
    assert table["group"].to_pylist() == (groups if groups[0] >= 0 else [None] * len(groups))
    assert json.loads(table.schema.metadata[b"subset"]) == subset.metadata


def test_a_subset_that_keeps_more_than_its_fraction_says_so(synthetic, tmp_path, caplog):
    config, workdir = synthetic(sizes=(30, 1, 12, 7), fractions=(0.5, 0.12, 0.05, 0.02), trials=2)
    link(config, workdir)
    select(config, workdir)
    said = [record.getMessage() for record in caplog.records if "asked" in record.getMessage()]
    # Half of an image is rounded up, and 6 of 50 are what 0.12 asks for; random subsets are as large.
    at = {
        0.05: "at 0.05 asked 3 of 50 images (6 %), kept 5 (10 %): 1 class keeps its only image and 2 classes keep one image, "
        "more than their share.",
        0.02: "at 0.02 asked 1 of 50 images (2 %), kept 4 (8 %): 1 class keeps its only image and 3 classes keep one image, "
        "more than their share.",
    }
    assert said == [f"{command}: {text}" for command in ("link end", "select") for text in at.values()]
    caplog.clear()
    for fraction in (0.5, 0.12, 0.02):
        export(Request(fraction, "npy", str(tmp_path / f"{fraction}.npy")), workdir)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [f"export: {at[0.02]}"]


def test_a_set_without_labels_is_one_class_in_what_is_exported(tmp_path):
    np.save(tmp_path / "E.npy", np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    workdir = Workdir(str(tmp_path / "v"))
    import_embeddings(Import(str(tmp_path / "E.npy")), workdir)
    config = config_lib.resolve({"dataset": "", "methods": ("semantic",), "fractions": (0.5, 0.01)})
    workdir.claim(config)
    link(config, workdir)
    select(config, workdir)
    export(Request(0.5, "parquet", str(tmp_path / "out.parquet")), workdir)
    table = pq.read_table(tmp_path / "out.parquet")
    assert (table.num_rows, set(table["class"].to_pylist())) == (20, {"all"})
    assert survey(workdir.root)["stages"][1]["files"] == "end: 1 parts, one class, imported"


def test_nothing_is_overwritten_unless_asked_for(selected, tmp_path):
    _, workdir = selected
    path = tmp_path / "kept.txt"
    path.write_text("mine")
    request = Request(0.9, "txt", str(path))
    with pytest.raises(ConfigError, match=r"kept\.txt is there already.*--overwrite"):
        export(request, workdir)
    assert path.read_text() == "mine"
    export(dataclasses.replace(request, overwrite=True), workdir)
    assert len(lines(path)) == 45
    assert {entry.name for entry in tmp_path.iterdir()} == {"kept.txt", "w"}


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        (
            {"fraction": 0.8},
            r"no semantic-0\.8000\. There are the fractions --method semantic: 0\.9, 0\.5; --method semantic --layer "
            r"start: 0\.9, 0\.5; --method random --trial 0: .*redundancy select .*--config\.fractions=0\.8",
        ),
        ({"fraction": 0.90004}, r"--fraction is 0\.90004; wanted one that was selected.*--method semantic: 0\.9, 0\.5"),
        ({"fraction": 0.89996}, r"--fraction is 0\.89996"),
        ({"fraction": 0.00009}, r"--fraction is 9e-05; wanted a number from 0\.0001 to 1"),
        ({"fraction": 0.7654321}, r"redundancy select .*--config\.fractions=0\.7654321\b"),
        ({"fraction": 0.3}, r'no semantic-0\.3000\. .* 0\.3 needs more merges\. .* "redundancy link" with'),
        ({"fraction": float("nan")}, r"--fraction is nan; wanted a number from 0\.0001 to 1"),
        ({"fraction": 90}, "--fraction is 90; wanted a number from 0.* For 90 %: 0.9"),
        ({"fraction": -0.9}, r"--fraction is -0\.9; wanted a number from 0"),
        ({"fraction": 0}, "--fraction is 0; wanted a number from 0"),
        ({"fraction": 0.9, "layer": "middle"}, r"no semantic-middle-0\.9000"),
        ({"fraction": 0.9, "method": "random", "trial": 2}, r"no random-0\.9000-trial2"),
        ({"fraction": 0.9, "method": "random"}, "--trial is missing"),
        ({"fraction": 0.9, "method": "random", "trial": 0, "layer": "end"}, "--layer is given, but random"),
        ({"fraction": 0.9, "trial": 0}, "--trial is given, but there is one semantic"),
        ({"fraction": 0.9, "layer": "last"}, "wanted one of start, middle, end"),
        ({"fraction": 0.9, "format": "json"}, "wanted one of npy, txt, csv, parquet, folder, tfds, groups-csv, groups-parquet, projector"),
        ({"fraction": 0.9, "format": "groups-csv", "dropped": True}, "--dropped is given, but --format groups-csv has all"),
        ({"fraction": 0.9, "format": "tfds", "image_ids": "none"}, "--image-ids is not for --format tfds"),
        ({"fraction": 0.9, "null": True}, "--null is for --format txt, not for npy"),
        ({"fraction": 0.9, "link": "hard"}, "--link is for --format folder, not for npy"),
        ({"fraction": 0.9, "format": "groups-csv", "image_ids": "x"}, "--image-ids is 'x'; wanted one of auto, position, tfds, none"),
        ({"fraction": 0.9, "limit": 3}, "--limit is for --format projector, not for npy"),
        ({"fraction": 0.9, "format": "projector", "limit": 0}, "--limit is 0; wanted"),
        ({"fraction": 0.9, "format": "projector", "limit": 3}, "--limit is 3; wanted at least 4, an image of each class"),
        ({"fraction": 0.9, "format": "projector", "limit": 10**6}, "--limit is 1000000; wanted at most 100000"),
        ({"fraction": 0.9, "method": "semantik"}, "wanted one of semantic, random"),
    ],
)  # fmt: skip
def test_what_is_not_there(selected, tmp_path, fields, what):
    _, workdir = selected
    with pytest.raises(ConfigError, match=what):
        export(Request(**{"format": "npy", "output": str(tmp_path / "out"), **fields}), workdir)
    assert not (tmp_path / "out").exists()


def test_outputs_that_are_no_files_are_refused(selected, tmp_path, monkeypatch):
    _, workdir = selected
    os.mkfifo(tmp_path / "fifo")
    os.symlink("/dev/null", tmp_path / "null")
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    for output, what in (
        ("-", r"--output=-: nothing is written to the standard output"),
        ("newdir/", r"--output=newdir/ is a folder; wanted a file, such as newdir/kept\.npy"),
        (str(tmp_path), r"is a folder; wanted a file, such as .*/kept\.npy"),
        ("file://" + str(tmp_path), r"is a folder"),
        ("fifo", "--output=fifo is a pipe, device"),
        ("null", "--output=null is a pipe, device"),
        ("/dev/null", "--output=/dev/null is a pipe, device"),
        ("file/kept", "--output=file/kept cannot be written .*A file stands where its folder is wanted"),
        ("/proc/kept", r"--output=/proc/kept cannot be written \(.*\)\. Choose a file in a folder that you may write to"),
    ):  # fmt: skip
        for overwrite in (False, True):
            there = "" if overwrite else "|is there already"
            with pytest.raises(ConfigError, match=f"{what}{there}") as raised:
                export(Request(0.9, "npy", output, overwrite=overwrite), workdir)
            assert ".tmp" not in str(raised.value)
            assert "--workdir" not in str(raised.value)
    assert sorted(os.listdir()) == before


def test_other_artifacts_than_selected_are_refused(selected, tmp_path):
    _, workdir = selected
    request = Request(0.9, "parquet", str(tmp_path / "out"))
    with pytest.raises(WorkdirError, match='run "redundancy select"'):
        export(request, Workdir(str(tmp_path / "none")))
    with pytest.raises(DataError, match="'synthetic' is not one of TFDS"):
        export(dataclasses.replace(request, format="tfds"), workdir)
    (tmp_path / "w" / "runs").mkdir()
    with pytest.raises(ConfigError, match=r"fractions=0\.8\", with the fractions of the runs beside it"):
        export(dataclasses.replace(request, fraction=0.8), workdir)
    path = storage.join(workdir.embeddings("end"), "manifest.json")
    manifest = storage.read_json(path)
    storage.write_json(path, {**manifest, "checkpoint": "other"})
    with pytest.raises(WorkdirError, match="made from other embeddings"):
        export(request, workdir)
    storage.remove(path)
    with pytest.raises(DataError, match=r"manifest\.json is missing, but part-.* is there: the embeddings are damaged"):
        export(request, workdir)
    # Without the embeddings the subset is still there; the names of the classes are not.
    storage.remove(workdir.path("embeddings"))
    export(request, workdir)
    assert "class" not in pq.read_table(tmp_path / "out").column_names
    storage.write_bytes(workdir.subset("semantic-0.9000"), b"other")
    with pytest.raises(DataError, match=r"semantic-0\.9000\.parquet is missing, damaged"):
        export(dataclasses.replace(request, overwrite=True), workdir)


@pytest.fixture
def imported(selected_from):
    """Imports 50 embeddings of no data set, with these fields."""
    rng, config = np.random.default_rng(0), config_lib.resolve({"dataset": "", "fractions": (0.8,), "trials": 1})
    embeddings, labels = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, 2, 50)
    return lambda **fields: selected_from(embeddings, labels, config, **fields)


def test_what_the_lines_are_is_logged_and_lost_ids_are_missed(tmp_path, imported, caplog):
    caplog.set_level("INFO", "absl")
    (tmp_path / "I.txt").write_text("".join(f"img {row}\n" for row in range(50)))
    workdir = imported()

    def said(form="txt"):
        caplog.clear()
        export(Request(0.8, form, str(tmp_path / "kept"), overwrite=True), workdir)
        return caplog.records[-1].getMessage()

    assert "by their positions (they have no names)" in said()
    again = Import(str(tmp_path / "E.npy"), str(tmp_path / "Y.npy"), ids=str(tmp_path / "I.txt"))
    import_embeddings(again, workdir)
    for form in ("txt", "npy", "csv", "parquet"):
        assert said(form).endswith("by their names")
    storage.remove(ids_lib.path(workdir.embeddings("end")))
    for form in ("txt", "npy", "csv", "parquet"):
        with pytest.raises(DataError, match=r"ids\.parquet is missing, .* there were names"):
            said(form)
    import_embeddings(again, workdir)
    assert said().endswith("by their names")
    storage.remove(workdir.path("embeddings"))
    assert "the embeddings, and with them any names, are no longer there" in said()


def test_ids_that_were_imported_come_back(tmp_path, imported):
    names = [f"bilder/größe {row}, ok.jpg" for row in range(50)]
    (tmp_path / "I.txt").write_text("".join(f"{name}\n" for name in names))
    workdir = imported(ids=str(tmp_path / "I.txt"))
    subset = read_subset(workdir.subset("semantic-0.8000"))
    request = Request(0.8, "txt", str(tmp_path / "kept.txt"))
    export(request, workdir)
    assert lines(tmp_path / "kept.txt") == [names[position] for position in subset.kept_positions]
    export(dataclasses.replace(request, dropped=True, output=str(tmp_path / "dropped.txt")), workdir)
    assert sorted(lines(tmp_path / "kept.txt") + lines(tmp_path / "dropped.txt")) == sorted(names)
    export(dataclasses.replace(request, format="parquet", output=str(tmp_path / "kept.parquet")), workdir)
    assert pq.read_table(tmp_path / "kept.parquet")["id"].to_pylist() == lines(tmp_path / "kept.txt")
    random = dataclasses.replace(request, method="random", trial=0, output=str(tmp_path / "random.txt"))
    export(random, workdir)
    kept = read_subset(workdir.subset("random-0.8000-trial0")).kept_positions
    assert lines(tmp_path / "random.txt") == [names[position] for position in kept]
    folder = workdir.embeddings("end")
    content = storage.read_json(storage.join(folder, "manifest.json"))["checkpoint"]["sha256"]
    ids_lib.write(folder, np.arange(40), pa.array(names[:40], pa.large_string()), content)
    with pytest.raises(DataError, match="no id for some positions"):
        export(dataclasses.replace(request, overwrite=True), workdir)


@pytest.mark.parametrize("split", ["train", "train[10%:55%]"])
def test_tfds_ids_are_those_of_tfds(tmp_path, selected_from, split):
    tfds = pytest.importorskip("tensorflow_datasets")
    from redundancy.data.digits import Digits

    builder = Digits(data_dir=tmp_path)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
    config = config_lib.resolve({"data_dir": str(tmp_path), "train_split": split, "fractions": (0.7,), "trials": 1})
    dataset = open_dataset(config)
    labels = dataset.train.labels
    workdir = selected_from(np.random.default_rng(0).normal(size=(len(labels), 6)), labels, config)
    export(Request(0.7, "tfds", str(tmp_path / "ids.txt")), workdir)
    read_config = tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1)
    stored = tfds.as_numpy(builder.as_dataset(split=split, read_config=read_config, shuffle_files=False))
    theirs = [example["tfds_id"].decode() for example in stored]
    kept = read_subset(workdir.subset("semantic-0.7000")).kept_positions
    assert lines(tmp_path / "ids.txt") == [theirs[position] for position in kept]
    assert {name.split("-of-")[0] for name in theirs} >= {"digits-train.tfrecord-00001"}
    # A fingerprint of an earlier version does not tell the files.
    path = workdir.subset("semantic-0.7000")
    subset = read_subset(path)
    del subset.metadata["fingerprint"]["files"]
    manifest = storage.read_json(storage.join(workdir.subsets, "manifest.json"))
    sha256 = write_subset(path, subset)
    files = [
        {**file, "sha256": sha256} if file["file"] == "semantic-0.7000.parquet" else file for file in manifest["files"]
    ]
    storage.write_json(storage.join(workdir.subsets, "manifest.json"), {**manifest, "files": files})
    with pytest.raises(UserError, match="does not name the data set's files"):
        export(Request(0.7, "tfds", str(tmp_path / "ids2.txt")), workdir)


@pytest.mark.parametrize(
    "fields",
    [{"fraction": 0.5}, {"fraction": 0.9, "layer": "start"}, {"fraction": 0.9, "method": "random", "trial": 1}],
)
def test_groups_tell_every_image_and_every_fraction(selected, tmp_path, fields):
    _, workdir = selected
    for kind in ("csv", "parquet"):
        export(Request(format=f"groups-{kind}", output=str(tmp_path / kind), **fields), workdir)
    table = pq.read_table(tmp_path / "parquet")
    names = ["position", "label", "class", "group", "kept", "dissimilarity", "group_size", "kept_0.9000", "kept_0.5000"]
    assert table.column_names == names
    layer, trial = fields.get("layer"), fields.get("trial")
    stem = "-".join(filter(None, [fields.get("method", "semantic"), layer]))
    by_fraction = {
        fraction: read_subset(workdir.subset(f"{stem}-{fraction:.4f}" + ("" if trial is None else f"-trial{trial}")))
        for fraction in (0.9, 0.5)
    }
    subset = by_fraction[fields["fraction"]]
    assert table["position"].to_pylist() == subset.positions.tolist()
    assert table["kept"].to_pylist() == subset.kept.tolist()
    for fraction, other in by_fraction.items():
        assert table[f"kept_{fraction:.4f}"].to_pylist() == other.kept.tolist()
    if trial is None:
        assert table["group"].to_pylist() == subset.group.tolist()
        sizes = {group: subset.group.tolist().count(group) for group in subset.group.tolist()}
        assert table["group_size"].to_pylist() == [sizes[group] for group in subset.group.tolist()]
    else:
        assert table["group"].null_count == table["group_size"].null_count == len(table)
    read = csv.read_csv(tmp_path / "csv", convert_options=csv.ConvertOptions(column_types=table.schema))
    assert read.equals(table.replace_schema_metadata(None))


def test_groups_name_the_images(tmp_path, imported):
    names = [f'bilder/größe "{row}", ok.jpg' for row in range(50)]
    (tmp_path / "I.txt").write_text("".join(f"{name}\n" for name in names))
    workdir = imported(ids=str(tmp_path / "I.txt"))
    request = Request(0.8, "groups-csv", str(tmp_path / "groups.csv"))
    export(request, workdir)
    assert csv.read_csv(tmp_path / "groups.csv")["id"].to_pylist() == names
    export(dataclasses.replace(request, image_ids="none", overwrite=True), workdir)
    assert "id" not in csv.read_csv(tmp_path / "groups.csv").column_names
    with pytest.raises(DataError, match="not one of TFDS"):
        export(dataclasses.replace(request, image_ids="tfds", overwrite=True), workdir)


def test_files_of_a_folder_are_named(images, tmp_path):
    config, workdir, _ = images
    export(Request(0.8, "groups-parquet", str(tmp_path / "groups")), workdir, config)
    table = pq.read_table(tmp_path / "groups")
    for name, of_class in zip(table["id"].to_pylist(), table["class"].to_pylist(), strict=True):
        assert (tmp_path / "images" / name).is_file()
        assert name.split("/")[:2] == ["train", of_class]
    other = config_lib.resolve({"dataset": str(tmp_path / "images"), "test_split": ""})
    with pytest.raises(WorkdirError, match="belongs to another data set"):
        export(Request(0.8, "groups-parquet", str(tmp_path / "other")), workdir, other)
