"""Several finished workdirs in one figure and on one page."""

import logging
import re
import shutil
import sys

import numpy as np
import pytest
from pages import Page
from synthetic import make_workdir, noise_images

from redundancy import storage
from redundancy.cli.main import entry
from redundancy.report import compare, figures
from redundancy.report.statistics import find
from redundancy.runtime.errors import ConfigError, DataError, WorkdirError
from redundancy.workdir import write_manifest

HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """By name: one data set clustered by its three layers, one experiment each; another network; another data set."""
    root = tmp_path_factory.mktemp("compared")
    images, _ = noise_images(60)
    others, _ = noise_images(90, seed=1)
    found = {}
    for name, of, fields in (
        ("start", images, dict(layers=("start",))),
        ("middle", images, dict(layers=("middle",), methods=("semantic",))),
        ("end", images, dict(layers=("end",), methods=("semantic",))),
        ("deeper", images, dict(depth=20)),
        ("other", others, {}),
    ):
        (root / name).mkdir()
        # One file for one data set: its name is in the fingerprint.
        _, found[name] = make_workdir(root / name, of, np.arange(len(of)) % 2, **fields)
    return {name: workdir.root for name, workdir in found.items()}


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    """Puts back what a process of its own would take with it."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    loggers = [logging.getLogger(name) for name in ("root", "absl")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def drawn(monkeypatch):
    """The panels of the figures that were drawn."""
    seen = []
    plot = figures.comparison_plot
    monkeypatch.setattr(figures, "comparison_plot", lambda panels, name: (seen.append(panels), plot(panels, name))[1])
    return seen


def run(tmp_path, *roots):
    output = tmp_path / "out"
    assert entry(["redundancy", "report", "--compare", *roots, f"--output={output}"]) == 0
    for kind in ("svg", "pdf", "png"):
        assert (output / "figures" / f"comparison.{kind}").stat().st_size > 1000
    return Page((output / "index.html").read_text())


def test_layers_of_three_workdirs_are_one_figure(workdirs, drawn, tmp_path):
    page = run(tmp_path, *(workdirs[name] for name in ("end", "start", "middle")))
    (panel,) = drawn[0]
    assert [line.label for line in panel.lines] == [
        "semantic clustering, start", "semantic clustering, middle", "semantic clustering, end", "random",
    ]  # fmt: skip
    start = compare.read_experiment(workdirs["start"])
    wanted = find(start.summaries, "semantic", 0.6, "start")
    assert find(panel.lines[0].summaries, "semantic", 0.6) == wanted
    assert "3 experiments on 1 data set" in page.words()


def test_data_sets_stand_side_by_side(workdirs, drawn, tmp_path):
    page = run(tmp_path, workdirs["start"], workdirs["other"])
    assert len(drawn[0]) == 2
    assert [panel.full_size for panel in drawn[0]] == [60, 90]
    assert "2 experiments on 2 data sets" in page.words()
    assert all(target.startswith(("#", "data:")) for target in page.loads)


def test_other_trainings_are_named_by_what_differs(workdirs, drawn, tmp_path):
    page = run(tmp_path, workdirs["end"], workdirs["deeper"])
    labels = [line.label for line in drawn[0][0].lines]
    assert labels == ["semantic, depth 32", "semantic, depth 20", "random, depth 20"]
    assert "differ in depth" in page.words()


def test_the_same_experiment_twice_is_named_by_folder(workdirs, tmp_path):
    same = [compare.read_experiment(workdirs["other"])] * 2
    assert compare.tags(same) == [workdirs["other"]] * 2


@pytest.mark.parametrize("kind", ["svg", "pdf", "png", "html"])
@pytest.mark.soak
def test_output_may_be_one_file(workdirs, tmp_path, kind):
    path = tmp_path / f"figure.{kind}"
    roots = [f"--compare={workdirs['start']}", "--compare", workdirs["other"]]
    assert entry(["redundancy", "report", *roots, "--output", str(path)]) == 0
    head = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG", "html": b"<!doc"}[kind]
    assert path.read_bytes().startswith(head)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_same_workdirs_give_the_same_bytes(workdirs):
    experiments = [compare.read_experiment(workdirs[name]) for name in ("start", "other")]
    assert compare.compare(experiments)[0] == compare.compare(experiments)[0]


def test_names_from_outside_are_text(workdirs, tmp_path):
    experiment = compare.read_experiment(workdirs["other"])
    hostile = compare.dataclasses.replace(experiment, name=HOSTILE, root=HOSTILE)
    page = Page(compare.compare([hostile, compare.read_experiment(workdirs["start"])])[1])
    assert page.tags.count("script") == 1
    assert HOSTILE in page.words()


def test_mistakes_are_errors(workdirs, tmp_path, capsys):
    for arguments, message in (
        ([workdirs["end"]], r"1 workdir; wanted two or more"),
        (["--what"], r"unrecognized arguments: --what"),
        ([workdirs["other"], f"--output={workdirs['end']}/report"], "lies in the workdir"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare.run(["--compare", workdirs["end"], *arguments])
    with pytest.raises(WorkdirError, match=r"no config\.json"):
        compare.run(["--compare", workdirs["end"], str(tmp_path)])
    assert entry(["redundancy", "report", "--compare", workdirs["end"]]) == 2
    assert re.search("wanted two or more", capsys.readouterr().err)
    assert entry(["redundancy", "report", "--compare", "--help"]) == 0
    assert "several finished workdirs" in capsys.readouterr().out


def test_results_that_were_changed_are_refused(tmp_path):
    images, labels = noise_images(60)
    _, workdir = make_workdir(tmp_path, images, labels)
    storage.write_text(workdir.results, "run,method\n1,full\n")
    with pytest.raises(DataError, match=r"results\.csv was changed since the sweep"):
        compare.read_experiment(workdir.root)
    write_manifest(workdir.runs, {"results_sha256": storage.sha256(workdir.results)})
    with pytest.raises(DataError, match=r"results\.csv is damaged"):
        compare.read_experiment(workdir.root)
    storage.remove(workdir.results)
    with pytest.raises(WorkdirError, match="redundancy sweep"):
        compare.read_experiment(workdir.root)


def test_a_data_set_under_another_name_is_the_same(workdirs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(workdirs["end"], copy)
    recorded = storage.read_json(str(copy / "config.json"))
    recorded["dataset"]["name"] = "elsewhere.npz"
    storage.write_json(str(copy / "config.json"), recorded)
    first, second, other = (
        compare.read_experiment(root).dataset for root in (workdirs["end"], str(copy), workdirs["other"])
    )
    assert first == second
    assert first != other
