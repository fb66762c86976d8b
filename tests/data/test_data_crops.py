import numpy as np
import pytest
from PIL import Image

from redundancy.data.crops import TRIES, RandomResizedCrop, centre_box
from redundancy.data.resize import resize

POSITIONS = np.arange(4000)


def windows(crop, height, width, epoch=0, seed=(1, 2), positions=POSITIONS):
    sizes = np.full(len(positions), height), np.full(len(positions), width)
    return crop.windows(crop.draws(seed, epoch, positions), *sizes)


def test_area_and_aspect_are_uniform_in_their_ranges():
    crop = RandomResizedCrop((0.1, 0.5), (0.5, 2.0))
    top, left, height, width = windows(crop, 1000, 1000).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 1000).all()
    assert (left + width <= 1000).all()
    area, aspect = height * width / 1e6, np.log2(width / height)
    assert 0.098 < area.min() < 0.105
    assert 0.49 < area.max() < 0.502
    assert np.allclose(np.quantile(area, [0.25, 0.5, 0.75]), [0.2, 0.3, 0.4], atol=0.012)
    assert np.allclose(np.quantile(aspect, [0.25, 0.5, 0.75]), [-0.5, 0, 0.5], atol=0.06)
    free = 1000 - height > 300
    assert np.allclose(np.quantile((top / (1000 - height))[free], [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.04)


def test_depends_on_seed_epoch_and_position_alone():
    crop = RandomResizedCrop()
    found = crop.draws((3,), 2, POSITIONS)
    assert found.shape == (4000, TRIES, 4)
    some = np.array([7, 3, 7, 3999])
    assert np.array_equal(crop.draws((3,), np.array([2, 2, 2, 2]), some), found[some])
    mixed = crop.draws((3,), np.array([2, 0, 1, 2]), some)
    assert np.array_equal(mixed[[0, 3]], found[[7, 3999]])
    assert not np.array_equal(mixed[1], found[3])
    assert not np.array_equal(crop.draws((3, 0), 2, some), found[some])
    assert len(np.unique(found[..., 2])) == 4000 * TRIES


def test_where_no_try_fits_the_centre_is_taken():
    crop = RandomResizedCrop((1.0, 1.0), (0.75, 4 / 3))
    assert np.array_equal(windows(crop, 100, 400, positions=POSITIONS[:3]), [[0, 133, 100, 133]] * 3)
    assert np.array_equal(windows(crop, 401, 100, positions=POSITIONS[:3]), [[134, 0, 133, 100]] * 3)
    tiny = windows(RandomResizedCrop(), 1, 1)
    assert np.array_equal(tiny, np.tile([0, 0, 1, 1], (4000, 1)))


def test_windows_stay_the_same_over_versions():
    crop = RandomResizedCrop()
    assert windows(crop, 375, 500, 3, (1, 2), np.array([0, 1_281_166])).tolist() == [
        [110, 171, 244, 193],
        [9, 62, 245, 263],
    ]


@pytest.mark.parametrize(
    ("height", "width", "size"), [(1, 1, 4), (3, 2, 5), (90, 120, 64), (300, 200, 64), (64, 64, 64), (40, 31, 7)]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_resize_is_pillows(height, width, size, channels):
    image = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    image[: height // 2] //= 16
    for box in ((0, 0, height, width), (0.1 * height, 0.2 * width, 0.73 * height, 0.77 * width)):
        top, left, down, across = box
        pillow = Image.fromarray(image.squeeze(-1) if channels == 1 else image, {1: "L", 3: "RGB", 4: "CMYK"}[channels])
        wanted = pillow.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + across, top + down))
        wanted = np.asarray(wanted).reshape(size, size, channels)
        found = resize(image, np.array(box, float), size)
        assert found.dtype == np.uint8
        assert np.abs(found.astype(int) - wanted).max() <= 1


def test_centre_box():
    assert centre_box(100, 200, 1.0) == (0, 50, 100, 100)
    assert centre_box(256, 256, 0.875) == (16, 16, 224, 224)
