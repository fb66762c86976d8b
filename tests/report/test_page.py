"""The stage and its page, on workdirs whose groups are real and whose accuracies are made up."""

import json
import re
import shutil

import numpy as np
import pytest
from pages import groups_of, read_classes, read_page
from PIL import Image
from synthetic import make_workdir, noise_images, unfinish

from redundancy import config as config_lib
from redundancy import storage
from redundancy.report import browser, statistics, words
from redundancy.report.stage import report, report_fraction
from redundancy.runtime.errors import ConfigError, DataError, WorkdirError
from redundancy.selection.subset import read_subset
from redundancy.workdir import Workdir, read_manifest, run_name, subset_name, write_manifest
from redundancy.workdir import finished as finished_lib

pytestmark = pytest.mark.usefixtures("quick_pdfs")

HOSTILE = ['"><script>alert(1)</script> id="x"', "$x_1$ <b>数字</b> & é"]


def make(root, count=60, shape=(8, 8, 1), classes=2, **fields):
    images, labels = noise_images(count, shape, classes)
    return make_workdir(root, images, labels, **fields)


def reported(root, *arguments, **fields):
    """The workdir of `make` with a report, and its page."""
    config, workdir = make(root, *arguments, **fields)
    report(config, workdir)
    return workdir, read_page(workdir)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A finished report, to be read alone."""
    config, workdir = make(tmp_path_factory.mktemp("plain"))
    report(config, workdir)
    return config, workdir


@pytest.fixture
def finished(plain, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(plain[1].root, tmp_path / "work")
    return plain[0], Workdir(str(tmp_path / "work"))


@pytest.fixture
def swept(finished):
    """The same before the report."""
    storage.remove(finished[1].report)
    return finished


def test_page_says_where_more_is_kept_than_was_asked_for(tmp_path, plain):
    images, _ = noise_images(300)
    labels = np.array([0] * 200 + [*range(1, 101)])
    config, workdir = make_workdir(tmp_path, images, labels, fractions=(0.9, 0.2))
    report(config, workdir)
    said = "At 0.2 asked 60 of 300 images (20 %), kept 140 (46.7 %): 100 classes keep their only image."
    page = storage.read_bytes(f"{workdir.report}/index.html").decode()
    assert page.count(said) == 1
    assert " asked " not in storage.read_bytes(f"{plain[1].report}/index.html").decode().split("Figure 2")[0]


def test_page_holds_the_groups_of_every_subset(plain):
    config, workdir = plain
    page, classes = read_page(workdir), read_classes(workdir)
    for fraction in config.fractions:
        subset = read_subset(workdir.subset(subset_name("semantic", fraction)))
        assert not subset.kept.all()
        distance = dict(zip(subset.positions.tolist(), subset.dissimilarity, strict=True))
        for label, found in classes.items():
            groups = found.groups[fraction]
            assert {group.positions[0]: set(group.positions) for group in groups} == groups_of(subset, label)
            assert found.kept[fraction] == np.count_nonzero(subset.kept[subset.labels == label])
            for group in groups:
                assert group.distances == pytest.approx([distance[each] for each in group.positions], rel=1e-6)
                assert group.pictured
                assert set(group.positions) <= found.pictures.keys()
    words = page.words()
    shared = "Pictures are shared out evenly among the classes, up to"
    for part in ("Figure 2.", "Figure 4.", "Table 1.", "Figure 12.", "3 paired trials", "paired by seed", shared):
        assert part in words
    files = read_manifest(workdir.report)["files"]
    assert {
        f"figures/{name}.{kind}"
        for name in ("figure2", "figure3", "figure4", "figure12", "appendix-1")
        for kind in ("svg", "pdf", "png")
    } <= set(files)
    assert all(storage.exists(storage.join(workdir.report, name)) for name in files)


def unit_vectors(images):
    vectors = images.reshape(len(images), -1) / 255 + 0.01
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_heights_and_neighbours_are_those_of_the_embeddings(plain):
    _, workdir = plain
    images, labels = noise_images(60)
    dissimilarity = 1 - unit_vectors(images) @ unit_vectors(images).T
    for label, found in read_classes(workdir).items():
        for group in (group for groups in found.groups.values() for group in groups):
            within = dissimilarity[np.ix_(group.positions, group.positions)]
            assert group.height == pytest.approx(within.max(), abs=1e-6)
            to_kept = dissimilarity[group.positions[0]].copy()
            to_kept[group.positions] = np.inf
            to_kept[labels != label] = np.inf
            assert group.outside == to_kept.argmin()
            assert group.outside_distance == pytest.approx(to_kept.min(), abs=1e-6)


@pytest.mark.parametrize("rule", ["cosine_raw_mean", "cosine_unit_mean", "medoid", "minimax"])
def test_why_an_image_was_kept_is_what_the_rule_compares(tmp_path, rule):
    workdir, _ = reported(tmp_path, fractions=(0.4,), rule=rule)
    images, _ = noise_images(60)
    raw, unit = images.reshape(60, -1) / 255 + 0.01, unit_vectors(images)
    for group in (group for of_class in read_classes(workdir).values() for group in of_class.groups[0.4]):
        members = group.positions
        if rule.startswith("cosine"):
            centre = (raw if rule == "cosine_raw_mean" else unit)[members].mean(axis=0)
            values = 1 - unit[members] @ centre / np.linalg.norm(centre)
        else:
            within = 1 - unit[members] @ unit[members].T
            values = within.max(axis=1) if rule == "minimax" else within.sum(axis=1) / (len(members) - 1)
        assert group.own == pytest.approx(values[0], abs=1e-6)
        assert group.second == pytest.approx(values[1:].min(), abs=1e-6)
        assert group.own <= group.second
        assert rule == "cosine_raw_mean" or len(members) > 2 or group.own == group.second


def test_neighbour_is_the_nearest_image_of_the_class_outside_the_group(tmp_path):
    workdir, page = reported(tmp_path, classes=1)
    subset = read_subset(workdir.subset(subset_name("semantic", 0.9)))
    (kept,), (outside,) = page.images["kept"], page.images["outside"]
    unit = unit_vectors(noise_images(60, classes=1)[0])
    dissimilarity = 1 - unit @ unit[kept]
    dissimilarity[subset.group == subset.group[kept]] = np.inf
    assert outside == dissimilarity.argmin()


def test_same_inputs_give_the_same_bytes(tmp_path):
    config, workdir = make(tmp_path, layers=("start", "middle", "end"))
    names = ("index.html", "figures/figure2.svg", "figures/figure4.svg", "figures/figure8.svg", "figures/figure8.png")
    written = []
    for _ in range(2):
        report(config, workdir)
        written.append([storage.read_bytes(storage.join(workdir.report, name)) for name in names])
        storage.remove(workdir.report)
    assert written[0] == written[1]


def test_finished_report_is_left_alone_until_results_change(finished, monkeypatch):
    config, workdir = finished
    page = storage.join(workdir.report, "index.html")
    before = storage.read_bytes(page)
    with monkeypatch.context() as patch:
        patch.setattr(storage.scratch, "scratch_file", None)
        report(config, workdir)
    storage.write_text(page, "mine")
    report(config, workdir)
    assert storage.read_bytes(page) == b"mine"
    storage.write_bytes(workdir.results, storage.read_bytes(workdir.results).replace(b"0.9722", b"0.9733"))
    with pytest.raises(DataError, match=r"results\.csv is missing or was changed"):
        report(config, workdir)
    write_manifest(workdir.runs, {"results_sha256": storage.sha256(workdir.results)})
    report(config, workdir)
    assert storage.read_bytes(page) != before


@pytest.mark.parametrize(
    ("name", "data"), [("index.html", None), ("figures/figure2.svg", None), ("manifest.json", b"{}")]
)
def test_a_report_that_is_not_whole_is_written_again(finished, name, data):
    config, workdir = finished
    path = storage.join(workdir.report, name)
    before = storage.read_bytes(path)
    storage.remove(path) if data is None else storage.write_bytes(path, data)
    report(config, workdir)
    assert storage.read_bytes(path) == before


def test_artifacts_of_two_runs_are_not_put_on_one_page(swept):
    config, workdir = swept
    path = workdir.subset("semantic-0.9000")
    whole = storage.read_bytes(path)
    storage.write_bytes(path, storage.read_bytes(workdir.subset("semantic-0.6000")))
    with pytest.raises(DataError, match=rf"{path} is missing, damaged or another file.*redundancy select"):
        report(config, workdir)
    storage.write_bytes(path, whole)
    for name in ("merges", "embeddings"):
        manifest = storage.join(workdir.path(name, "end"), "manifest.json")
        storage.write_json(manifest, {**storage.read_json(manifest), "checkpoint": "another", "embeddings": "another"})
        with pytest.raises(WorkdirError, match=rf"made from other {name} than {manifest} names.*delete"):
            report(config, workdir)
        storage.remove(workdir.path(name, "end"))
    runs = read_manifest(workdir.runs)
    digests = {
        file["file"].removesuffix(".parquet"): file["sha256"] for file in read_manifest(workdir.subsets)["files"]
    }
    write_manifest(workdir.runs, {**runs, "subsets": {**digests, "random-0.6000-trial1": "0" * 64}})
    with pytest.raises(
        WorkdirError, match=r"The runs of .*results\.csv were trained on another .*random-0\.6000-trial1"
    ):
        report(config, workdir)
    write_manifest(workdir.runs, {**runs, "subsets": digests})
    report(config, workdir)


def test_names_from_outside_appear_as_text(tmp_path):
    images, labels = noise_images(60)
    config, workdir = make_workdir(tmp_path, images, labels, class_names=HOSTILE)
    report(config, workdir)
    page = read_page(workdir)
    words = page.words()
    assert all(name in words for name in HOSTILE)
    assert [found.name for found in read_classes(workdir).values()] == HOSTILE
    figure = storage.read_bytes(storage.join(workdir.report, "figures", "figure4.svg")).decode()
    assert "$x_1$" in figure, "a class name is not a formula"


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (dict(trials=1, fractions=(0.8,)), ["no interval"]),
        (dict(fractions=(1.0, 0.9)), []),
        (dict(classes=1), []),
        (dict(shape=(12, 20, 3)), []),
        (dict(shape=(80, 70, 3)), []),
        (dict(fractions=(0.02,), trials=2), []),
        (dict(methods=("semantic",)), []),
        (dict(layers=("start",)), []),
        (dict(layers=("start", "end")), ["Figure 8.", "semantic, start"]),
        (dict(budget="epochs", trials=2), []),
    ],
    ids=str,
)
def test_unusual_experiments_have_a_page(tmp_path, case, said):
    workdir, page = reported(tmp_path, **case)
    assert all(found.groups for found in read_classes(workdir).values())
    assert "nan" not in page.words().lower().split()
    assert all(words in page.words() for words in said)


def test_random_alone_has_no_groups(tmp_path):
    _, page = reported(tmp_path, methods=("random",))
    assert "ran no semantic clustering" in page.words()
    assert "Dropping a random 10%" in page.words()
    assert "img" not in page.tags
    assert not page.json


@pytest.mark.parametrize(
    ("case", "wanted"),
    [
        (dict(fractions=(1.0,)), "was dropped: the config asks for no fraction"),
        (dict(count=8, fractions=(0.99,), report_fraction=1.0), "no group has two or more images"),
    ],
    ids=["nothing dropped", "no group of two"],
)
def test_a_page_without_groups_says_why(tmp_path, case, wanted):
    assert wanted in reported(tmp_path, **case)[1].words()


@pytest.mark.soak
def test_a_thousand_classes(tmp_path):
    images, labels = noise_images(2000, (4, 4, 1), classes=1000)
    names = [f"class {label}" for label in range(1000)]
    config, workdir = make_workdir(tmp_path, images, labels, class_names=names, group=labels, fractions=(0.5,))
    report(config, workdir)
    page = read_page(workdir)
    assert names[-1] in page.words()
    assert len(page.json["index"]["classes"]) == 1000
    assert len(storage.read_bytes(storage.join(workdir.report, "index.html"))) < 3e6


def test_settings_limit_classes_and_groups(tmp_path):
    workdir, _ = reported(tmp_path, classes=3, report_classes=2, report_groups=1)
    classes = read_classes(workdir)
    assert len(classes) == 2
    for found in classes.values():
        assert [sum(group.pictured for group in groups) for groups in found.groups.values()] == [1, 1]


def test_page_without_embeddings_and_merges_leaves_out_what_they_hold(swept):
    config, workdir = swept
    storage.remove(workdir.embeddings("end"))
    storage.remove(workdir.merges("end"))
    report(config, workdir)
    assert not read_page(workdir).images["outside"]
    for found in read_classes(workdir).values():
        assert not found.has_merges
        groups = [group for groups in found.groups.values() for group in groups]
        assert groups
        assert all(group.pictured and group.outside is None and np.isnan(group.height) for group in groups)


@pytest.mark.soak
def test_a_set_too_large_for_one_file_has_a_file_for_each_class(tmp_path, monkeypatch):
    config, workdir = make(tmp_path, classes=3)
    report(config, workdir)
    whole = read_classes(workdir)
    storage.remove(workdir.report)
    monkeypatch.setattr(browser, "PAGE_BYTES", browser._REST_BYTES + 1)
    report(config, workdir)
    assert list(read_page(workdir).json) == ["index"]
    files = read_manifest(workdir.report)["files"]
    assert {f"classes/{label:05d}.js" for label in range(3)} <= set(files)
    for label, found in read_classes(workdir).items():
        assert found.kept == whole[label].kept
        assert found.groups.keys() == whole[label].groups.keys()


@pytest.mark.soak
def test_pictures_keep_within_the_page_and_other_groups_are_listed(tmp_path, monkeypatch):
    images, labels = noise_images(600, shape=(24, 24, 3))
    config, workdir = make_workdir(tmp_path, images, labels)
    monkeypatch.setattr(browser, "FEW_PICTURES", 10)
    monkeypatch.setattr(browser, "PAGE_BYTES", browser._REST_BYTES + 60_000)
    report(config, workdir)
    text = storage.read_bytes(storage.join(workdir.report, "index.html"))
    page = json.dumps(read_page(workdir).json)
    assert len(page) < 75_000 < len(text)
    for found in read_classes(workdir).values():
        pictured = [group for groups in found.groups.values() for group in groups if group.pictured]
        others = [group for groups in found.groups.values() for group in groups if not group.pictured]
        assert pictured
        assert others
        assert all(set(group.positions) <= found.pictures.keys() for group in pictured)


def test_images_of_a_folder_are_named_by_their_files(tmp_path):
    images, labels = noise_images(60)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "photos" / f"<b>{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / f"no {number:02d}.png")
    config, workdir = make_workdir(tmp_path, images, labels, dataset=str(tmp_path / "photos"), image_size=8)
    report(config, workdir)
    for label, found in read_classes(workdir).items():
        members = {position for groups in found.groups.values() for group in groups for position in group.positions}
        assert members <= found.files.keys()
        assert all(re.fullmatch(rf"<b>{label}/no \d\d\.png", name) for name in found.files.values())
        assert len(set(found.files.values())) == len(found.files)


def test_workdir_that_is_not_local(tmp_path):
    images, labels = noise_images(60)
    config, workdir = make_workdir(tmp_path, images, labels, workdir_root="memory://report-test/work")
    report(config, workdir)
    assert read_classes(workdir)
    assert storage.exists("memory://report-test/work/report/figures/figure2.png")


def test_an_unfinished_sweep_has_a_page_of_its_complete_trials_that_says_so(swept):
    config, workdir = swept
    report(config, workdir)
    whole = read_page(workdir)
    content, manifest = (storage.read_bytes(path) for path in (workdir.results, f"{workdir.runs}/manifest.json"))
    unfinish(config, workdir)
    storage.remove(workdir.result("random-0.6000-trial1"))
    report(config, workdir)
    page = read_page(workdir)
    said = "This sweep is unfinished: 2 of 3 trials are complete, and this page shows no others."
    assert f"Redundancy in images (interim) {said}" in page.words()
    assert re.search(r"\b10 ?trainings compared|trainings compared ?10\b", page.words())
    assert "2 paired trials" in page.words()
    assert "3 paired trials" not in page.words()
    assert not finished_lib.finished(config, "report", {"report": read_manifest(workdir.report)})
    # Its numbers are those of a sweep of the same two trials.
    rows = [line for line in content.decode().splitlines() if line.split(",")[5] in ("trial", "0", "2")]
    runs = statistics.parse_results("\n".join(rows))
    item = statistics.find(statistics.summarise(runs), "semantic", 0.9)
    assert f"{words.points(item.to_full.mean)}{words.interval(item.to_full)}" in page.words()
    report(config, workdir)  # a no-op
    storage.write_bytes(workdir.results, content)
    storage.write_bytes(f"{workdir.runs}/manifest.json", manifest)
    report(config, workdir)
    assert read_page(workdir).words() == whole.words()
    assert finished_lib.finished(config, "report", {"report": read_manifest(workdir.report)})


def test_a_sweep_without_a_complete_trial_is_an_error_with_the_command_to_run(swept):
    config, workdir = swept
    unfinish(config, workdir)
    for trial in range(config.trials):
        storage.remove(workdir.result(run_name("full", 1.0, trial)))
    with pytest.raises(
        WorkdirError, match=r"12 of 15 runs are done. Run \"redundancy sweep\" with the same config first"
    ):
        report(config, Workdir(workdir.root))
    assert not storage.exists(workdir.report)


def test_a_page_of_an_unfinished_sweep_refuses_runs_on_other_subsets(swept):
    config, workdir = swept
    unfinish(config, workdir)
    name = "semantic-0.9000-trial0"
    storage.write_json(f"{workdir.run(name)}/run.json", {"method": "semantic", "subset_sha256": "0" * 64})
    with pytest.raises(
        WorkdirError, match=rf"The runs of {workdir.run(name)} were trained on another .*semantic-0.9000.parquet than"
    ):
        report(config, workdir)


def test_report_fraction_is_the_nearest_that_drops_something():
    def of(**fields):
        return report_fraction(config_lib.resolve(fields))

    assert of(fractions=(0.5, 0.85, 0.95)) == 0.95
    assert of(fractions=(1.0, 0.5)) == 0.5
    assert of(fractions=(1.0,)) == 1.0
    assert of(fractions=(0.7, 0.3), report_fraction=0.2) == 0.3


def test_classes_are_shown_by_number_the_most_telling_first_or_by_name(tmp_path):
    images, labels = noise_images(90, classes=3)
    same = np.flatnonzero(labels == 2)[:10]
    images[same] = images[same[0]]  # the largest group of all
    names = ["cat", "dog", "a bird"]
    config, workdir = make_workdir(tmp_path, images, labels, class_names=names)

    def shown(wanted):
        report(config_lib.resolve({**config, "report_classes": wanted}), workdir)
        assert set(re.findall(r"cat|dog|a bird", read_page(workdir).words())) == {*names}, "Table 1 has all"
        return [found.name for found in read_classes(workdir).values()]

    assert shown(1) == ["a bird"]
    assert shown("a bird,cat") == ["cat", "a bird"]
    assert shown(("dog",)) == ["dog"]
    said = (
        "config.report_classes names 'dig', which is no class of the data set. Did you mean \"dog\"? "
        "Wanted: a number, or names out of cat, dog, a bird."
    )
    with pytest.raises(ConfigError, match=re.escape(said)):
        shown("cat,dig")


def test_a_class_that_is_named_but_has_no_group_is_no_error(tmp_path):
    images, labels = noise_images(60)
    group = np.where(labels == 0, labels, np.arange(60))
    config, workdir = make_workdir(
        tmp_path, images, labels, group=group, class_names=["cat", "dog"], report_classes="dog"
    )
    report(config, workdir)
    page = read_page(workdir)
    assert "There is no redundant group to show of the classes that report_classes names." in page.words()
    assert "Figure 4." in page.words()
