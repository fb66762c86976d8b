"""The table of subsets and runs, and the steps of each, which every stage and the command `status` share."""

import dataclasses
import json

import pytest

from redundancy import config as config_lib
from redundancy import storage
from redundancy.status.survey import survey
from redundancy.workdir import Workdir, table
from redundancy.workdir.finished import is_finished

BOTH = [f"{method}-{fraction}" for method in ("semantic", "random") for fraction in ("0.9000", "0.5000")]


@pytest.mark.parametrize(
    ("fields", "subsets"),
    [
        ({"fractions": (0.5, 0.9), "trials": 2}, ["full-1.0000", *BOTH]),
        ({"fractions": (1.0,), "trials": 1}, ["full-1.0000"]),
        ({"fractions": (0.9,), "trials": 1, "layers": ("start", "end")}, ["full-1.0000", "semantic-start-0.9000", "semantic-0.9000", "random-0.9000"]),
    ],
)  # fmt: skip
def test_the_table_is_methods_by_layers_of_semantic_by_fractions_by_trials_and_the_full_set(fields, subsets):
    found = [run.name for run in table.runs(config_lib.resolve(fields))]
    assert found == [f"{name}-trial{trial}" for name in subsets for trial in range(fields["trials"])]


def test_random_runs_have_a_subset_each_semantic_ones_share_theirs():
    runs = table.runs(config_lib.resolve({"fractions": (0.9,), "trials": 2}))
    assert [run.subset for run in runs] == [
        None, None, "semantic-0.9000", "semantic-0.9000", "random-0.9000-trial0", "random-0.9000-trial1",
    ]  # fmt: skip


def test_trials_are_paired_by_seed_and_differ_from_the_network_that_embeds():
    runs = table.runs(config_lib.resolve({"fractions": (0.9, 0.5), "trials": 3}))
    assert {(run.trial, run.seed) for run in runs} == {(0, 1), (1, 2), (2, 3)}


def test_budgets():
    config = {"fractions": (0.9, 0.25), "trials": 1, "steps": 1000, "warmup_steps": 0}
    steps = {run.name: run.steps for run in table.runs(config_lib.resolve({**config, "budget": "epochs"}))}
    assert steps == {
        "full-1.0000-trial0": 1000, "semantic-0.9000-trial0": 900, "semantic-0.2500-trial0": 250,
        "random-0.9000-trial0": 900, "random-0.2500-trial0": 250,
    }  # fmt: skip
    assert {run.steps for run in table.runs(config_lib.resolve(config))} == {1000}


@pytest.mark.parametrize("methods", [("semantic",), ("random",), ("random", "semantic")])
def test_runs_and_what_select_still_lacks_are_of_the_subsets_asked_for(methods, tmp_path):
    fields = {"methods": methods, "layers": ("start", "end"), "fractions": (0.25, 1.0, 0.5), "trials": 2}
    config = config_lib.resolve(fields)
    asked = table.subsets(config)
    assert (
        len({each.name for each in asked}) == len(asked) == sum({"semantic": 6, "random": 6}[name] for name in methods)
    )
    assert {each.name for each in asked if each.fraction < 1} == {run.subset for run in table.runs(config)} - {None}
    workdir = Workdir(str(tmp_path))
    files = [{"file": f"{each.name}.parquet", "sha256": "", **dataclasses.asdict(each)} for each in asked]
    storage.write_json(workdir.config, {"config": config_lib.to_json(config)})
    for made in (files[1:], files):
        storage.write_json(storage.join(workdir.subsets, "manifest.json"), {"files": made})
        assert is_finished(config, workdir, "select") == (made is files)
        (select,) = [stage for stage in survey(workdir.root)["stages"] if stage["stage"] == "select"]
        assert (select["state"] == "finished") == (made is files)


def test_steps_are_those_of_the_schedule():
    for epochs in (0.0, 0.5, 7.5, 90.0):
        for images in (1347, 50_000, 1_281_167):
            for batch in (48, 100, 128):
                for budget in ("steps", "epochs"):
                    given = {"epochs": epochs, "batch_size": batch, "budget": budget, "warmup_steps": 0}
                    config = config_lib.resolve({**given, "fractions": (0.95, 0.3333, 0.25)})
                    for run in table.runs(config, images):
                        assert run.steps == table.subset_schedule(config, images, run.fraction).steps


def test_status_counts_the_steps_that_the_schedule_has(tmp_path):
    fields = {"dataset": "digits", "epochs": 7.5, "batch_size": 48, "warmup_steps": 0}
    config = config_lib.resolve(fields)
    assert table.full_schedule(config, 50_000).steps == 7813  # where 7.5 * 50_000 / 48 is rounded to 7812
    workdir = Workdir(str(tmp_path / "w"))
    storage.write_json(workdir.config, {"config": config_lib.to_json(config)})
    for folder in (workdir.pretrain, workdir.run("full-1.0000-trial0")):
        line = {"step": 5, "time": 1e9, "loss": 1.0, "images_per_second": 1.0}
        storage.write_text(storage.join(folder, "metrics.jsonl"), json.dumps(line))
    found = survey(workdir.root)
    assert found["pretrain"]["steps"] is None
    storage.write_json(storage.join(workdir.embeddings("end"), "manifest.json"), {"num_examples": 50_000})
    found = survey(workdir.root)
    assert (found["pretrain"]["steps"], found["runs"]["training"][0]["steps"]) == (7813, 7813)


def test_a_fraction_is_four_decimals():
    assert config_lib.fraction_name(1 / 3) == "0.3333"
    assert config_lib.same_fraction(1 / 3, 0.3333)
    assert not config_lib.same_fraction(0.3333, 0.3334)
    assert table.subsets(config_lib.resolve({"fractions": (1 / 3,), "trials": 1}))[1].name == "random-0.3333-trial0"
