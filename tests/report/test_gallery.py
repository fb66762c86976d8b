"""Groups against a subset small enough to read, and images as files."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from redundancy.report import gallery, images


@pytest.fixture
def groups():
    # Class 0: {2, 5, 9} kept 5, {1} alone, {3, 4} kept 3, {0, 8} kept 8. Class 1: {6}, {7}.
    return gallery.make_groups(
        positions=np.arange(10),
        labels=np.array([0, 0, 0, 0, 0, 0, 1, 1, 0, 0]),
        group=np.array([7, 1, 0, 2, 2, 0, 3, 4, 7, 0]),
        kept=np.array([0, 1, 0, 1, 0, 1, 1, 1, 1, 0], bool),
        dissimilarity=np.array([0.01, 0, 0.3, 0, 0.2, 0, 0, 0, 0, 0.1]),
    )


def test_members_have_the_kept_image_first_then_the_nearest(groups):
    found = [groups.members(index).tolist() for index in range(len(groups.starts))]
    assert found == [[5, 9, 2], [1], [3, 4], [6], [7], [8, 0]]
    assert groups.distances(0).tolist() == [0, 0.1, 0.3]
    assert groups.spread.tolist() == [0.3, 0, 0.2, 0, 0, 0.01]
    assert groups.labels.tolist() == [0, 0, 0, 1, 1, 0]


def test_choice_mixes_large_and_tight(groups):
    assert gallery.choose_groups(groups, 0, 2) == [0, 5]
    assert gallery.choose_groups(groups, 0, 9) == [0, 5, 2]
    assert gallery.choose_groups(groups, 1, 9) == []


def test_size_counts(groups):
    assert gallery.size_counts(groups) == {1: 3, 2: 2, 3: 1}
    assert gallery.size_counts(groups, 1) == {1: 2}


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3), (64, 64, 3), (6, 6, 4), (6, 6, 2)])
def test_small_images_are_stored_as_they_are(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    back = np.asarray(Image.open(_decode(images.encode(image), "png")))
    wanted = image[..., :3] if shape[-1] >= 3 else image[..., 0]
    np.testing.assert_array_equal(back, wanted)


def test_large_images_become_small_jpegs():
    image = np.zeros((300, 200, 3), np.uint8)
    picture = Image.open(_decode(images.encode(image), "jpeg"))
    assert picture.format == "JPEG"
    assert picture.size == (85, 128)


def _decode(uri, kind):
    head, data = uri.split(",")
    assert head == f"data:image/{kind};base64"
    return io.BytesIO(base64.b64decode(data))


def test_small_images_are_shown_enlarged_and_large_ones_reduced():
    assert images.shown_size((8, 8, 1)) == (56, 56)
    assert images.shown_size((32, 32, 3)) == (64, 64)
    assert images.shown_size((224, 448, 3)) == (112, 56)
    assert max(images.shown_size((4, 400, 3))) == 112
