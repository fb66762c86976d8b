"""The registry of methods: a method that is added to it works in every stage and command."""

import io
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import redundancy
from redundancy import config as config_lib
from redundancy import methods, storage
from redundancy.export import command as export
from redundancy.export import request
from redundancy.report import compare
from redundancy.report.stage import report
from redundancy.runtime.errors import ConfigError
from redundancy.selection.select import select
from redundancy.selection.subset import read_subset
from redundancy.status.command import status
from redundancy.workdir import subset_name, table
from redundancy.workdir.finished import is_finished
from tests.report.synthetic import make_workdir, noise_images
from tests.tiers import soaked


def every_nth(*, positions, k, embeddings, merges, trial, **_):
    assert (embeddings, merges, trial) == (None, None, None)
    kept = np.zeros(len(positions), bool)
    kept[np.linspace(0, len(kept) - 1, k).astype(int)] = True
    return (kept,)


def farthest(*, k, embeddings, merges, trial, **_):
    """Keeps those farthest from an image that the trial names; looks at embeddings, has no groups."""
    assert merges is None
    away = np.linalg.norm(embeddings - embeddings[trial % len(embeddings)], axis=1)
    kept = np.zeros(len(away), bool)
    kept[np.argsort(-away, kind="stable")[:k]] = True
    return (kept,)


EVERY = methods.Method("every", "every n-th image", "by taking every n-th image", every_nth)
FAR = methods.Method("far", "the farthest", "by distance", farthest, per_layer=True, per_trial=True, fields=("seed",))


@pytest.fixture(params=[EVERY, *soaked(FAR)], ids=["every", "far"])
def further(request, monkeypatch):
    monkeypatch.setitem(methods.METHODS, request.param.name, request.param)
    return request.param


def _names(method, config):
    return {
        subset_name(method.name, fraction, trial, layer or "end")
        for fraction in config.fractions
        for layer in method.layers(config)
        for trial in method.trials(config)
    }


@pytest.mark.parametrize("beside", [("semantic", "random"), ("random",), ()], ids=["with both", "with random", "alone"])
def test_a_further_method_goes_through_every_stage(further, beside, tmp_path):
    name = further.name
    layers = ("end", "start") if beside == ("semantic", "random") else ("end",)
    config, workdir = make_workdir(tmp_path, *noise_images(60), methods=(name, *beside), layers=layers)
    assert is_finished(config, workdir, "link")
    assert is_finished(config, workdir, "select")
    files = {
        entry["file"].removesuffix(".parquet"): entry
        for entry in storage.read_json(workdir.subsets + "/manifest.json")["files"]
    }
    assert _names(further, config) == {each for each in files if each.startswith(f"{name}-")}
    for each in _names(further, config):
        subset = read_subset(workdir.subset(each))
        assert (subset.group == -1).all()
        assert len(subset.kept_positions) == round(subset.metadata["fraction"] * 60) == files[each]["size"]
        assert subset.metadata["rule"] is None
    before = storage.read_bytes(workdir.subset(sorted(files)[0]))
    select(config, workdir)
    assert storage.read_bytes(workdir.subset(sorted(files)[0])) == before

    runs = [run for run in table.runs(config) if run.method == name]
    assert {run.subset for run in runs} == _names(further, config)
    assert len(runs) == len(further.layers(config)) * 2 * config.trials

    report(config, workdir)
    page = pathlib.Path(workdir.report, "index.html").read_text()
    assert f'<th scope="row">{name}' in page
    assert f"chosen {further.how}" in page
    assert ("no groups to show" in page) == (not beside or beside == ("random",))
    assert further.title in pathlib.Path(workdir.report, "figures", "figure2.svg").read_text()
    plot, html = compare.compare([compare.read_experiment(workdir.root)])
    assert further.title in plot.svg.decode()
    assert name in html

    shown = io.StringIO()
    status(workdir.root, json=True, out=shown)
    found = json.loads(shown.getvalue())
    assert name in {row["method"] for row in found["runs"]["table"]}
    link = next(stage for stage in found["stages"] if stage["stage"] == "link")
    assert (link["state"] == "not needed") == ("semantic" not in beside)

    wanted = dict(trial=1 if further.per_trial else None)
    output = str(tmp_path / "kept.npy")
    export.export(request.Request(0.6, "npy", output, method=name, **wanted), workdir)
    assert len(np.load(output)) == 36
    with pytest.raises(ConfigError, match="--trial"):
        export.export(request.Request(0.6, "npy", output, method=name, trial=None if further.per_trial else 0), workdir)
    if further.per_layer and len(layers) > 1:
        export.export(
            request.Request(0.6, "npy", output, method=name, layer="start", overwrite=True, **wanted), workdir
        )
    elif not further.per_layer:
        with pytest.raises(ConfigError, match=f"{name} subsets come from no layer"):
            export.export(request.Request(0.6, "npy", output, method=name, layer="end"), workdir)


def test_an_unknown_method_is_refused(further):
    assert config_lib.resolve({"methods": (further.name,)}).methods == (further.name,)
    with pytest.raises(ConfigError, match="wanted one of semantic, random"):
        config_lib.resolve({"methods": ("other",)})
    assert methods.get("other") == methods.Method("other", "other", "by other")


def test_names_of_methods_stand_in_one_file():
    root = pathlib.Path(redundancy.__path__[0])
    named = [
        str(path.relative_to(root))
        for path in root.rglob("*.*")
        if path.suffix in (".py", ".html") and re.search(r"[\"'](semantic|random)[\"']", path.read_text())
    ]
    assert named == ["methods/__init__.py"]


@pytest.mark.parametrize(
    ("module", "absent"),
    [("config", {"jax", "numpy", "pyarrow"}), ("workdir.table", {"jax", "tensorflow", "matplotlib", "scipy"})],
)
def test_tables_need_nothing_heavy(module, absent):
    script = f"import sys, redundancy.{module}; print({absent} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"set()\n"
