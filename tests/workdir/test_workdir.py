"""A workdir belongs to one config and one data set."""

import datetime

import pytest

from redundancy import config as config_lib
from redundancy import storage
from redundancy.runtime.errors import DataError, WorkdirError
from redundancy.workdir import Workdir, need_manifest, run_name, subset_name, write_manifest


def claim(workdir, **fields):
    workdir.claim(config_lib.resolve(fields))


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "w").mkdir()
    return Workdir(str(tmp_path / "w"))


def recorded(workdir):
    return storage.read_json(workdir.config)["config"]


def test_another_config_is_refused_and_the_fields_named(workdir):
    claim(workdir, lr_per_256=0.4)
    claim(workdir, lr_per_256=0.3)  # nothing was made with 0.4
    storage.make_dirs(workdir.pretrain)
    claim(workdir, lr_per_256=0.3)
    with pytest.raises(WorkdirError) as caught:
        claim(workdir, lr_per_256=0.5, depth=8)
    assert "lr_per_256: 0.3 there, 0.5 here" in str(caught.value)
    assert "depth" in str(caught.value)
    assert "seed" not in str(caught.value)
    assert workdir.pretrain in str(caught.value)
    assert recorded(workdir)["lr_per_256"] == 0.3


LATER = {"fractions": (0.9,), "methods": ("semantic",), "trials": 7, "layers": ("start",), "report_groups": 3}


def test_what_nothing_depends_on_yet_may_differ(workdir):
    claim(workdir)
    workdir.claim_dataset({"name": "digits"})
    storage.make_dirs(workdir.pretrain)
    claim(workdir, **LATER, rule="medoid", budget="epochs", embedding_parts=3)
    assert recorded(workdir)["fractions"] == [0.9]
    assert workdir.dataset_fingerprint() == {"name": "digits"}
    storage.make_dirs(workdir.merges("end"))
    write_manifest(workdir.embeddings("end"), {"checkpoint": "pretrain/checkpoints/3"})
    with pytest.raises(WorkdirError, match="embedding_parts: 3 there, 8 here"):
        claim(workdir, **LATER)
    storage.remove(workdir.pretrain)
    with pytest.raises(WorkdirError, match=f"steps: .*{workdir.embeddings('end')} made"):
        claim(workdir, embedding_parts=3, steps=5000)
    storage.make_dirs(workdir.runs)
    with pytest.raises(
        WorkdirError, match=rf"steps: 100000 there, 5000 here \({workdir.runs}, {workdir.embeddings('end')} made"
    ):
        claim(workdir, **LATER, rule="medoid", budget="epochs", embedding_parts=3, steps=5000)
    storage.make_dirs(workdir.report)
    claim(
        workdir, **{**LATER, "report_groups": 4}, rule="medoid", budget="epochs", embedding_parts=3, data_dir="/there"
    )
    assert recorded(workdir)["report_groups"] == 4
    assert recorded(workdir)["data_dir"] == "/there"


def test_which_runs_there_are_may_differ_and_the_history_is_kept(workdir):
    claim(workdir, trials=2, fractions=(0.9,))
    claim(workdir, trials=3, fractions=(0.9,))  # nothing was made: there is no history
    storage.make_dirs(workdir.runs)
    claim(workdir, trials=3, fractions=(0.9,))
    before = storage.read_json(workdir.config)
    assert "asked" not in before
    claim(workdir, trials=5, fractions=(0.9,))
    claim(workdir, trials=5, fractions=(0.9,), report_groups=7)  # changes no run
    claim(workdir, trials=2, fractions=(0.9, 0.7), methods=("semantic",), layers=("start", "end"))
    asked = storage.read_json(workdir.config)["asked"]
    assert [each["changed"] for each in asked] == [
        {"trials": {"before": 3, "after": 5}},
        {
            "fractions": {"before": [0.9], "after": [0.9, 0.7]},
            "layers": {"before": ["end"], "after": ["start", "end"]},
            "methods": {"before": ["semantic", "random"], "after": ["semantic"]},
            "trials": {"before": 5, "after": 2},
        },
    ]
    assert all(datetime.datetime.fromisoformat(each["time"]).tzinfo for each in asked)
    with pytest.raises(WorkdirError, match=rf"seed: 0 there, 1 here \({workdir.runs} made with it"):
        claim(workdir, trials=9, seed=1)
    assert recorded(workdir)["trials"] == 2


def test_a_part_of_a_sweep_does_not_change_which_runs_there_are(workdir):
    config = config_lib.resolve({"trials": 2})
    workdir.claim(config, part=True)
    storage.make_dirs(workdir.runs)
    workdir.claim(config, part=True)
    before = storage.read_bytes(workdir.config)
    with pytest.raises(WorkdirError, match=r'trials: 2 there, 3 here.*run "redundancy select" with these values first'):
        workdir.claim(config_lib.resolve({"trials": 3}), part=True)
    assert storage.read_bytes(workdir.config) == before


def test_imported_embeddings_depend_on_no_field(workdir):
    write_manifest(workdir.embeddings("end"), {"checkpoint": {"sha256": "0"}})
    claim(workdir, dataset="")
    claim(workdir, dataset="digits", depth=8, widths=(4, 4, 4), steps=3000, seed=4, embedding_parts=2)
    assert recorded(workdir)["depth"] == 8


def test_subsets_depend_on_rule_and_seed(workdir):
    claim(workdir)
    storage.write_text(workdir.subset("semantic-0.9000"), "")
    claim(workdir, seed=1)
    with pytest.raises(WorkdirError, match=f"rule: .*delete {workdir.subsets}, or choose"):
        claim(workdir, seed=1, rule="medoid")
    storage.write_text(workdir.subset("random-0.9000-trial0"), "")
    with pytest.raises(WorkdirError, match="seed: 1 there, 2 here"):
        claim(workdir, seed=2)
    claim(workdir, seed=1, fractions=(0.3,))
    storage.remove(workdir.subsets)
    claim(workdir, seed=2, rule="medoid")


def test_another_data_set_is_refused(tmp_path):
    workdir = Workdir(str(tmp_path / "w"))
    workdir.claim(config_lib.resolve({}))
    assert workdir.dataset_fingerprint() is None
    workdir.claim_dataset({"name": "digits", "shard_lengths": [10]})
    workdir.claim_dataset({"name": "digits", "shard_lengths": [10]})
    assert workdir.dataset_fingerprint() == {"name": "digits", "shard_lengths": [10]}
    with pytest.raises(WorkdirError, match=r"shard_lengths: \[10\] recorded, \[11\] now"):
        workdir.claim_dataset({"name": "digits", "shard_lengths": [11]})


def test_the_fingerprint_says_whether_a_data_set_lies_elsewhere(workdir):
    fingerprint = {"name": "photos", "sha256": "ab"}
    first = config_lib.resolve({"dataset": "/old/photos"})
    claimed = workdir.claim(first)
    assert config_lib.identity(claimed) == config_lib.identity(first)
    workdir.claim_dataset(fingerprint)
    storage.make_dirs(workdir.pretrain)
    before = storage.read_bytes(workdir.config)
    moved = config_lib.resolve({"dataset": "/elsewhere/copy", "image_size": 0})
    with pytest.raises(WorkdirError, match="dataset: '/old/photos' there, '/elsewhere/copy' here"):
        workdir.claim(moved)

    def opened(config):
        assert config.dataset == "/elsewhere/copy"
        return {"name": config_lib.dataset_name(config, "copy"), "sha256": "ab"}

    claimed = workdir.claim(moved, opened)
    assert claimed.dataset == "/elsewhere/copy"
    assert config_lib.identity(claimed) == config_lib.identity(first)
    assert storage.read_bytes(workdir.config) == before
    with pytest.raises(WorkdirError, match=r"another data set\. Differing: sha256: 'ab' recorded, 'cd' now"):
        workdir.claim(moved, lambda config: {**opened(config), "sha256": "cd"})
    with pytest.raises(WorkdirError, match="Differing: depth: "):
        workdir.claim(config_lib.resolve({"dataset": "/elsewhere/copy", "depth": 8}), opened)
    assert storage.read_bytes(workdir.config) == before
    workdir.claim(config_lib.resolve({"dataset": "/elsewhere/copy", "trials": 7}), opened)
    assert recorded(workdir)["trials"] == 7
    assert recorded(workdir)["dataset"] == "/old/photos"


def test_fields_that_earlier_versions_did_not_record_are_no_difference(workdir):
    claim(workdir)
    workdir.claim_dataset({"name": "digits"})
    workdir.claim_dataset({"name": "digits", "labels_sha256": "a", "files": [["f", 0, 1]]})
    with pytest.raises(WorkdirError, match="labels_sha256: 'a' recorded, 'b' now"):
        workdir.check_fingerprint(
            {"name": "digits", "labels_sha256": "a"}, {"name": "digits", "labels_sha256": "b"}, "x"
        )


def test_a_missing_stage_is_named(tmp_path):
    folder = str(tmp_path / "embeddings")
    with pytest.raises(WorkdirError, match='run "redundancy embed"'):
        need_manifest(folder, "embed")
    write_manifest(folder, {"parts": 2})
    assert need_manifest(folder, "embed") == {"parts": 2}


@pytest.mark.parametrize("names", [(), ("/",), ("../part",), ("..",), ("",), ("a\0",)])
def test_parts_of_a_manifest_are_files_beside_it(tmp_path, names):
    write_manifest(str(tmp_path), {"parts": [{"file": name, "sha256": "0"} for name in names]})
    with pytest.raises(DataError, match=r"manifest\.json"):
        need_manifest(str(tmp_path), "embed")
    write_manifest(str(tmp_path), {"parts": [{"file": "part", "sha256": "0"}]})
    assert need_manifest(str(tmp_path), "embed")["parts"]


def test_names_follow_the_contract():
    assert subset_name("semantic", 0.9) == "semantic-0.9000"
    assert subset_name("random", 0.9, 2) == "random-0.9000-trial2"
    assert subset_name("semantic", 0.25, layer="start") == "semantic-start-0.2500"
    assert run_name("full", 1.0, 0) == "full-1.0000-trial0"


def test_a_workdir_that_lost_its_config_is_refused(workdir):
    claim(workdir)
    storage.make_dirs(workdir.merges("end"))
    storage.remove(workdir.config)
    with pytest.raises(WorkdirError, match=r"holds merges but no config\.json"):
        claim(workdir)
