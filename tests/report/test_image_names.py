"""Images that have names: the page leads to the list of those that are kept, and its search finds an image's group."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pytest
from pages import groups_of, read_classes, read_page
from PIL import Image
from synthetic import make_workdir, noise_images

from redundancy import storage
from redundancy.embedding import ids
from redundancy.export.command import export
from redundancy.export.request import Request
from redundancy.report import browser as browser_lib
from redundancy.report.stage import report
from redundancy.runtime.errors import DataError
from redundancy.selection.subset import read_subset
from redundancy.workdir import Workdir, read_manifest

pytestmark = pytest.mark.usefixtures("quick_pdfs")

# How names of some cats and of some dogs begin: the first ends a script element, in a page that does not escape it.
HOSTILE = ["</script><img src=x onerror=alert(1)>", "\"'&amp; ü写真 \u2028${1}`"]
ODD = [f"{HOSTILE[number % 2]}{number}.png" for number in range(20)]


def make_photos(root, odd=ODD, count=60, **fields):
    """A workdir, before its report, of a folder of images of two classes, some held out; the first ones have these names."""
    images, labels = noise_images(count)
    names = [*odd, *(f"no {number:02d}.png" for number in range(len(odd), count))]
    for image, label, name in zip(images, labels, names, strict=True):
        path = root / "photos" / ("cat", "dog")[label] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    return make_workdir(root, images, labels, dataset=str(root / "photos"), image_size=8, **fields)


def exported(root, workdir, form="txt", fraction=0.9, **fields):
    export(Request(fraction, form, str(root / f"kept.{form}"), overwrite=True, **fields), workdir)
    return (root / f"kept.{form}").read_bytes()


def kept_list(workdir):
    """What the page's link leads to; None if it has none."""
    (path,) = {target for target in read_page(workdir).loads if target.startswith("kept")} or [None]
    return path and storage.read_bytes(storage.join(workdir.report, path))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A finished report on a folder of images: its root and workdir."""
    root = tmp_path_factory.mktemp("photos")
    config, workdir = make_photos(root)
    report(config, workdir)
    return root, workdir


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The same, with a file for each class."""
    root = tmp_path_factory.mktemp("many")
    config, workdir = make_photos(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(browser_lib, "PAGE_BYTES", browser_lib._REST_BYTES + 1)
        report(config, workdir)
    return root, workdir


def names_at(workdir, fraction="0.9000"):
    """The subset, and the names of its images."""
    subset = read_subset(workdir.subset(f"semantic-{fraction}"))
    return subset, ids.at(workdir.embeddings("end"), subset.positions).to_pylist()


def by_position(workdir):
    subset, names = names_at(workdir)
    return dict(zip(subset.positions.tolist(), names, strict=True))


def test_the_list_of_the_page_is_that_of_export(photos):
    root, workdir = photos
    assert kept_list(workdir) == exported(root, workdir)
    subset, _ = names_at(workdir)
    assert len(kept_list(workdir).splitlines()) == subset.kept.sum() < len(subset.kept)
    assert "kept-0.9000.txt" in read_manifest(workdir.report)["files"]
    assert f"the names of the {subset.kept.sum()} images kept at 90%, one a line" in read_page(workdir).words()
    dropped = storage.read_bytes(f"{workdir.report}/dropped-0.9000.txt")
    assert dropped == exported(root, workdir, dropped=True)


def test_classes_hold_names_whatever_they_contain(photos):
    _, workdir = photos
    names = by_position(workdir)
    found = {position: name for of in read_classes(workdir).values() for position, name in of.files.items()}
    assert found
    assert all(names[position] == name for position, name in found.items())
    text = storage.read_bytes(storage.join(workdir.report, "index.html")).decode()
    assert HOSTILE[0] not in text


def test_the_names_of_classes_in_files_are_in_a_file(many):
    root, workdir = many
    assert kept_list(workdir) == exported(root, workdir)
    assert read_page(workdir).json["index"]["search"] == "names.js"
    text = storage.read_bytes(storage.join(workdir.report, "names.js")).decode()
    assert "<" not in text
    listed = json.loads(text.removeprefix("redundancyNames(").removesuffix(");\n"))
    assert {of["label"]: [of["files"]["prefix"] + name for name in of["files"]["names"]] for of in listed} == {
        label: list(of.files.values()) for label, of in read_classes(workdir).items()
    }


def test_imported_names_of_the_embeddings_come_first_and_may_come_later(tmp_path):
    config, workdir = make_workdir(tmp_path, *noise_images(60))
    report(config, workdir)
    page = read_page(workdir)
    assert kept_list(workdir) is None
    assert not page.json["index"]["named"]
    assert "--dropped --format txt" in page.words()
    folder, names = workdir.embeddings("end"), [f"./a//{number}" for number in range(60)]
    ids.write(folder, np.arange(60), pa.array(names), ids.tie(read_manifest(folder)))
    report(config, workdir)
    assert kept_list(workdir) == exported(tmp_path, workdir)
    found = {position: name for of in read_classes(workdir).values() for position, name in of.files.items()}
    assert found == {position: f"./a//{position}" for position in found}
    storage.remove(ids.path(folder))
    storage.remove(workdir.report)
    with pytest.raises(DataError, match=r"ids\.parquet is missing"):
        report(config, workdir)


def test_names_with_line_breaks_have_no_list_of_lines(tmp_path):
    config, workdir = make_photos(tmp_path, ["line\nbreak.png", os.fsdecode(b"caf\xe9.png")])
    report(config, workdir)
    page = read_page(workdir)
    assert kept_list(workdir) is None
    assert "--dropped --format csv --output dropped.csv" in page.words()
    found = {name for of in read_classes(workdir).values() for name in of.files.values()}
    assert found & {"cat/line\nbreak.png", os.fsdecode(b"dog/caf\xe9.png")}


@pytest.mark.soak
def test_images_of_tfds_are_listed_by_its_ids(tmp_path, digits_npz):
    data = np.load(digits_npz)
    arrays = data["train_images"][..., None], data["train_labels"]
    config, workdir = make_workdir(tmp_path, *arrays, dataset="digits", report_classes=1, trials=1)
    report(config, workdir)
    assert kept_list(workdir) == exported(tmp_path, workdir, "tfds")
    assert "--dropped --format tfds --output dropped.txt" in read_page(workdir).words()
    names = {name for of in read_classes(workdir).values() for name in of.files.values()}
    assert all(name.startswith("digits-train.tfrecord-00000-of-00001__") for name in names)


# In a browser.


def find(page, text):
    page.page.fill("#find-image", text)


def expect_group(page, workdir, name, fraction="0.9000"):
    """Waits until the one card is that of the image's group; returns what the page says of the image."""
    subset, names = names_at(workdir, fraction)
    row, names = names.index(name), by_position(workdir)
    (kept,) = subset.positions[(subset.group == subset.group[row]) & subset.kept].tolist()
    page.page.wait_for_selector(f'#cards > li[data-kept="{kept}"]:only-child')
    page.page.wait_for_selector("#sought-text:has-text('kept')")
    (card,) = page.groups()
    assert {each for role, each in card[3] if role != "outside"} == groups_of(subset, subset.labels[row])[kept]
    assert page.page.locator(".sought [data-position]").get_attribute("data-position") == str(subset.positions[row])
    return page.page.locator("#sought-text").text_content(), names[kept]


def dropped_names(workdir, fraction="0.9000"):
    subset, names = names_at(workdir, fraction)
    return [names[row] for row in np.flatnonzero(~subset.kept)]


@pytest.mark.parametrize("made", ["photos", "many"])
def test_an_image_is_found_by_its_name(made, opened, request):
    _, workdir = request.getfixturevalue(made)
    page = opened(workdir)
    page.page.wait_for_selector("#cards > li")
    for name in (dropped_names(workdir)[-1], dropped_names(workdir)[0]):
        for text in (name, name.partition("/")[2]) if "no" in name else (name,):
            find(page, text.upper())
            said, kept = expect_group(page, workdir, name)
            assert said == f"{name} goes at 90% kept: {kept} of its group stands for it."
    find(page, "no")
    images = page.page.locator("#images button")
    images.nth(19).wait_for()
    assert images.count() == 20
    assert "images found, the first 20 listed" in page.page.locator("#images-found").text_content()
    wanted = images.nth(3).text_content()
    images.nth(3).click()
    page.page.wait_for_function(
        "name => document.getElementById('sought-text').textContent.startsWith(name)", arg=wanted
    )
    page.page.locator("#all-groups").click()
    assert page.page.locator("#sought").is_hidden()
    find(page, "nobody.png")
    page.page.wait_for_selector(
        "#images-found:has-text('Not found among the names of the images of redundant groups.')"
    )
    page.check()
    assert sum(url.endswith("/names.js") for url in page.requests) == (made == "many")


@pytest.mark.soak
def test_names_that_are_markup_are_found_and_run_nothing(photos, opened):
    _, workdir = photos
    page = opened(workdir)
    page.move_to(0)
    for start in ("cat/" + HOSTILE[0], "dog/" + HOSTILE[1]):
        name = next(name for name in dropped_names(workdir, "0.6000") if name.startswith(start))
        find(page, name)
        page.page.wait_for_function(
            "name => document.getElementById('sought-text').textContent.startsWith(name)", arg=name
        )
        assert page.page.locator("#images [aria-current=true]").all_text_contents() == [name]
        assert not page.faults()
    assert page.page.locator("img[src=x]").count() == 0
    page.check()


def test_a_found_image_is_followed_to_other_fractions(photos, opened):
    _, workdir = photos
    page = opened(workdir)
    name = next(each for each in dropped_names(workdir, "0.6000") if each not in dropped_names(workdir))
    subset, names = names_at(workdir)
    alone = np.count_nonzero(subset.group == subset.group[names.index(name)]) == 1
    page.move_to(0)
    find(page, name)
    said, kept = expect_group(page, workdir, name, "0.6000")
    assert said == f"{name} goes at 60% kept: {kept} of its group stands for it."
    page.move_to(1)
    wanted = (
        "is in no group at 90% kept, so it stays. It goes at 60% kept." if alone else "is kept at 90%, and stands for"
    )
    page.page.wait_for_function(
        "text => document.getElementById('sought-text').textContent.includes(text)", arg=f"{name} {wanted}"
    )
    assert len(page.groups()) == (0 if alone else 1)
    page.check()


def test_the_link_leads_to_the_list(photos, opened):
    root, workdir = photos
    page = opened(workdir)
    link = page.page.locator("#kept-list")
    address = link.evaluate("link => link.href")
    link.click()
    page.page.wait_for_url(address)
    shown = page.page.evaluate("document.body.textContent")
    assert shown.splitlines() == exported(root, workdir).decode().splitlines()
    assert not page.complaints


def test_a_lost_file_of_names_is_told(many, tmp_path, opened):
    shutil.copytree(many[1].root, tmp_path / "work")
    workdir = Workdir(str(tmp_path / "work"))
    storage.remove(storage.join(workdir.report, "names.js"))
    page = opened(workdir)
    find(page, "no")
    page.page.wait_for_selector("#images-found:has-text('The file names.js with the names is missing')")


def test_too_many_names_are_searched_in_the_open_class_alone(tmp_path, opened, monkeypatch):
    config, workdir = make_photos(tmp_path)
    monkeypatch.setattr(browser_lib, "PAGE_BYTES", browser_lib._REST_BYTES + 1)
    monkeypatch.setattr(browser_lib, "NAMES_BYTES", 10)
    report(config, workdir)
    assert not storage.exists(storage.join(workdir.report, "names.js"))
    page = opened(workdir)
    page.page.wait_for_selector("#cards > li")
    cat, dog = (next(each for each in dropped_names(workdir) if each.startswith(of)) for of in ("cat", "dog"))
    find(page, cat)
    expect_group(page, workdir, cat)
    find(page, dog)
    page.page.wait_for_selector("#images-found:has-text('groups of the class that is open (the other classes lie')")
    page.open_class(1)
    find(page, dog + " ")
    expect_group(page, workdir, dog)
