"""The page answers, in a real browser: which class, which group, where is my image, what may go; and the view is in its address."""

import re
import shutil
import urllib.parse

import numpy as np
import pypdfium2
import pytest
from pages import read_page
from PIL import Image
from synthetic import make_workdir, noise_images

from redundancy import storage
from redundancy.report import browser as browser_lib
from redundancy.report.stage import report
from redundancy.selection.subset import read_subset
from redundancy.workdir import Workdir
from tests.tiers import soaked

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.usefixtures("quick_pdfs")

LONG = "a name of a class that is " + "very " * 24 + "long"
NAMES = ["Käfer", LONG, "straße"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report on a folder of images of three classes, one with a long name."""
    root = tmp_path_factory.mktemp("made reports")
    images, labels = noise_images(120, classes=3)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / "photos" / NAMES[label] / f"no {number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).resize((24, 24)).save(path)
    fields = dict(dataset=str(root / "photos"), image_size=8, class_names=NAMES)
    config, workdir = make_workdir(root, images, labels, fractions=(0.9, 0.6), **fields)
    report(config, workdir)
    return config, workdir


@pytest.fixture(scope="module")
def in_files(made, tmp_path_factory):
    """The same with a file for each class."""
    config, root = made[0], tmp_path_factory.mktemp("in files")
    shutil.copytree(made[1].root, root / "work")
    workdir = Workdir(str(root / "work"))
    storage.remove(workdir.report)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(browser_lib, "PAGE_BYTES", browser_lib._REST_BYTES + 1)
        report(config, workdir)
    return config, workdir


def subset_of(workdir, fraction="0.9000"):
    return read_subset(workdir.subset(f"semantic-{fraction}"))


def test_classes_are_ordered_by_what_differs_and_say_the_number(made, opened):
    page = opened(made[1])
    subset = subset_of(made[1])
    largest = {}
    for label in range(3):
        of_class = subset.group[subset.labels == label]
        largest[label] = int(np.unique(of_class, return_counts=True)[1].max())
    page.page.select_option("#list-order", "largest")
    notes = page.page.locator("#classes button span").all_text_contents()
    assert notes == [f"group of {size}" for size in sorted(largest.values(), reverse=True)]
    page.page.select_option("#list-order", "tightest")
    means = [
        float(text.removeprefix("mean ")) for text in page.page.locator("#classes button span").all_text_contents()
    ]
    assert means == sorted(means)
    assert len(set(means)) == 3
    page.page.locator("#table1 ~ .scroll thead button", has_text="Mean dissimilarity").click()
    cells = page.page.locator("table.sortable tbody tr td:last-child").all_text_contents()
    assert [float(cell) for cell in cells] == pytest.approx(means, rel=1e-2)
    page.page.locator("table.sortable tbody a").first.click()
    name = page.page.locator("table.sortable tbody a").first.text_content()
    sync_api.expect(page.page.locator("#class-title")).to_have_text(name)
    page.check()


def test_the_leading_groups_of_all_classes_lead_to_their_group(made, opened):
    page = opened(made[1])
    page.page.locator("#leading summary").click()
    first = page.page.locator("#leading .leading").first.locator("a").first
    position = int(urllib.parse.parse_qs(first.get_attribute("href").partition("?")[2])["image"][0])
    subset = subset_of(made[1])
    sizes = np.unique(subset.group, return_counts=True)[1]
    group = subset.group[subset.positions == position]
    assert np.count_nonzero(subset.group == group) == sizes.max()
    first.click()
    card = page.page.locator(f"#cards > li[data-kept='{position}']")
    sync_api.expect(card).to_have_count(1)
    assert page.page.locator("#cards > li").count() == 1
    page.check()


def test_an_image_is_found_by_its_position_and_a_class_without_accents(made, opened):
    page = opened(made[1])
    subset = subset_of(made[1])
    position = int(subset.positions[~subset.kept][0])
    page.page.fill("#find-image", str(position))
    page.page.keyboard.press("Enter")
    shown = page.page.locator(f"#cards .shot.sought [data-position='{position}']")
    sync_api.expect(shown).to_have_count(1)
    page.page.fill("#find-image", "")
    for typed, name in (("KAFER", "Käfer"), ("STRASSE", "straße")):
        page.page.fill("#find", typed)
        page.page.keyboard.press("Enter")
        sync_api.expect(page.page.locator("#class-title")).to_have_text(name)
    page.page.fill("#find", "")
    page.page.locator("#classes button").first.focus()
    page.page.keyboard.press("ArrowDown")
    assert page.page.evaluate("document.activeElement.textContent").startswith("a name of a class")
    page.check()


@pytest.mark.parametrize("form", ["made", *soaked("in_files")])
def test_the_address_holds_the_view(form, opened, request):
    workdir = request.getfixturevalue(form)[1]
    page = opened(workdir)
    page.page.wait_for_selector("#cards > li")
    assert "#" not in page.page.url
    page.page.locator("#classes button", has_text="straße").click()
    sync_api.expect(page.page.locator("#class-title")).to_have_text("straße")
    page.move_to(0)
    page.page.select_option("#order", "tightest")
    page.page.select_option("#list-order", "largest")
    counts = page.page.locator("#counts").text_content()
    assert "60% kept" in counts
    page.page.wait_for_function("location.hash.includes('groups=tightest') && location.hash.includes('list=largest')")

    def expect_view(page):
        sync_api.expect(page.page.locator("#class-title")).to_have_text("straße")
        sync_api.expect(page.page.locator("#counts")).to_have_text(counts)
        assert page.page.locator("#order").input_value() == "tightest"
        assert page.page.locator("#list-order").input_value() == "largest"

    other = opened(workdir)
    other.page.goto("about:blank")
    other.page.goto(page.page.url)
    page.page.reload()
    for each in (page, other):
        expect_view(each)
    other.page.locator("#classes button", has_text="Käfer").click()
    sync_api.expect(other.page.locator("#class-title")).to_have_text("Käfer")
    other.page.go_back()
    sync_api.expect(other.page.locator("#class-title")).to_have_text("straße")
    other.page.go_forward()
    sync_api.expect(other.page.locator("#class-title")).to_have_text("Käfer")
    page.check()
    other.check()


def test_the_address_holds_the_image_and_the_searches(made, opened):
    page = opened(made[1])
    page.page.locator("#classes button", has_text="straße").click()
    sync_api.expect(page.page.locator("#class-title")).to_have_text("straße")
    goes = page.page.locator("#cards .shot.dropped").last
    name, position = goes.locator(".name").text_content(), goes.locator("img").get_attribute("data-position")
    page.page.fill("#find", "str")
    page.page.fill("#find-image", name)
    shown = f"#cards .shot.sought [data-position='{position}']"
    sync_api.expect(page.page.locator(shown)).to_have_count(1)
    page.page.wait_for_function("position => location.hash.includes(`image=${position}`)", arg=position)
    said = page.page.locator("#sought-text").text_content()
    page.page.reload()
    sync_api.expect(page.page.locator(shown)).to_have_count(1)
    sync_api.expect(page.page.locator("#sought-text")).to_have_text(said)
    assert page.page.locator("#find-image").input_value() == name
    assert page.class_names() == ["straße"]
    page.check()


def test_a_pair_is_enlarged_by_mouse_and_keyboard(made, opened):
    page = opened(made[1])
    button = page.page.locator("#cards .shot.dropped .enlarge").first
    name = page.page.locator("#cards .shot.dropped .name").first.text_content()
    assert re.fullmatch(r"no \d{3}\.png", name)
    button.click()
    dialog = page.page.locator("#pair")
    sync_api.expect(dialog).to_be_visible()
    sync_api.expect(dialog.locator("canvas")).to_have_count(1)
    sync_api.expect(dialog.locator("img.original")).to_have_count(2)  # the files, 24 pixels wide
    assert dialog.locator("img.original").first.evaluate("image => image.naturalWidth") == 24
    assert name in dialog.text_content()
    distance = page.page.locator("#cards .shot.dropped > span").first.text_content().removeprefix("goes ")
    note = page.page.locator("#pair-note")
    sync_api.expect(note).to_contain_text(f"The dissimilarity of the two is {distance}.")
    sync_api.expect(note).to_contain_text("not the files")
    assert re.search(r"largest difference of a pixel: \d+ of 255; the map is brightened", dialog.text_content())
    tops = dialog.locator("img.original").evaluate_all("all => all.map(each => each.getBoundingClientRect().top)")
    assert tops[0] == tops[1]
    page.page.keyboard.press("Escape")
    sync_api.expect(dialog).to_be_hidden()
    button.focus()
    page.page.keyboard.press("Enter")
    sync_api.expect(dialog).to_be_visible()
    assert not page.faults()
    page.page.locator("#pair-close").click()
    sync_api.expect(dialog).to_be_hidden()
    page.page.evaluate(
        "{ const { pictures } = state.data, [first] = pictures.values();"
        " for (const row of pictures.keys()) pictures.set(row, first); showClass(); }"
    )
    page.page.locator("#cards .shot.dropped .enlarge").first.click()
    sync_api.expect(dialog).to_contain_text("difference identical pixels")
    assert not page.complaints


@pytest.mark.parametrize("width", [390, 1440, 1920])
def test_a_long_name_widens_nothing(made, opened, width):
    page = opened(made[1], (width, 900))
    page.page.wait_for_selector("#cards > li")
    page.page.eval_on_selector_all("details", "all => all.forEach(item => { item.open = true; })")
    assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    number = page.page.locator("table.sortable tbody tr", has_text="very very").locator("td").first
    box = page.page.locator("table.sortable").evaluate(
        "table => table.closest('.scroll').getBoundingClientRect().right"
    )
    assert number.evaluate("cell => cell.getBoundingClientRect().right") < box, "the numbers are out of sight"
    hints = page.page.locator(".hint:visible").count()
    assert hints if width == 390 else True


@pytest.mark.parametrize(("width", "beside"), [(390, False), (1280, False), (1440, True), (1920, True)])
def test_two_figures_stand_side_by_side_where_the_screen_is_wide(made, opened, width, beside):
    page = opened(made[1], (width, 900))
    first, second = (
        page.page.locator(f"section[aria-labelledby={name}] figure").first.bounding_box()
        for name in ("groups", "neighbours")
    )
    assert (second["x"] > first["x"] + first["width"]) == beside
    assert (second["y"] > first["y"] + first["height"]) != beside
    table = page.page.locator("table.sortable")
    assert not beside or table.evaluate("all => all.offsetWidth <= all.closest('.scroll').clientWidth")


def test_print_is_light_and_whole(made, opened, tmp_path):
    page = opened(made[1], color_scheme="dark")
    page.page.wait_for_selector("#cards > li")
    page.page.emulate_media(media="print")
    assert page.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(252, 252, 250)"
    closed = page.page.locator("details:not(#tree)").last
    assert not closed.evaluate("item => item.open")
    page.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert closed.evaluate("item => item.open")
    page.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not closed.evaluate("item => item.open")


def test_the_printed_page_has_all_text_and_is_light(made, opened):
    page = opened(made[1], color_scheme="dark")
    page.page.wait_for_selector("#cards > li")
    counts = page.page.locator("#counts").text_content()
    with pypdfium2.PdfDocument(page.page.pdf(print_background=True)) as printed:
        text = " ".join(" ".join(each.get_textpage().get_text_range() for each in printed).split())
        pages = [each.render(scale=0.3, grayscale=True).to_numpy() for each in printed]
    for said in ("Dropping 10% of photos", counts, "Table 1.", "Figure 12.", "label_smoothing", "Redundant groups"):
        assert said in text, said
    assert "Find a class" not in text
    assert len(pages) > 3
    assert all(np.median(each) > 240 for each in pages)


def test_the_command_of_what_may_go_names_the_workdir(made, opened):
    _config, workdir = made
    assert "redundancy export --workdir DIR --fraction 0.9 --dropped" in read_page(workdir).words()
    page = opened(workdir)
    told = page.page.locator("section[aria-labelledby=delete]").text_content()
    for sentence in (
        page.page.locator("header .verdict").nth(1).text_content(),
        "Names are relative to the data set’s folder.",
        "This is for 90% kept, as Table 1, wherever the slider stands.",
    ):
        assert sentence in told
    assert page.page.locator("#export").evaluate("command => command.scrollWidth <= command.clientWidth")
    said = page.page.locator("#export").text_content()
    assert f"--workdir '{workdir.root}' --fraction 0.9 --dropped --format txt" in said
    assert storage.read_bytes(f"{workdir.report}/results.csv") == storage.read_bytes(workdir.results)


IN_SIGHT = "name => { const box = document.querySelector(name).getBoundingClientRect();" + (
    " const slider = document.querySelector('.slider').getBoundingClientRect();"
    " return box.top >= slider.bottom && box.bottom <= innerHeight; }"
)


@pytest.mark.parametrize("width", [390, 1440])
def test_links_and_enter_bring_the_answer_into_sight(made, opened, width):
    page = opened(made[1], (width, 844), reduced_motion="reduce")
    page.page.locator("#leading summary").click()
    page.page.locator("#leading a").last.click()
    page.page.wait_for_function(IN_SIGHT, arg="#sought-text")
    page.page.select_option("#list-order", "largest")
    page.page.locator("#table1 ~ .scroll tbody a", has_text="straße").click()
    sync_api.expect(page.page.locator("#class-title")).to_have_text("straße")
    page.page.wait_for_function(IN_SIGHT, arg="#class-title")
    assert page.page.locator("#list-order").input_value() == "largest"
    for field, text, answer in (("#find", "kafer", "#class-title"), ("#find-image", "no 0", "#sought-text")):
        page.page.evaluate("scrollTo(0, 0)")
        page.page.fill(field, text)
        page.page.keyboard.press("Enter")
        page.page.wait_for_function(IN_SIGHT, arg=answer)
    page.check()


def test_a_position_comes_before_names_with_its_digits(made, opened):
    page = opened(made[1])
    subset = subset_of(made[1])
    position = next(each for each in subset.positions[~subset.kept].tolist() if each >= 10)
    page.page.fill("#find-image", str(position))
    first = page.page.locator("#images button").first
    sync_api.expect(first).to_have_text(re.compile(rf"position {position} · .*no \d{{3}}\.png"))
    sync_api.expect(page.page.locator(f".sought [data-position='{position}']")).to_have_count(1)
    assert page.page.locator("#images button").count() > 1
    page.page.keyboard.press("Enter")
    sync_api.expect(first).to_have_attribute("aria-current", "true")
    page.check()


def test_a_search_without_a_match_leaves_no_answer(made, opened):
    page = opened(made[1])
    said, view = page.page.locator("#images-found"), page.page.locator("#sought")
    for text, told in (
        ("99999", "No training image has position 99999."),
        ("nobody", "(kept-0.9000.txt lists the names)"),
    ):
        page.page.fill("#find-image", str(int(subset_of(made[1]).positions[0])))
        sync_api.expect(view).to_be_visible()
        page.page.wait_for_function("location.hash.includes('image=')")
        page.page.fill("#find-image", text)
        sync_api.expect(said).to_contain_text(told)
        sync_api.expect(view).to_be_hidden()
        page.page.wait_for_function("!location.hash.includes('image=')")
    sync_api.expect(said).to_contain_text("or the name is misspelt, or the image was held out")
    page.check()


def test_classes_that_are_equal_are_ordered_by_size_then_name(made, opened):
    page = opened(made[1])
    page.page.wait_for_selector("#cards > li")
    page.page.evaluate(
        "index.classes.forEach((each, i) => { each.mean = each.mean.map(() => i * 1e-15); each.largest = each.largest.map("
        "() => [9, 9, 12][i]); })"
    )
    page.page.select_option("#list-order", "tightest")
    assert page.class_names() == ["straße", LONG, "Käfer"]
    assert set(page.page.locator("#classes button span").all_text_contents()) == {"mean 0"}
    sync_api.expect(page.page.locator("#found")).to_contain_text("3 classes, by the mean dissimilarity")
    page.check()


def test_a_tree_of_identical_images_has_no_axis(made, opened):
    page = opened(made[1])
    page.page.wait_for_selector("#cards > li")
    kept = page.page.locator("#cards .shot.kept .name").first.get_attribute("title")
    page.page.locator("#cards .facts button").first.click()
    sync_api.expect(page.page.locator("#tree-what")).to_contain_text(f"the group of {kept}, ")
    axis = page.page.locator("#tree-drawing .scale text")
    assert axis.count() == 6
    page.page.evaluate("state.data.merges.heights.fill(1e-15), drawTree()")
    assert axis.all_text_contents() == ["all images are identical to the network"]
    assert page.page.locator("#tree-drawing .marks text").count() == 0
    page.check()


def test_no_label_of_the_list_is_cut_off(made, opened):
    page = opened(made[1])
    page.page.wait_for_selector("#cards > li")
    for field in ("#find-image", "#list-order"):
        cut = page.page.locator(field).evaluate(
            "field => { const style = getComputedStyle(field), pen = document.createElement('canvas').getContext('2d');"
            " pen.font = style.font;"
            " const texts = field.options ? [...field.options].map(each => each.text) : [field.placeholder];"
            " const room = field.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight)"
            " - (field.options ? 20 : 0);"
            " return texts.filter(text => pen.measureText(text).width > room); }"
        )
        assert cut == []
