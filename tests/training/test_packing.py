"""Packs: how many trials at once, found by measuring, and whether they fit."""

import jax
import numpy as np
import pytest

from redundancy import config as config_lib
from redundancy import storage
from redundancy.data import open_dataset
from redundancy.runtime.errors import ConfigError
from redundancy.training import memory, packing
from redundancy.training.loop import Job, train_pack
from redundancy.training.mesh import make_mesh
from redundancy.training.packing import Packing
from redundancy.training.programs import Programs
from redundancy.training.trainer import Trainer
from redundancy.workdir.table import Schedule

TINY = {"depth": 8, "widths": (4, 4, 8), "batch_size": 16, "steps": 4, "warmup_steps": 1, "eval_batch_size": 150}


def tiny(**fields):
    config = config_lib.resolve({**TINY, **fields})
    return config, make_mesh(config, num_trials=1)


def test_packs_that_may_be_fastest():
    config, mesh = tiny()
    assert packing.candidates(config, mesh, 20) == [Packing(1, False)]
    config, mesh = tiny(pack=3)
    assert packing.candidates(config, mesh, 20) == [Packing(3, False)]
    config, mesh = tiny(pack_mode="vmap")
    assert packing.candidates(config, mesh, 20) == [Packing(1, False), Packing(4, True), Packing(8, True)]
    assert packing.candidates(config, mesh, 5) == [Packing(1, False), Packing(4, True)]
    config, mesh = tiny(pack=2, pack_mode="vmap")
    assert packing.candidates(config, mesh, 20) == [Packing(2, True)]


def test_the_measured_packing_is_remembered(tmp_path, monkeypatch):
    config, mesh = tiny(pack_mode="vmap")
    path, seen = str(tmp_path / "packing.json"), []

    def rate(programs, tried, num_images):
        seen.append(tried)
        if tried.pack == 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory")
        return {1: 100.0, 4: 300.0}[tried.pack]

    monkeypatch.setattr(packing, "images_per_second", rate)
    for _ in range(2):
        assert packing.choose(config, (8, 8, 1), 10, mesh, 50, 20, path) == Packing(4, True)
    assert seen == [Packing(1, False), Packing(4, True), Packing(8, True)]
    assert storage.read_json(path)["measured"][1]["images_per_second"] == 300.0


@pytest.mark.parametrize("rate", [105.0, 80.0])
def test_a_larger_pack_must_pay(tmp_path, monkeypatch, rate):
    config, mesh = tiny(pack_mode="vmap")
    monkeypatch.setattr(packing, "images_per_second", lambda _, tried, __: 100.0 if tried.pack == 1 else rate)
    path = str(tmp_path / "packing.json")
    assert packing.choose(config, (8, 8, 1), 10, mesh, 50, 20, path) == Packing(1, False)


def test_batched_trials_equal_trials_alone(digits_npz, tmp_path):
    config, mesh = tiny(dataset=str(digits_npz), augmentation="crop", pad=1)
    dataset = open_dataset(config)
    jobs = [Job(str(i), f"{tmp_path}/batched{i}", dataset.train.positions[i::2], i + 1) for i in range(2)]
    batched = train_pack(Trainer(config, dataset, mesh, 2, vmap=True), jobs, 2, Schedule(4, 1), "batched")
    alone = Trainer(config, dataset, mesh)
    for job, found in zip(jobs, batched, strict=True):
        job = Job(job.name, f"{tmp_path}/alone{job.name}", job.kept, job.seed)
        (result,) = train_pack(alone, [job], 1, Schedule(4, 1), "alone")
        assert found["test_loss"] == pytest.approx(result["test_loss"], rel=1e-4)


@pytest.mark.soak
def test_a_rate_is_measured():
    config, mesh = tiny(steps_per_dispatch=1)
    programs = Programs(config, (8, 8, 1), 10, mesh, resident=True)
    assert packing.images_per_second(programs, Packing(1, False), 40) > 0


@pytest.mark.soak
def test_the_estimate_grows_with_what_it_is_of():
    config, mesh = tiny(batch_size=64)
    programs = Programs(config, (8, 8, 1), 10, mesh, resident=True)
    one = memory.estimate(programs, 1, 1000)
    assert one["images"] == 64_000
    assert memory.estimate(programs, 3, 1000)["state"] == 3 * one["state"]
    assert memory.estimate(programs, 3, 1000)["activations"] == one["activations"]
    batched = Programs(config, (8, 8, 1), 10, mesh, resident=True, vmap=True)
    assert memory.estimate(batched, 3, 1000)["activations"] == 3 * one["activations"]
    compiled = programs.train.lower(*programs.train_arguments(1, 1, 1000)).compile().memory_analysis()
    assert one["activations"] == pytest.approx(compiled.temp_size_in_bytes, rel=0.7)


def test_a_pack_that_does_not_fit_is_an_error_with_a_remedy(monkeypatch):
    config, mesh = tiny(pack=4)
    programs = Programs(config, (8, 8, 1), 10, mesh, resident=True)
    monkeypatch.setattr(memory, "device_memory", lambda device: 2**18)
    with pytest.raises(ConfigError, match=r"pack of 4 trials.*[KMG]iB.*lower config\.pack, which is 4") as caught:
        memory.check_fits(programs, 4, 100)
    assert "--config.resident_mb=0" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"--config\.resident_mb=0"):
        memory.check_fits(programs, 4, 10_000_000)


def test_a_device_has_memory():
    assert memory.device_memory(jax.devices()[0]) > 2**28
    assert np.isfinite(memory.device_memory(jax.devices()[0]))
