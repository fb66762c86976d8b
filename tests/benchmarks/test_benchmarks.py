"""Runs the smallest configuration of each benchmark and checks what it measures. Asserts no times."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import common, embeddings, images, linkages, near, selection

SMALL = selection.Sizes(
    cifar10=(2, 60), imagenet=(3, 40), sample=2, large=(40, 80), half=50, pairs=(120,), near=(400, 600), near_wide=(300,), million=100, repeats=2,
    peers_in_large=True, memory_in=(), children=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def run():
    return selection.Run(SMALL, embeddings.network(5), memory=False)


@pytest.mark.soak
def test_embeddings_are_those_of_different_images(run):
    both = [run.network.embed(digit, 60, seed=0) for digit in (0, 1)]
    for of_class in both:
        assert of_class.shape == (60, 64)
        assert of_class.dtype == np.float32
        assert np.isfinite(of_class).all()
        assert of_class.any(axis=1).all()
    assert len(np.unique(np.concatenate(both), axis=0)) == 120
    assert not np.array_equal(both[0], run.network.embed(0, 60, seed=1))
    assert np.array_equal(both[0][:20], run.network.embed(0, 20, seed=0))


@pytest.mark.soak
def test_wide_embeddings(run):
    wide = run.network.embed(0, 30, seed=0, wide=True)
    assert wide.shape == (30, 2048)
    assert np.isfinite(wide).all()
    assert len(np.unique(wide, axis=0)) == 30


def test_alternating_timer_calls_both_in_turn_and_gives_the_median_ratio(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(common.time, "perf_counter", lambda: clock[0])

    def taking(name, seconds):
        left = iter(seconds)

        def call():
            calls.append(name)
            clock[0] += next(left)
            return f"{name} {calls.count(name)}"

        return call

    both = common.alternate(taking("ours", [9, 1, 2, 1]), taking("peer", [7, 3, 2, 5]), repeats=3)
    assert calls == ["ours", "peer"] * 4
    assert (both.ours.first_call_s, both.peer.first_call_s) == (9, 7)
    assert (both.ours.seconds, both.peer.seconds) == ([1, 2, 1], [3, 2, 5])
    assert both.ratios == [3, 1, 5]
    assert both.ratio == 3
    assert (both.ours_result, both.peer_result) == ("ours 1", "peer 1")


def test_child_sees_its_own_memory_alone():
    held = np.ones(1 << 26)  # 512 MiB that the child must not be charged with
    array = np.random.default_rng(0).random((2_000, 8), dtype=np.float32)
    found = common.in_child("benchmarks.linkages:scipy", array, kept=0.9)
    matrices = 2 * 8 * 2_000 * 1_999 / 2 / 2**20
    assert 0.9 * matrices < found["extra_mib"] < 4 * matrices
    assert found["peak_mib"] == found["before_mib"] + found["extra_mib"]
    assert found["peak_mib"] < held.nbytes / 2**20


def test_child_that_fails_is_an_error_and_no_end():
    entry = {}
    common.add_memory([common.Job(entry, "benchmarks.linkages:nothing", np.ones((3, 2)), {})])
    assert "nothing" in entry["error"]


def test_agreement_counts_what_differs():
    one = np.array([0, 0, 1, 2, 2, 3])
    same = {"partitions": 1, "identical": 1, "same_group": 1.0}
    assert linkages.agreement([one], [np.array([5, 5, 3, 0, 0, 1])]) == same
    split = linkages.agreement([one, one], [one, np.array([0, 1, 2, 3, 3, 4])])
    assert split == {"partitions": 2, "identical": 1, "same_group": 10 / 12}


@pytest.mark.soak
def test_json_has_ratios_agreement_and_machine(run, capsys):
    arguments = ["--quick", "--json", "--only", "cifar10", "--scale", "0.02", "--train-steps", "5", "--no-memory"]
    selection.main(arguments)
    result = json.loads(capsys.readouterr().out)
    assert result["command"] == "python -m benchmarks.selection " + " ".join(arguments)
    assert result["versions"]["numpy"] == np.__version__
    assert result["machine"]["cores"] >= 1
    case = result["cases"]["cifar10"]
    assert case["sizes"] == {"classes": 1, "images_per_class": 100, "dimension": 64}
    for peer in ("scikit-learn", "SciPy"):
        entry = case["results"][peer]
        assert result["ratios"][f"cifar10/{peer}"] == entry["ratio"] > 0
        assert len(entry["seconds"]) == len(entry["ours_seconds"]) == len(entry["ratios"]) == 3
        assert entry["agreement"] == {"partitions": 1, "identical": 1, "same_group": 1.0}
    assert list(case["fractions"]) == ["0.95", "0.9", "0.8", "0.7", "0.5", "0.3", "0.1"]
    assert all(found["identical"] == 1 for found in case["fractions"].values())


def test_every_fraction_beside_peers_from_a_file(run, tmp_path):
    embedding = np.random.default_rng(0).normal(size=(130, 8)).astype(np.float16)
    position, label = np.arange(130)[::-1], np.repeat([3, 1], [30, 100])
    np.savez(tmp_path / "some.npz", position=position, label=label, embedding=embedding)
    run = dataclasses.replace(run, embeddings=str(tmp_path / "some.npz"), sizes=dataclasses.replace(SMALL, repeats=1))
    found = selection.measure(run, ["fractions"])
    assert next(iter(found["cases"])) == "fractions-0.9"
    assert len(found["cases"]) == 9
    assert len(found["ratios"]) == 18
    for case in found["cases"].values():
        assert case["sizes"] == {"classes": 1, "images_per_class": 100, "dimension": 8}
        for peer in ("scikit-learn", "SciPy"):
            assert case["results"][peer]["agreement"]["identical"] == 1
            assert "by the seconds of all cores; same partition in 1 of 1" in selection.remark(case["results"][peer])


def test_another_partition_is_reported(run, monkeypatch, capsys):
    def wrong(of_class, kept):
        return np.roll(linkages.ours(of_class, kept), 1)

    monkeypatch.setattr(linkages, "PEERS", {"wrong": wrong})
    selection.main(["--quick", "--only", "cifar10", "--scale", "0.02", "--train-steps", "5", "--no-memory"])
    printed = capsys.readouterr()
    (row,) = (line for line in printed.out.splitlines() if line.startswith("cifar10  wrong"))
    assert "DIFFERS: same partition in 0 of 1" in row
    assert "beside wrong" in printed.err


@pytest.mark.soak
def test_imagenet_is_scaled_from_a_sample_and_labelled_so(run):
    found = selection.measure(run, ["imagenet"])
    case = found["cases"]["imagenet"]
    assert "2 of the 3 classes" in case["note"]
    entry = case["results"]["SciPy"]
    assert entry["median_s"] == pytest.approx(entry["sample_median_s"] * 1.5)
    assert case["sizes"]["dimension"] == 2048


def test_large_gives_growth_and_leaves_out_what_does_not_fit(run, monkeypatch):
    found = selection.measure(run, ["large"])
    assert set(found["cases"]) == {"large-40", "large-80", "large-50-half"}
    assert np.isfinite(found["growth_exponent"])
    assert selection.growth_exponent([10, 20, 40], [1.0, 4.0, 16.0]) == pytest.approx(2)
    monkeypatch.setattr(common, "available_gib", lambda: 8.0)
    assert selection._reason_not_run(20_000, None) is None
    assert selection._reason_not_run(50_000, None) == "needs 18.6 GiB"
    assert "200 s" in selection._reason_not_run(20_000, (10_000, 50.0))


def test_pairs_are_checked(run):
    found = selection.measure(run, ["pairs"])
    case = found["cases"]["pairs-120"]
    assert found["ratios"] == {"pairs-120/sgemm": case["results"]["sgemm"]["ratio"]}
    assert case["results"]["ours"]["wrong_pairs"] == 0
    assert 4 * 120 * 0.9 < case["pairs"] < 4 * 120 * 1.1


def test_a_missed_pair_is_noticed():
    from redundancy.linkage import dissimilarity, pairs

    array = np.random.default_rng(0).random((60, 4), dtype=np.float32)
    found = pairs.within(dissimilarity.units(array), 0.05)
    assert linkages.wrong_pairs(array, found, 0.05) == 0
    fewer = dataclasses.replace(found, i=found.i[1:], j=found.j[1:])
    assert linkages.wrong_pairs(array, fewer, 0.05) == 2  # seen from either of its rows


@pytest.mark.parametrize("tile", [(3, 3), (4, 7), (100, 100)])
def test_products_cover_the_half(monkeypatch, tile):
    seen = np.zeros((10, 10), int)
    matmul = np.matmul

    def recording(one, other, out):
        matmul(one, other, out=out)
        seen[np.ix_(one[:, 0].astype(int), other[0].astype(int))] += 1

    monkeypatch.setattr(linkages.np, "matmul", recording)
    linkages.products(np.stack([np.arange(10), np.ones(10)], 1).astype(np.float32), tile)
    assert (seen[np.triu_indices(10)] == 1).all()


def test_million_runs_in_a_child(run, monkeypatch):
    monkeypatch.setattr(common, "in_child", lambda target, array, **_: {"child_s": 2.0, "peak_mib": 5.0})
    case = selection.measure(run, ["million"])["cases"]["million"]
    assert case["results"]["ours"]["median_s"] == 2.0
    assert case["sizes"]["images_per_class"] == 100


@pytest.mark.soak
def test_images_are_embedded_once_in_each_way(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(images, "STEPS", 2)
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, 256, (7, 12, 12, 3), np.uint8)
    np.savez(tmp_path / "set.npz", train_images=drawn, train_labels=np.arange(7) % 3)
    found = images.of_images(str(tmp_path / "set.npz"), 162 * 7)
    assert len(np.unique(found, axis=0)) == 162 * 7
    assert np.array_equal(images.of_images(str(tmp_path / "set.npz"), 162 * 7), found)
    np.testing.assert_allclose(images.of_images(str(tmp_path / "set.npz"), 10), found[:10], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="7 in 162 ways are 1134"):
        images.of_images(str(tmp_path / "set.npz"), 1135)


@pytest.mark.soak
def test_near_pairs_are_the_same_by_each_way(run, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(near, "_STEPS", 2)
    found = selection.measure(run, ["near"])
    assert {*found["near_exponents"]} == {"network", "interpolated"}
    for case in found["cases"].values():
        results = case["results"]
        assert results["boxes"]["pairs"] == results["all blocks"]["pairs"] > 0
        assert 0 < results["boxes"]["leaves_left"] <= 1
    assert "leaf pairs left" in selection.remark(found["cases"]["near-network-400"]["results"]["boxes"])
    first = near.of_network(600)
    assert [*(tmp_path / "redundancy" / "benchmarks").glob("dense-64-*-600.npy")]
    assert np.array_equal(first, near.of_network(600))
