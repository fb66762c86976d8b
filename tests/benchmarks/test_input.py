"""The smallest configuration of the input benchmark. Asserts no times."""

import pytest

pytest.importorskip("tensorflow_datasets")

from benchmarks import input as benchmark


@pytest.mark.soak
def test_measures_everyone_on_the_same_images(tmp_path):
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.JPEG")
        files[-1].write_bytes(benchmark.photograph(number))
    assert all(50_000 < file.stat().st_size < 200_000 for file in files)
    cases = benchmark.measure(files, ("tfds", "subset"), count=160, size=32, batches=1, repeats=1, loader=False)
    assert list(cases["tfds"]["results"]) == ["ours", "flax's example", "lean tf.data", "plain tf.data"]
    assert cases["tfds"]["sizes"]["images"] == 160
    for case in cases.values():
        ratios = [entry["ratio"] for entry in case["results"].values() if "ratio" in entry]
        assert min(ratios) > 0


def test_crops_of_the_loader_lie_in_the_image():
    rng = benchmark.np.random.default_rng(0)
    for _ in range(50):
        left, top, right, bottom = benchmark._pillow_crop(rng, 40, 30)
        assert 0 <= left < right <= 40
        assert 0 <= top < bottom <= 30
