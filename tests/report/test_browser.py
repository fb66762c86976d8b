"""The report in a real browser, from disk: it shows the groups of the subset files, and loads nothing else.

Needs Chromium (Debian's package, or one that CHROMIUM names) and Playwright; skipped without.
"""

import pathlib
import re

import numpy as np
import pytest
from pages import groups_of
from synthetic import make_workdir, noise_images

from redundancy import storage
from redundancy.report import browser as browser_lib
from redundancy.report.stage import report
from redundancy.selection.subset import read_subset
from redundancy.workdir import subset_name
from tests.tiers import soaked

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.usefixtures("quick_pdfs")

NAMES = ['"><script>alert(1)</script>', "$x_1$ <b>数字</b> & é‏عربي", "plain"]
PHONE, SCREEN = (390, 844), (1440, 900)


@pytest.fixture(scope="module")
def digits(tmp_path_factory, digits_npz):
    """A finished report on the digits; groups of pixels, made-up accuracies."""
    data = np.load(digits_npz)
    images = data["train_images"][..., None]
    config, workdir = make_workdir(
        tmp_path_factory.mktemp("digits-report"), images, data["train_labels"], fractions=(0.95, 0.9, 0.6)
    )
    report(config, workdir)
    return config, workdir


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report whose class names are no names, on images that are wider than high."""
    images, labels = noise_images(90, (10, 16, 3), classes=3)
    config, workdir = make_workdir(tmp_path_factory.mktemp("hostile"), images, labels, class_names=NAMES)
    report(config, workdir)
    return config, workdir


def test_classes_sorting_and_slider_show_the_subset_files(digits, opened):
    config, workdir = digits
    page = opened(workdir)
    fractions = sorted(config.fractions)
    for number, fraction in enumerate(fractions):
        page.move_to(number)
        subset = read_subset(workdir.subset(subset_name("semantic", fraction)))
        for label in (0, 4, 9):
            page.open_class(label)
            cards = page.groups()
            wanted = groups_of(subset, label)
            assert {kept: {p for role, p in shown if role != "outside"} for kept, *_, shown in cards} == wanted
            of_class = subset.labels == label
            text = page.page.locator("#counts").text_content()
            gone = np.count_nonzero(~subset.kept[of_class])
            assert f"{fraction:.0%} kept, {gone} images of {np.count_nonzero(of_class)} go" in text
            assert f"{len(wanted)} redundant groups" in text
            assert f"{np.count_nonzero(~subset.kept):,} of {len(subset.kept):,} images" in text
            assert (
                page.page.locator("#classes button")
                .nth(label)
                .text_content()
                .endswith(f"{gone} of {of_class.sum()} go")
            )
    for order, key, falling in (("size", 1, True), ("smallest", 1, False), ("widest", 2, True), ("tightest", 2, False)):
        page.page.select_option("#order", order)
        values = [card[key] for card in page.groups()]
        assert values == sorted(values, reverse=falling)
        assert len(set(values)) > 1
    page.check()


def test_a_card_shows_height_neighbour_and_reason(digits, opened):
    _, workdir = digits
    page = opened(workdir)
    card = page.page.locator("#cards > li").first
    words = card.text_content()
    assert re.search(r"\d+ images · spread [\d.e−]+ · height [\d.e−]+", words)
    assert re.search(r"Kept: [\d.e−]+ from the group’s mean; the next best [\d.e−]+\.|the lower position wins", words)
    assert card.locator("img[data-role=outside]").count() == 1
    frame = card.locator("img[data-role=kept]").evaluate("image => getComputedStyle(image).borderTopColor")
    assert frame == "rgb(0, 158, 115)"
    width = "async image => { await image.decode(); return image.naturalWidth; }"
    assert card.locator("img[data-role=kept]").evaluate(width) == 8


def test_search_finds_classes(digits, opened):
    page = opened(digits[1])
    page.page.fill("#find", " CLASS 7")
    names = page.page.locator("#classes bdi")
    sync_api.expect(names).to_have_text(["Class 7"])
    sync_api.expect(page.page.locator("#found")).to_have_text("1 class of 10")
    page.page.fill("#find", "nothing")
    sync_api.expect(names).to_have_count(0)
    page.page.fill("#find", "")
    page.page.select_option("#list-order", "dropped")
    sync_api.expect(names).to_have_count(10)


def test_names_that_are_markup_appear_as_text(hostile, opened):
    page = opened(hostile[1])
    assert page.class_names() == NAMES
    for number, name in enumerate(NAMES):
        page.open_class(number)
        assert page.page.locator("#class-title").text_content() == name
        page.page.locator("#cards button").first.click()
        page.page.wait_for_function("name => document.getElementById('tree-what').textContent.includes(name)", arg=name)
    assert page.page.locator("#class-view b").count() == 0
    page.check()


def test_dendrogram_of_a_class_and_of_a_group(digits, opened):
    _, workdir = digits
    page = opened(workdir)
    page.page.locator("#tree summary").click()
    leaves = page.page.locator("#tree-drawing .leaf")
    leaves.first.wait_for(state="attached")
    everything = leaves.count()
    card = page.page.locator("#cards > li").first
    size = int(card.get_attribute("data-size"))
    assert everything > size
    card.get_by_role("button", name="Tree").click()
    sync_api.expect(leaves).to_have_count(size)
    labels = page.page.eval_on_selector_all("#tree-drawing .leaf", "all => all.map(x => x.getAttribute('aria-label'))")
    positions = {int(re.match(r"position (\d+)", label).group(1)) for label in labels}
    subset = read_subset(workdir.subset(subset_name("semantic", 0.9)))
    assert positions == groups_of(subset, 0)[int(card.get_attribute("data-kept"))]
    leaves.last.focus()
    sync_api.expect(page.page.locator("#peek img")).to_have_count(1)
    page.page.locator("#tree-all").click()
    sync_api.expect(leaves).to_have_count(everything)
    page.check()


def test_keyboard_alone_moves_through_the_page(digits, opened):
    page = opened(digits[1])
    page.page.locator("#fraction").focus()
    before = page.page.locator("#counts").text_content()
    page.page.keyboard.press("ArrowLeft")
    sync_api.expect(page.page.locator("#fraction")).to_have_attribute("aria-valuetext", "60% kept")
    sync_api.expect(page.page.locator("#counts")).not_to_have_text(before)
    page.page.locator("#classes button").nth(1).focus()
    page.page.keyboard.press("Enter")
    page.page.wait_for_function("document.getElementById('class-title').textContent === 'Class 1'")
    outline = page.page.locator("#classes button").nth(1).evaluate("item => getComputedStyle(item).outlineStyle")
    assert outline == "solid"


def test_light_and_dark(digits, opened):
    page = opened(digits[1], color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.page.evaluate(colour)
    assert dark == "rgb(20, 23, 26)"
    page.page.locator("#theme").click()
    page.page.wait_for_function(f"dark => {colour} !== dark", arg=dark)
    page.page.reload()
    assert page.page.evaluate(colour) != dark
    page.check()


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [
        ("digits", PHONE, "dark"),
        ("hostile", SCREEN, "light"),
        *soaked(("digits", SCREEN, "light"), ("hostile", PHONE, "dark"), ("digits", PHONE, "light")),
    ],
    ids=str,
)
def test_no_fault_of_accessibility(name, size, scheme, opened, request):
    page = opened(request.getfixturevalue(name)[1], size, color_scheme=scheme)
    page.page.locator("#tree summary").click()
    page.page.eval_on_selector_all("details", "all => all.forEach(item => { item.open = true; })")
    page.check()
    assert not page.faults()
    assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


@pytest.mark.soak
def test_classes_of_a_large_set_are_loaded_when_they_are_opened(tmp_path, opened, monkeypatch):
    images, labels = noise_images(90, classes=3)
    config, workdir = make_workdir(tmp_path, images, labels, class_names=NAMES)
    monkeypatch.setattr(browser_lib, "PAGE_BYTES", browser_lib._REST_BYTES + 1)
    report(config, workdir)
    page = opened(workdir)
    page.page.wait_for_selector("#cards > li")
    assert sum("classes/" in url for url in page.requests) == 1
    page.open_class(2)
    page.page.wait_for_function("document.getElementById('class-title').textContent === 'plain'")
    subset = read_subset(workdir.subset(subset_name("semantic", 0.9)))
    assert {card[0] for card in page.groups()} == groups_of(subset, 2).keys()
    page.open_class(2)
    assert sum("classes/" in url for url in page.requests) == 2
    page.check()
    storage.remove(storage.join(workdir.report, "classes/00001.js"))
    page.open_class(1)
    page.page.wait_for_function("document.getElementById('counts').textContent.includes('is missing')")


@pytest.mark.parametrize("case", [dict(methods=("random",)), dict(fractions=(1.0,))], ids=str)
def test_page_without_groups_opens(tmp_path, opened, case):
    images, labels = noise_images(60)
    config, workdir = make_workdir(tmp_path, images, labels, **case)
    report(config, workdir)
    page = opened(workdir)
    assert page.page.locator("#browser").count() == 0
    assert page.page.locator("#theme").is_visible()
    page.check()


@pytest.mark.soak
def test_cifar10_opens_quickly_and_is_not_large(tmp_path, opened, repo, monkeypatch):
    folder = repo.parent / "shared" / "data"
    if not (folder / "cifar10.part1.npz").exists():
        pytest.skip("needs CIFAR-10 in ../shared/data")
    monkeypatch.syspath_prepend(str(folder))
    data = __import__("load").load("cifar10")

    def embed(images):
        """Means of 4 x 4 pixels, less their mean over all images."""
        means = images.reshape(len(images), 8, 4, 8, 4, 3).mean(axis=(2, 4)).reshape(len(images), -1)
        return (means - means.mean(axis=0)).astype(np.float32)

    labels, names = data["train_labels"].astype(np.int64), data["label_names"]
    fractions = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
    config, workdir = make_workdir(
        tmp_path, data["train_images"], labels, class_names=names, embed=embed, fractions=fractions, trials=10
    )
    report(config, workdir)
    size = (pathlib.Path(workdir.report) / "index.html").stat().st_size
    assert 5e6 < size < 10e6
    page = opened(workdir)
    page.page.wait_for_selector("#cards > li img")
    assert page.seconds < 60
    subset = read_subset(workdir.subset(subset_name("semantic", 0.9)))
    page.open_class(3)
    assert page.page.locator("#class-title").text_content() == "cat"
    wanted = groups_of(subset, 3)
    cards = page.groups()
    assert 100 < len(cards) <= len(wanted)
    for kept, _, _, shown in cards:
        assert {position for role, position in shown if role != "outside"} == wanted[kept]
    page.check()
