"""Fitting batches, topologies and shapes, compared with values computed by hand; and the report."""

import re

import pytest

from redundancy import config as config_lib
from redundancy.preflight import report
from redundancy.preflight.compile import Request, check
from redundancy.preflight.generations import GENERATIONS, parse_topology
from redundancy.preflight.shapes import Shapes, shapes
from redundancy.runtime.errors import ConfigError

V5E = GENERATIONS["v5e"]


def test_fitting_batch():
    # 1 of 8 bytes is fixed; 7 bytes for 64 images leave room for 0.9 * 5 - 1 = 3.5 bytes: 32 images.
    assert report.fitting_batch(64, used=8, fixed=1, available=5) == 32
    assert report.fitting_batch(8, used=8, fixed=0, available=1) == 0
    assert report.fitting_batch(4, used=8, fixed=0, available=4) == 1
    assert report.fitting_batch(64, used=0, fixed=0, available=5) == 56  # not known what it needs: less than it was
    assert report.fitting_batch(64, used=8, fixed=1, available=5, whole=12) == 24
    assert report.fitting_batch(64, used=8, fixed=1, available=4, whole=20) == 20  # 0.9 * 4 - 1 = 2.6 bytes: 23 images
    assert report.fitting_batch(64, used=8, fixed=1, available=5, whole=64) == 0


@pytest.mark.parametrize(("text", "chips"), [("v5e:16x16", 256), ("v4:2x2x1", 4), ("v5p:4x4x8", 128), ("v6e:1x1", 1)])
def test_topologies(text, chips):
    assert parse_topology(text).chips == chips
    assert parse_topology(text).name == text


def test_peak_rates_are_those_of_training():
    peaks = {name: of.flops for name, of in GENERATIONS.items()}
    assert peaks == {"v4": 275e12, "v5e": 197e12, "v5p": 459e12, "v6e": 918e12}


@pytest.mark.parametrize(
    "text", ["v5e", "v5e:16", "v5e:2x2x2", "v4:2x2", "v5e:0x4", "v5e:4X4", "v5e:4x4 ", "v3:4x4", ""]
)
def test_topologies_that_are_none(text):
    with pytest.raises(ConfigError, match="anted"):
        parse_topology(text)


def test_shapes_are_known_by_name_or_given():
    assert shapes(config_lib.resolve({"dataset": "cifar10:3.0.2"})) == Shapes((32, 32, 3), 10, 50_000, True)
    imagenet = config_lib.resolve({"dataset": "imagenet2012", "image_size": 224})
    assert shapes(imagenet) == Shapes((224, 224, 3), 1000, 1_281_167, False)
    assert shapes(imagenet, image_size=64, classes=5).image == (64, 64, 3)
    assert shapes(imagenet, image_size=64, classes=5).classes == 5
    with pytest.raises(ConfigError, match="--image-size"):
        shapes(config_lib.resolve({"dataset": "imagenet2012"}))
    with pytest.raises(ConfigError, match="--classes"):
        shapes(config_lib.resolve({"dataset": "/data/birds", "image_size": 64}))
    assert shapes(config_lib.resolve({"dataset": "/data/birds"}), 64, 200) == Shapes((64, 64, 3), 200, 0, False)


def _request(**fields):
    config = config_lib.resolve(
        {"dataset": "imagenet2012", "image_size": 224, "batch_size": 16384, "bn_group_size": 64, **fields}
    )
    return Request(config, parse_topology("v5e:16x16"), shapes(config))


def test_data_parallel_that_does_not_divide_the_slice():
    with pytest.raises(ConfigError, match="data_parallel is 3"):
        check(_request(data_parallel=3))


def _found(**train):
    fits = {
        "images_per_chip": 64,
        "fixed": 5e8,
        "fits": True,
        "hbm_used": 4 * 2**30,
        "flops": 2.9e12,
        "bytes_accessed": 41.5e9,
        "collectives": [
            {"kind": "all-reduce", "bytes": 178.6e6, "devices": 256, "crosses_trials": False, "op_name": ""},
            {"kind": "all-reduce", "bytes": 8, "devices": 256, "crosses_trials": False, "op_name": ""},
        ],
    }
    return {
        "mesh": [1, 256], "parameters": 44_500_000, "parameter_bytes": 178_000_000,
        "programs": {"train": {**fits, **train}},
    }  # fmt: skip


def test_report_fits_a_terminal_and_names_the_limits():
    result = report.summary(_request(), _found())
    text = report.text(result)
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 170
    assert result["fits"] is True
    assert report.problem(result) is None
    train = result["programs"]["train"]
    assert train["images_per_s_per_chip"] == pytest.approx(64 / (2.9e12 / 197e12))
    for words in (
        "4.00 GiB of 15.75 GiB, 25%",
        "2.9 T",
        "41.5 GB",
        "the gradients alone",
        "all-reduce of 179 MB",
        V5E.source,
    ):
        assert words in text


def test_report_of_chips_that_idle_and_statistics_that_cross():
    found = {**_found(), "mesh": [1, 128]}
    remarks = " ".join(report.summary(_request(bn_group_size=0), found)["remarks"])
    assert "128 chips stay idle" in remarks
    assert "set config.bn_group_size to 128" in remarks


def _too_large(needed=32 * 2**30, **fields):
    found = _found()
    found["programs"]["train"] = {
        "images_per_chip": 64, "fixed": 5e8, "fits": False, "needed": needed, "message": "RESOURCE_EXHAUSTED",
    }  # fmt: skip
    return report.summary(_request(**fields), found)


def test_a_batch_that_does_not_fit_is_reported_with_one_that_does():
    result = _too_large(bn_group_size=8)
    assert result["fits"] is False
    assert "does not fit" in report.text(result)
    problem = report.problem(result)
    assert "needs 32.0 GiB of HBM, of 15.75 GiB available" in problem
    assert "24 images a chip" in problem
    assert "--config.batch_size=6144" in problem


@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({"bn_group_size": 0}, 24),
        ({"bn_group_size": 4}, 24),
        ({"bn_group_size": 16}, 16),
        ({"bn_group_size": 4, "micro_batch": 16}, 16),
    ],
)
def test_the_batch_that_would_fit_is_one_that_can_be_spread_over_the_chips(fields, share):
    result = _too_large(**fields)
    batch = share * 256
    assert f"--config.batch_size={batch}" in report.problem(result)
    assert ("config.micro_batch" in report.problem(result)) == ("micro_batch" in fields)
    _request(**fields, batch_size=batch)
    for whole in filter(None, fields.values()):
        assert batch % (256 * whole) == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bn_group_size": 64}, "no batch_size would fit.*BatchNorm group of 64 .*config.bn_group_size"),
        ({"bn_group_size": 8, "micro_batch": 32}, "no batch_size would fit.*micro-batch of 32 .*config.micro_batch"),
        ({"bn_group_size": 8, "needed": 2**50}, "not even one image"),
    ],
)
def test_it_is_reported_if_no_batch_fits(fields, said):
    problem = report.problem(_too_large(**fields))
    assert re.search(said, problem)
    assert "--config.batch_size" not in problem
