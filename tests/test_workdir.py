"""A workdir belongs to one config and one data set."""

import pytest

from redundancy import config as config_lib
from redundancy.errors import WorkdirError
from redundancy.workdir import Workdir, need_manifest, run_name, subset_name, write_manifest


def test_another_config_is_refused_and_the_fields_named(tmp_path):
    workdir = Workdir(str(tmp_path / "w"))
    workdir.claim(config_lib.resolve({"trials": 4}))
    workdir.claim(config_lib.resolve({"trials": 3}))  # nothing was made with 4 trials
    (tmp_path / "w" / "pretrain").mkdir()
    workdir.claim(config_lib.resolve({"trials": 3}))
    with pytest.raises(WorkdirError) as caught:
        workdir.claim(config_lib.resolve({"trials": 5, "fractions": (0.9,)}))
    assert "trials: 3 there, 5 here" in str(caught.value)
    assert "fractions" in str(caught.value)
    assert "seed" not in str(caught.value)


def test_another_data_set_is_refused(tmp_path):
    workdir = Workdir(str(tmp_path / "w"))
    workdir.claim(config_lib.resolve({}))
    assert workdir.dataset_fingerprint() is None
    workdir.claim_dataset({"name": "digits", "shard_lengths": [10]})
    workdir.claim_dataset({"name": "digits", "shard_lengths": [10]})
    assert workdir.dataset_fingerprint() == {"name": "digits", "shard_lengths": [10]}
    with pytest.raises(WorkdirError, match=r"shard_lengths: \[10\] recorded, \[11\] now"):
        workdir.claim_dataset({"name": "digits", "shard_lengths": [11]})


def test_a_missing_stage_is_named(tmp_path):
    folder = str(tmp_path / "embeddings")
    with pytest.raises(WorkdirError, match='run "redundancy embed"'):
        need_manifest(folder, "embed")
    write_manifest(folder, {"parts": 2})
    assert need_manifest(folder, "embed") == {"parts": 2}


def test_names_follow_the_contract():
    assert subset_name("semantic", 0.9) == "semantic-0.9000"
    assert subset_name("random", 0.9, 2) == "random-0.9000-trial2"
    assert subset_name("semantic", 0.25, layer="start") == "semantic-start-0.2500"
    assert run_name("full", 1.0, 0) == "full-1.0000-trial0"
