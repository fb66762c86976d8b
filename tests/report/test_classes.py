"""Choice of pictures, their budget, and the details that the page shows for a class."""

import numpy as np
import pytest

from redundancy.linkage.complete import Merges
from redundancy.report import browser, classes, images

# Images 0…5: (0, 1) at 0.1, (2, 3) at 0.2, both at 0.4; 4 joins them at 0.9; 5 stays alone.
MERGES = Merges(np.array([0, 2, 6, 4]), np.array([1, 3, 7, 8]), np.array([0.1, 0.2, 0.4, 0.9]), np.array([2, 2, 4, 5]))


def make_cut(group, fraction=0.5, merges=MERGES):
    group = np.array(group)
    kept = np.zeros(len(group), bool)
    kept[np.unique(group, return_index=True)[1]] = True
    return classes.make_cut(fraction, group, kept, np.where(kept, 0.0, np.arange(len(group)) / 100), merges)


def test_heights_are_those_of_the_merges_that_made_the_groups():
    assert make_cut([0, 0, 1, 1, 2, 3]).heights.tolist() == [0.1, 0.2]
    assert make_cut([0, 0, 0, 0, 0, 1]).heights.tolist() == [0.9]
    assert np.isnan(make_cut([0, 0, 0, 1, 2, 3]).heights[0]), "no cluster of the merges has three images"
    assert np.isnan(make_cut([0, 0, 1, 1, 2, 3], merges=None).heights).all()


def cut_of(sizes, rng):
    group = np.repeat(np.arange(len(sizes)), sizes)
    kept = np.diff(group, prepend=-1) > 0
    return classes.make_cut(0.9, group, kept, np.where(kept, 0, rng.random(len(group))), None)


def test_pictures_go_to_large_wide_and_tight_groups_first():
    of = cut_of([2] * 40 + [9], np.random.default_rng(0))
    chosen = set(classes.choose_pictures([of], 0, 15, 0, 24, seed=0))
    spread = of.spread
    for group in (40, int(spread.argmax()), int(spread.argmin())):
        start = of.starts[group]
        assert set(of.rows[start : start + of.sizes[group]].tolist()) <= chosen
    assert len(chosen) <= 15
    assert chosen == set(classes.choose_pictures([of], 0, 15, 0, 24, seed=0))
    assert chosen != set(classes.choose_pictures([of], 0, 15, 0, 24, seed=1))


def test_groups_with_pictures_come_first():
    of = cut_of([2, 3, 2, 5], np.random.default_rng(0))
    pictures = np.zeros(12, bool)
    pictures[[2, 3, 4, *of.rows[7:10]]] = True
    ordered, count = classes.pictured_first(of, pictures, 0, 3, seed=0)
    assert count == 2, "of the group of five the three that are shown have pictures"
    assert sorted(ordered.sizes[:2].tolist()) == [3, 5]
    assert sorted(ordered.rows.tolist()) == list(range(12))


def test_no_image_outside_a_group_that_is_the_class():
    found, value = classes.nearest_outside(np.ones((3, 2)), np.array([0]), np.arange(3), np.array([3]))
    assert found.tolist() == [3]
    assert np.isnan(value).all()


def test_shares_are_even_but_for_those_who_want_less():
    assert browser.share_out({1: 5, 2: 100, 3: 100}, 65) == {1: 5, 2: 30, 3: 30}
    assert browser.share_out({1: 5, 2: 7}, 100) == {1: 5, 2: 7}
    assert browser.share_out({}, 5) == {}


@pytest.mark.parametrize(
    ("count", "side", "one_file", "each"),
    [(10, 8, True, 401), (200, 64, False, 120), (1000, 64, False, 64), (4000, 64, False, 32), (40, 200, False, 121)],
)
def test_classes_share_the_pictures_evenly_and_many_have_enough_to_look_at(count, side, one_file, each):
    of = cut_of([2] * 160, np.random.default_rng(0))
    found = [browser.ClassData(label, f"class {label}", np.arange(500), [of], None) for label in range(count)]
    sample = list(np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8))
    planned = browser.plan(found, sample)
    assert planned.one_file == one_file
    assert set(planned.most_pictures.values()) == {each}
    assert max(planned.most_pictures.values()) * planned.picture_bytes <= browser.CLASS_BYTES


@pytest.mark.parametrize(("most_bytes", "wanted"), [(1e9, "exact"), (1e4, "lossy")])
def test_small_images_are_lossless_if_there_is_room(most_bytes, wanted):
    sample = list(np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8))
    kind, each = images.choose_kind(sample, 1000, most_bytes)
    assert (kind == "lossy") == (wanted == "lossy")
    assert each == pytest.approx(4 / 3 * np.mean([len(images.compress(image, kind)) for image in sample]) + 4)
