"""Checkpoints: wrong ones are refused, and a training that stops at any step continues as if it had not stopped."""

import pathlib
import random
import shutil

import jax
import numpy as np
import pytest

from redundancy import config as config_lib
from redundancy.data import open_dataset
from redundancy.runtime import preemption
from redundancy.runtime.errors import Preempted, WorkdirError
from redundancy.training import metrics
from redundancy.training.checkpoints import Checkpoints, Progress, common_step
from redundancy.training.loop import Job, train_pack
from redundancy.training.mesh import make_mesh
from redundancy.training.trainer import Trainer
from redundancy.workdir.table import Schedule

TINY = {
    "depth": 8, "widths": (4, 4, 8), "augmentation": "crop", "pad": 1, "steps": 10, "warmup_steps": 2,
    "batch_size": 16, "eval_batch_size": 64, "log_every": 4, "checkpoint_every": 5,
}  # fmt: skip
SCHEDULE = Schedule(10, 2)


def make_trainer(digits_npz, **fields):
    config = config_lib.resolve({**TINY, "dataset": str(digits_npz), **fields})
    return Trainer(config, open_dataset(config), make_mesh(config, num_trials=1))


@pytest.fixture(scope="module")
def trainer(digits_npz):
    return make_trainer(digits_npz)


def jobs(folder, count=2):
    kept = (np.arange(1347), np.arange(0, 1347, 2))
    return [Job(f"run{i}", str(folder / f"run{i}"), kept[i], i + 1) for i in range(count)]


@pytest.fixture(scope="module")
def unbroken(trainer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, train_pack(trainer, jobs(folder), 2, SCHEDULE, "train")


@pytest.fixture
def copied(unbroken, tmp_path):
    """The unbroken run's first folder, without its result."""
    shutil.copytree(unbroken[0] / "run0", tmp_path / "run0")
    (tmp_path / "run0" / "result.json").unlink()
    return tmp_path / "run0"


def values(lines):
    return [{name: line[name] for name in ("step", "loss", "accuracy", "learning_rate")} for line in lines]


def same(result, expected):
    return {**result, "seconds": 0, "time": 0} == {**expected, "seconds": 0, "time": 0}


class _Stopper:
    """Asks this process to end once a number of dispatches was sent."""

    def __init__(self, monkeypatch, trainer, dispatches):
        train = trainer.train
        self.left = dispatches

        def counted(*arguments):
            self.left -= 1
            if self.left == 0:
                preemption.notice()
            return train(*arguments)

        monkeypatch.setattr(trainer, "train", counted)


@pytest.fixture
def asked():
    yield preemption
    preemption._asked.clear()


@pytest.mark.parametrize("stops", [(1,), (3, 2), (6,), (9,), (10,)], ids=str)
def test_asked_to_end_at_any_step_it_saves_and_goes_on_with_the_same_lines_and_result(
    trainer, unbroken, tmp_path, monkeypatch, asked, stops
):
    for stop in stops:
        with monkeypatch.context() as patch:
            _Stopper(patch, trainer, stop)
            with pytest.raises(Preempted):
                train_pack(trainer, jobs(tmp_path), 2, SCHEDULE, "train")
        asked._asked.clear()
    saved = Checkpoints(str(tmp_path / "run1"))
    assert saved.steps()[-1] == sum(stops)
    assert saved.progress(saved.steps()[-1]).at["epoch"] == sum(stops) * 16 / 674
    saved.close()
    results = train_pack(trainer, jobs(tmp_path), 2, SCHEDULE, "train")
    for number, (result, expected) in enumerate(zip(results, unbroken[1], strict=True)):
        assert same(result, expected)
        found = metrics.read(str(tmp_path / f"run{number}"))
        assert values(found) == values(metrics.read(str(unbroken[0] / f"run{number}")))


@pytest.mark.soak
def test_stopped_inside_a_block_of_steps_it_ends_the_same(digits_npz, tmp_path, monkeypatch, asked):
    blocks = make_trainer(digits_npz, steps_per_dispatch=4)
    expected = train_pack(blocks, jobs(tmp_path / "unbroken", 1), 1, SCHEDULE, "train")[0]
    with monkeypatch.context() as patch:
        _Stopper(patch, blocks, 1)
        with pytest.raises(Preempted):
            train_pack(blocks, jobs(tmp_path / "w", 1), 1, SCHEDULE, "train")
    asked._asked.clear()
    assert same(train_pack(blocks, jobs(tmp_path / "w", 1), 1, SCHEDULE, "train")[0], expected)


def files_of(folder):
    return sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.soak
def test_no_flipped_byte_goes_unnoticed(trainer, copied, unbroken):
    like, chance = trainer.init_state(1), random.Random(0)
    saved = Checkpoints(str(copied))
    right = jax.tree.leaves(saved.restore(10, like))
    refused, harmless = 0, 0
    for path in files_of(copied / "checkpoints" / "10"):
        data = path.read_bytes()
        for offset in {0, len(data) - 1, *(chance.randrange(len(data)) for _ in range(4))}:
            path.write_bytes(data[:offset] + bytes([data[offset] ^ (1 << chance.randrange(8))]) + data[offset + 1 :])
            found, message = None, ""
            try:
                found = jax.tree.leaves(saved.restore(10, like))
            except WorkdirError as error:
                message = str(error)
            if found is None:
                assert f"{copied}/checkpoints/10 cannot be used" in message
                assert f"Delete {copied}/checkpoints/10 to continue from step 5" in message
                refused += 1
            else:
                assert all(map(np.array_equal, found, right)), path
                harmless += 1
        path.write_bytes(data)
    saved.close()
    assert refused > 10, (refused, harmless)


@pytest.mark.parametrize("damage", ["truncate", "remove", "about"])
def test_the_advice_of_a_damaged_checkpoint_leads_to_the_same_result(trainer, copied, unbroken, damage):
    arrays = [path for path in files_of(copied / "checkpoints" / "10" / "state") if path.parent.name == "d"]
    for path in arrays if damage != "about" else ():
        if damage == "truncate":
            path.write_bytes(path.read_bytes()[:-20])
        else:
            path.unlink()
    if damage == "about":
        shutil.rmtree(copied / "checkpoints" / "10" / "about")
    job = Job("run0", str(copied), np.arange(1347), 1)
    with pytest.raises(WorkdirError, match=r"checkpoints/10 cannot be used: .* to continue from step 5, or"):
        train_pack(trainer, [job], 1, SCHEDULE, "train")
    shutil.rmtree(copied / "checkpoints" / "10")
    assert same(train_pack(trainer, [job], 1, SCHEDULE, "train")[0], unbroken[1][0])


def test_a_checkpoint_of_another_training_is_not_continued(trainer, digits_npz, copied):
    for job, schedule, field in (
        (Job("run0", str(copied), np.arange(1347), 2), SCHEDULE, "trial seed: 1 there, 2 now"),
        (Job("run0", str(copied), np.arange(1346), 1), SCHEDULE, "kept positions: "),
        (Job("run0", str(copied), np.arange(1347), 1), Schedule(12, 2), "steps: 10 there, 12 now"),
    ):
        with pytest.raises(WorkdirError, match=rf"belongs to another training\. Differing: {field}"):
            train_pack(trainer, [job], 1, schedule, "train")
    other = make_trainer(digits_npz, l2=0.5)
    with pytest.raises(WorkdirError, match=r"config\.l2: 0\.0001 there, 0\.5 now\. Delete "):
        train_pack(other, [Job("run0", str(copied), np.arange(1347), 1)], 1, SCHEDULE, "train")


def test_a_checkpoint_of_another_network_tells_names_and_shapes(digits_npz, copied):
    saved = Checkpoints(str(copied))
    wider, deeper = (make_trainer(digits_npz, **fields) for fields in ({"widths": (4, 4, 16)}, {"depth": 14}))
    with pytest.raises(
        WorkdirError, match=r"another network: .*\['norm'\].* float32 \[8\], wanted float32 \[16\].* more\."
    ):
        saved.restore(10, wider.init_state(1))
    with pytest.raises(WorkdirError, match=r"another network: no \[.*\], wanted float32 .* and \d+ more\. Delete"):
        saved.restore(10, deeper.init_state(1))
    saved.close()


def test_a_save_that_was_cut_off_does_not_count_and_is_removed(trainer, copied):
    for name in ("10", "5"):
        shutil.copytree(copied / "checkpoints" / "10", copied / "checkpoints" / f"{name}.orbax-checkpoint-tmp-1")
    shutil.rmtree(copied / "checkpoints" / "10")
    saved = Checkpoints(str(copied))
    assert saved.steps() == [5]
    saved.save(7, trainer.init_state(1), Progress({"a": 1}))
    saved.wait()
    assert saved.progress(7).of == {"a": 1}
    assert common_step([saved]) == 7
    saved.close()
    assert sorted(path.name for path in (copied / "checkpoints").iterdir()) == ["5", "7"]


def test_two_are_kept(trainer, tmp_path):
    saved = Checkpoints(str(tmp_path))
    state = trainer.init_state(1)
    for step in range(1, 6):
        saved.save(step, {**state, "step": np.int32(step)})
    saved.close()
    again = Checkpoints(str(tmp_path))
    assert again.steps() == [4, 5]
    assert again.restore(4, state)["step"] == 4
    again.close()
