"""The command, with real compilations of a small ResNet for slices of a TPU; skipped where libtpu is not installed."""

import importlib.util
import json

import pytest

from tests.failing import fails

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")

SMALL = (
    "preflight", "--config=configs/imagenet.py", "--config.depth=18", "--config.widths=(8,8,16,16)",
    "--config.image_size=64", "--config.bn_group_size=8",
)  # fmt: skip


def test_mistakes(redundancy):
    fails(redundancy(*SMALL), "--topology is missing", code=2)
    fails(redundancy(*SMALL, "--topology=v5e:16"), "wanted v5e:AxB", "v5e:4x4", code=2)
    fails(redundancy("train", *SMALL[1:], "--topology=v5e:2x2"), "--topology is a flag of preflight", code=2)


@pytest.mark.soak
@needs_libtpu
def test_training_exchanges_the_gradients_alone(redundancy):
    done = redundancy(
        *SMALL, "--topology=v5e:16x16", "--config.batch_size=2048", "--config.eval_batch_size=512", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["chips_used"] == 256
    assert result["fits"] is True
    train, embed = result["programs"]["train"], result["programs"]["embed"]
    assert (train["images_per_chip"], embed["images_per_chip"]) == (8, 2)
    assert embed["collectives"] == []
    assert {of["kind"] for of in train["collectives"]} == {"all-reduce"}
    assert not any(of["crosses_trials"] for of in train["collectives"])
    # Gradients, and the running statistics: 1.6 % of the parameters in so narrow a network.
    assert sum(of["bytes"] for of in train["collectives"]) == pytest.approx(result["parameter_bytes"], rel=0.05)
    assert len(train["collectives"]) <= 2
    assert train["flops"] > 3 * embed["flops"]
    assert 0 < train["hbm_used"] < 0.9 * result["hbm_available"]


@pytest.mark.soak
@needs_libtpu
def test_trials_exchange_nothing(redundancy):
    done = redundancy(*SMALL, "--topology=v5e:2x2", "--trials=2", "--config.batch_size=16", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["trials"], result["chips_per_trial"]) == (2, 2)
    assert result["programs"]["train"]["collectives"]
    assert not any(of["crosses_trials"] for of in result["programs"]["train"]["collectives"])


@pytest.mark.soak
@needs_libtpu
def test_a_batch_that_does_not_fit(redundancy):
    done = redundancy(*SMALL, "--topology=v5e:2x2", "--config.batch_size=4000000")
    fails(done, "does not fit on v5e:2x2", "GiB of HBM, of 15.75 GiB available", "--config.batch_size=", code=1)
    assert "does not fit" in done.stdout
