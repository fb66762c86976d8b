"""Runs: paired by seed, resumed exactly, alone as in a pack, evaluated on every image once."""

import copy
import shutil

import jax
import numpy as np
import optax
import pytest

from redundancy import config as config_lib
from redundancy import storage
from redundancy.data import open_dataset
from redundancy.runtime.errors import WorkdirError
from redundancy.training import metrics
from redundancy.training.checkpoints import Checkpoints
from redundancy.training.loop import Job, train_pack
from redundancy.training.mesh import make_mesh, pack_size
from redundancy.training.meter import DivergedError
from redundancy.training.trainer import Trainer
from redundancy.workdir.table import Schedule
from tests.tiers import soaked

TINY = {
    "depth": 8, "widths": (4, 4, 8), "mean": (0.3,), "std": (0.4,), "augmentation": "crop", "pad": 1, "steps": 9,
    "warmup_steps": 2, "batch_size": 16, "eval_batch_size": 64, "log_every": 3, "checkpoint_every": 4,
}  # fmt: skip


def make_trainer(digits_npz, **fields):
    config = config_lib.resolve({**TINY, "dataset": str(digits_npz), **fields})
    return Trainer(config, open_dataset(config), make_mesh(config, num_trials=1))


@pytest.fixture(scope="module")
def trainer(digits_npz):
    return make_trainer(digits_npz)


def job(folder, name, trial=0, kept=None):
    return Job(name, str(folder / name), np.arange(1347) if kept is None else kept, trial + 1)


def final_state(trainer, job):
    saved = Checkpoints(job.folder)
    state = saved.restore(saved.steps()[-1], trainer.init_state(job.seed))
    saved.close()
    return state


def assert_equal_trees(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def without_time(result):
    return {name: value for name, value in result.items() if name not in ("seconds", "time")}


@pytest.fixture(scope="module")
def unbroken(trainer, tmp_path_factory):
    one = job(tmp_path_factory.mktemp("runs"), "unbroken")
    return one, train_pack(trainer, [one], 1, Schedule(9, 2), "train")[0]


def test_a_run_writes_metrics_checkpoints_and_a_result(trainer, unbroken):
    one, result = unbroken
    assert [line["step"] for line in metrics.read(one.folder)] == [3, 6, 9]
    assert storage.read_json(storage.join(one.folder, "result.json")) == result
    assert result["test_size"] == 450
    assert result["test_accuracy"] == result["test_correct"] / 450
    assert storage.list_dir(storage.join(one.folder, "checkpoints")) == ["8", "9"]


def test_rates_are_logged_though_each_dispatch_ends_with_a_checkpoint(trainer, tmp_path):
    frequent = copy.copy(trainer)
    frequent.config = config_lib.resolve({**config_lib.to_json(trainer.config), "checkpoint_every": 1})
    one = job(tmp_path, "frequent")
    train_pack(frequent, [one], 1, Schedule(9, 2), "train")
    assert all(line["images_per_second"] > 0 for line in metrics.read(one.folder))


def test_the_same_run_again_is_bit_identical(trainer, unbroken, tmp_path):
    again = job(tmp_path, "again")
    result = train_pack(trainer, [again], 1, Schedule(9, 2), "train")[0]
    assert without_time(result) == without_time(unbroken[1])
    assert_equal_trees(final_state(trainer, again), final_state(trainer, unbroken[0]))


def test_a_resumed_run_equals_an_unbroken_one(trainer, unbroken, tmp_path):
    broken = job(tmp_path, "broken")
    shutil.copytree(unbroken[0].folder, broken.folder)
    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "9")
    (tmp_path / "broken" / "result.json").unlink()
    result = train_pack(trainer, [broken], 1, Schedule(9, 2), "train")[0]
    assert without_time(result) == without_time(unbroken[1])
    assert_equal_trees(final_state(trainer, broken), final_state(trainer, unbroken[0]))
    assert [line["step"] for line in metrics.read(broken.folder)] == [3, 6, 9]


def test_trials_in_a_pack_equal_trials_alone(trainer, unbroken, tmp_path):
    subset = np.arange(0, 1347, 2)
    pack = [job(tmp_path, "first"), job(tmp_path, "second", trial=1, kept=subset)]
    results = train_pack(trainer, pack, 3, Schedule(9, 2), "pack")
    alone = job(tmp_path, "alone", trial=1, kept=subset)
    alone_result = train_pack(trainer, [alone], 1, Schedule(9, 2), "alone")[0]
    assert len(results) == 2
    for one, other in zip(pack, (unbroken[0], alone), strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            final_state(trainer, one),
            final_state(trainer, other),
        )
    assert results[1]["test_loss"] == pytest.approx(alone_result["test_loss"], rel=1e-4)
    assert results[1]["images"] == 674


def test_trials_differ_and_runs_of_a_trial_share_their_start(trainer):
    first, second = trainer.init_state(1), trainer.init_state(2)
    assert not np.array_equal(first["params"]["conv0"]["kernel"], second["params"]["conv0"]["kernel"])
    assert_equal_trees(first, trainer.init_state(1))
    kept = np.arange(0, 1347, 3)
    full = next(iter(trainer.feed.train_items([np.arange(1347)], [(0, 1)], 1347, 0, 1, 1)))["position"].ravel()
    subset = next(iter(trainer.feed.train_items([kept], [(0, 1)], len(kept), 0, 1, 1)))["position"].ravel()
    np.testing.assert_array_equal(full[full % 3 == 0], subset)


def test_evaluation_counts_every_image_once_and_equals_numpy(trainer):
    # 450 test images in batches of 64: the last one is padded.
    state = trainer.init_state(5)
    correct, loss = trainer.evaluate(trainer.stack([state]))
    images = trainer.dataset.read("test", trainer.dataset.test.positions)
    x = (images.astype(np.float32) / 255 - 0.3) / 0.4
    logits, _ = trainer.programs.model.apply(
        {"params": state["params"], "batch_stats": state["batch_stats"]}, x, train=False
    )
    labels = trainer.dataset.test.labels
    assert correct[0] == (np.asarray(logits).argmax(-1) == labels).sum()
    oracle = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert loss[0] == pytest.approx(float(oracle), rel=1e-5)


def test_embedding_covers_positions_in_order(trainer):
    state = trainer.init_state(5)
    positions = np.array([3, 4, 900, 1346])
    (layers,) = trainer.embed(state, positions)
    images = trainer.dataset.read("train", positions)
    x = (images.astype(np.float32) / 255 - 0.3) / 0.4
    _, expected = trainer.programs.model.apply(
        {"params": state["params"], "batch_stats": state["batch_stats"]}, x, train=False
    )
    for name, layer in layers.items():
        np.testing.assert_allclose(layer, expected[name], rtol=1e-4, atol=1e-6)


def test_steps_in_one_dispatch_change_nothing(digits_npz, unbroken, tmp_path):
    several = make_trainer(digits_npz, steps_per_dispatch=4)
    one = job(tmp_path, "several")
    result = train_pack(several, [one], 1, Schedule(9, 2), "train")[0]
    assert result["test_loss"] == pytest.approx(unbroken[1]["test_loss"], rel=1e-4)


@pytest.mark.parametrize("unroll", [False, *soaked(True)])
def test_several_steps_and_trials_in_a_dispatch_equal_single_ones(digits_npz, unbroken, tmp_path, unroll):
    """Loops on the device, and both written out, as for a CPU's convolutions that must not be in loops."""
    several = make_trainer(digits_npz, steps_per_dispatch=4)
    assert not several.programs.unroll
    several.programs.unroll = unroll
    pack = [job(tmp_path, "first"), job(tmp_path, "second", trial=1)]
    first, second = train_pack(several, pack, 2, Schedule(9, 2), "pack")
    assert first["test_loss"] == pytest.approx(unbroken[1]["test_loss"], rel=1e-4)
    assert second["test_loss"] != pytest.approx(first["test_loss"], rel=1e-3)
    assert [line["step"] for line in metrics.read(pack[0].folder)] == [4, 8, 9]


def test_streamed_training_equals_resident_training(digits_npz, unbroken, tmp_path):
    streamed = make_trainer(digits_npz, resident_mb=0)
    assert type(streamed.feed).__name__ == "StreamingFeed"
    one = job(tmp_path, "streamed")
    result = train_pack(streamed, [one], 1, Schedule(9, 2), "train")[0]
    assert result["test_loss"] == pytest.approx(unbroken[1]["test_loss"], rel=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        final_state(streamed, one),
        final_state(streamed, unbroken[0]),
    )


def test_a_subset_smaller_than_a_batch_trains(trainer, tmp_path):
    result = train_pack(trainer, [job(tmp_path, "few", kept=np.array([1, 5, 9]))], 1, Schedule(4, 2), "few")[0]
    assert result["images"] == 3


def test_divergence_stops_with_the_step_and_the_run(digits_npz, tmp_path):
    wild = make_trainer(digits_npz, lr_per_256=1e30, warmup_steps=0)
    with pytest.raises(DivergedError, match=r"loss of wild is (nan|inf) at step \d+"):
        train_pack(wild, [job(tmp_path, "wild")], 1, Schedule(9, 2), "train")
    assert not (tmp_path / "wild" / "result.json").exists()


def test_a_test_loss_that_is_no_number_names_the_last_good_checkpoint(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "evaluate", lambda state: (np.array([0]), np.array([np.nan])))
    with pytest.raises(DivergedError, match=r"test loss of bad is nan after step 9.*last good checkpoint is \S+/9;"):
        train_pack(trainer, [job(tmp_path, "bad")], 1, Schedule(9, 2), "train")
    assert not (tmp_path / "bad" / "result.json").exists()


def test_a_checkpoint_of_another_network_is_refused(digits_npz, unbroken):
    wider = make_trainer(digits_npz, widths=(4, 4, 16))
    saved = Checkpoints(unbroken[0].folder)
    with pytest.raises(WorkdirError, match="checkpoints"):
        saved.restore(9, wider.init_state(1))
    saved.close()


def test_metrics_after_the_resumed_step_are_dropped_and_half_lines_ignored(tmp_path):
    writer = metrics.MetricsWriter(str(tmp_path))
    for step in (1, 2, 3):
        writer.write(step, {"loss": 1.0 / step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    metrics.MetricsWriter(str(tmp_path), step=2).write(3, {"loss": 9.0})
    assert [(line["step"], line["loss"]) for line in metrics.read(str(tmp_path))] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    writer = metrics.MetricsWriter(str(tmp_path), step=4)
    for step in (3, 4):
        writer.write(step, {"loss": 0.0})
    assert [(line["step"], line["loss"]) for line in metrics.read(str(tmp_path))][2:] == [(3, 9.0), (4, 0.0)]


def test_a_trial_further_than_its_pack_keeps_its_lines(trainer, unbroken, tmp_path):
    """Killed after one trial's checkpoint and before the other's, and again when both had just begun anew."""
    ahead, behind = job(tmp_path, "ahead"), job(tmp_path, "behind", trial=1)
    shutil.copytree(unbroken[0].folder, ahead.folder)
    shutil.rmtree(f"{ahead.folder}/checkpoints/9")

    def killed(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            train_pack(trainer, [ahead, behind], 2, Schedule(9, 2), "pack")
    result = train_pack(trainer, [ahead], 2, Schedule(9, 2), "alone")[0]
    assert result["test_loss"] == pytest.approx(unbroken[1]["test_loss"], rel=1e-4)
    assert [line["step"] for line in metrics.read(ahead.folder)] == [3, 6, 9]


def test_tensorboard_reads_the_events(tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    writer = metrics.MetricsWriter(str(tmp_path))
    writer.write(5, {"loss": 0.25})
    (path,) = (tmp_path / "tensorboard").iterdir()
    events = list(loader.LegacyEventFileLoader(str(path)).Load())
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].summary.value[0].tag) == (5, "loss")
    assert events[1].summary.value[0].simple_value == 0.25


def test_packs_and_meshes_of_one_device():
    config = config_lib.resolve({"pack": 3})
    mesh = make_mesh(config, num_trials=10)
    assert dict(mesh.shape) == {"trial": 1, "data": 1}
    assert pack_size(config, mesh, num_trials=10) == 3
    assert pack_size(config, mesh, num_trials=2) == 2
