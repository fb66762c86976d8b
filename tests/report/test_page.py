"""The stage and its page, on workdirs whose groups are real and whose accuracies are made up."""

import html.parser
import re

import numpy as np
import pytest
from synthetic import make_workdir, noise_images

from redundancy import storage
from redundancy.errors import DataError, WorkdirError
from redundancy.report.stage import report, report_fraction
from redundancy.selection.stages import read_subset
from redundancy.workdir import Workdir, read_manifest, subset_name, write_manifest

HOSTILE = ['"><script>alert(1)</script> id="x"', "$x_1$ <b>数字</b> & é"]
_VOID = {"meta", "link", "img", "br"}


class Page(html.parser.HTMLParser):
    """The page's text, its images by role, and what it would load; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.loads, self.ids = [], [], [], [], []
        self.images = {"kept": set(), "dropped": set(), "outside": set()}
        self.framed = set()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.loads += [values[name] for name in ("src", "href", "xlink:href", "action") if values.get(name)]
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "img":
            assert values["alt"]
            self.images[values["alt"].split()[0]].add(int(values["data-position"]))
            if "kept" in self.open[-1][1].split():
                self.framed.add(int(values["data-position"]))
        if tag not in _VOID:
            self.open.append((tag, values.get("class") or ""))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if not self.open or self.open[-1][0] != "style":
            self.text.append(data)

    def words(self):
        return re.sub(r"\s+", " ", "".join(self.text))


def read_page(workdir):
    text = storage.read_bytes(storage.join(workdir.report, "index.html")).decode()
    page = Page(text)
    assert len(page.ids) == len(set(page.ids)), "an id occurs twice"
    for target in page.loads:
        assert target.startswith(("#", "data:")), target
        assert not target.startswith("#") or target[1:] in page.ids, target
    assert not re.search(r"url\((?!#)|@import", text)
    return page


def make(root, count=60, shape=(8, 8, 1), classes=2, **fields):
    images, labels = noise_images(count, shape, classes)
    return make_workdir(root, images, labels, **fields)


def test_page_shows_the_kept_and_dropped_images_of_the_subset(tmp_path):
    config, workdir = make(tmp_path, report_groups=50)
    report(config, workdir)
    page = read_page(workdir)
    subset = read_subset(workdir.subset(subset_name("semantic", 0.9)))
    sizes = np.bincount(subset.group)
    redundant = sizes[subset.group] > 1
    assert redundant.any()
    assert page.framed == page.images["kept"] == set(subset.positions[redundant & subset.kept].tolist())
    assert page.images["dropped"] == set(subset.positions[~subset.kept].tolist())
    assert page.images["outside"]
    assert "script" not in page.tags
    words = page.words()
    for part in (
        "Figure 2.",
        "Figure 4.",
        "Table 1.",
        "Figure 12.",
        "Dropping 10% of",
        "3 paired trials",
        "paired by seed",
    ):
        assert part in words
    files = read_manifest(workdir.report)["files"]
    assert {"figures/figure2.svg", "figures/figure2.png", "figures/figure4.svg", "figures/figure4.png"} <= set(files)
    assert all(storage.exists(storage.join(workdir.report, name)) for name in files)


def test_neighbour_is_the_nearest_image_of_the_class_outside_the_group(tmp_path):
    config, workdir = make(tmp_path, classes=1, report_groups=1)
    report(config, workdir)
    page = read_page(workdir)
    subset = read_subset(workdir.subset(subset_name("semantic", 0.9)))
    (kept,), (outside,) = page.images["kept"], page.images["outside"]
    images, _ = noise_images(60, classes=1)
    vectors = images.reshape(60, -1) / 255 + 0.01
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    dissimilarity = 1 - vectors @ vectors[kept]
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


def test_finished_report_is_left_alone_until_results_change(tmp_path, monkeypatch):
    config, workdir = make(tmp_path)
    report(config, workdir)
    page = storage.join(workdir.report, "index.html")
    before = storage.read_bytes(page)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", None)
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
    ("name", "data"),
    [("index.html", None), ("figures/figure2.svg", None), ("manifest.json", b"{}")],
)
def test_a_report_that_is_not_whole_is_written_again(tmp_path, name, data):
    config, workdir = make(tmp_path)
    report(config, workdir)
    path = storage.join(workdir.report, name)
    before = storage.read_bytes(path)
    storage.remove(path) if data is None else storage.write_bytes(path, data)
    report(config, workdir)
    assert storage.read_bytes(path) == before


def test_artifacts_of_two_runs_are_not_put_on_one_page(tmp_path):
    config, workdir = make(tmp_path)
    path = workdir.subset("semantic-0.9000")
    whole = storage.read_bytes(path)
    storage.write_bytes(path, storage.read_bytes(workdir.subset("semantic-0.6000")))
    with pytest.raises(DataError, match=rf"{path} is missing, damaged or another file.*redundancy select"):
        report(config, workdir)
    storage.write_bytes(path, whole)
    manifest = storage.join(workdir.embeddings("end"), "manifest.json")
    storage.write_json(manifest, {**storage.read_json(manifest), "checkpoint": "another"})
    with pytest.raises(WorkdirError, match=rf"made from other embeddings than those that {manifest} names.*delete"):
        report(config, workdir)
    storage.remove(workdir.embeddings("end"))
    runs = read_manifest(workdir.runs)
    digests = {
        file["file"].removesuffix(".parquet"): file["sha256"] for file in read_manifest(workdir.subsets)["files"]
    }
    write_manifest(workdir.runs, {**runs, "subsets": {**digests, "random-0.6000-trial1": "0" * 64}})
    with pytest.raises(WorkdirError, match=r"results\.csv is of runs on another .*random-0\.6000-trial1"):
        report(config, workdir)
    write_manifest(workdir.runs, {**runs, "subsets": digests})
    report(config, workdir)


def test_names_from_outside_appear_as_text(tmp_path):
    images, labels = noise_images(60)
    config, workdir = make_workdir(tmp_path, images, labels, class_names=HOSTILE)
    report(config, workdir)
    page = read_page(workdir)
    assert "script" not in page.tags
    words = page.words()
    assert all(name in words for name in HOSTILE)
    figure = storage.read_bytes(storage.join(workdir.report, "figures", "figure4.svg")).decode()
    assert "$x_1$" in figure, "a class name is not a formula"


def test_layers_are_compared(tmp_path):
    config, workdir = make(tmp_path, layers=("start", "end"))
    report(config, workdir)
    words = read_page(workdir).words()
    assert "Figure 8." in words
    assert "semantic, start" in words


@pytest.mark.parametrize(
    "case",
    [
        dict(trials=1, fractions=(0.8,)),
        dict(fractions=(1.0, 0.9)),
        dict(classes=1),
        dict(shape=(12, 20, 3)),
        dict(shape=(80, 70, 3)),
        dict(fractions=(0.02,), trials=2),
        dict(methods=("semantic",)),
        dict(layers=("start",)),
        dict(budget="epochs", trials=2),
    ],
    ids=str,
)
def test_unusual_experiments_have_a_page(tmp_path, case):
    config, workdir = make(tmp_path, **case)
    report(config, workdir)
    page = read_page(workdir)
    assert page.framed
    assert "nan" not in page.words().lower().split()
    if case.get("trials") == 1:
        assert "no interval" in page.words()


def test_random_alone_has_no_groups(tmp_path):
    config, workdir = make(tmp_path, methods=("random",))
    report(config, workdir)
    page = read_page(workdir)
    assert "ran no semantic clustering" in page.words()
    assert "Dropping a random 10%" in page.words()
    assert "img" not in page.tags


def test_nothing_dropped_has_a_page(tmp_path):
    config, workdir = make(tmp_path, fractions=(1.0,))
    report(config, workdir)
    assert "was dropped: the config asks for no fraction" in read_page(workdir).words()


def test_subset_without_a_group_of_two_says_so(tmp_path):
    config, workdir = make(tmp_path, count=8, fractions=(0.99,), report_fraction=1.0)
    report(config, workdir)
    assert "no group has two or more images" in read_page(workdir).words()


def test_a_thousand_classes(tmp_path):
    images, labels = noise_images(2000, (4, 4, 1), classes=1000)
    names = [f"class {label}" for label in range(1000)]
    config, workdir = make_workdir(tmp_path, images, labels, class_names=names, group=labels, fractions=(0.5,))
    report(config, workdir)
    page = read_page(workdir)
    assert names[-1] in page.words()
    assert page.tags.count("summary") == config.report_classes + 3
    assert len(storage.read_bytes(storage.join(workdir.report, "index.html"))) < 3e6


def test_group_larger_than_the_card_says_how_many_are_shown(tmp_path):
    images, labels = noise_images(60, classes=1)
    images[:30] = images[0]
    config, workdir = make_workdir(tmp_path, images, labels, fractions=(0.5,))
    report(config, workdir)
    assert "30 images (12 shown)" in read_page(workdir).words()


def test_page_without_embeddings_leaves_the_neighbours_out(tmp_path):
    config, workdir = make(tmp_path)
    storage.remove(workdir.embeddings("end"))
    report(config, workdir)
    page = read_page(workdir)
    assert page.framed
    assert not page.images["outside"]


def test_workdir_that_is_not_local(tmp_path):
    images, labels = noise_images(60)
    config, workdir = make_workdir(tmp_path, images, labels, workdir_root="memory://report-test/work")
    report(config, workdir)
    assert read_page(workdir).framed
    assert storage.exists("memory://report-test/work/report/figures/figure2.png")


def test_unfinished_sweep_is_an_error_that_says_what_to_run(tmp_path):
    config, workdir = make(tmp_path)
    storage.remove(storage.join(workdir.runs, "manifest.json"))
    with pytest.raises(WorkdirError, match="redundancy sweep"):
        report(config, Workdir(workdir.root))
    assert not storage.exists(workdir.report)


def test_report_fraction_is_the_nearest_that_drops_something(tmp_path):
    from redundancy import config as config_lib

    def of(**fields):
        return report_fraction(config_lib.resolve(fields))

    assert of(fractions=(0.5, 0.85, 0.95)) == 0.95
    assert of(fractions=(1.0, 0.5)) == 0.5
    assert of(fractions=(1.0,)) == 1.0
    assert of(fractions=(0.7, 0.3), report_fraction=0.2) == 0.3
