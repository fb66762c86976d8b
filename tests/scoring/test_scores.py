"""Scores of networks against plain loops over single images, and the stage that makes them."""

import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redundancy.data import open_dataset
from redundancy.runtime import processes
from redundancy.runtime.errors import ConfigError, DataError, Preempted, WorkdirError
from redundancy.scoring import files
from redundancy.scoring.stage import FIRST_SEED, score
from redundancy.training import tally
from redundancy.training.checkpoints import Checkpoints
from redundancy.training.loop import Job, train_pack
from redundancy.training.mesh import make_mesh
from redundancy.training.programs import Programs
from redundancy.training.trainer import Trainer
from redundancy.workdir import Workdir
from redundancy.workdir.table import Schedule
from tests.finished_run import small_config
from tests.tiers import examples, soaked

ALL = (
    "el2n", "entropy", "least_confidence", "margin", "grand_last", "grand", "grand_end", "forgetting", "aum", "dual", "dyn_unc",
)  # fmt: skip


def plainly(history, window):
    """forgetting, aum, dyn_unc and dual of one image, from (label, logits) of each presentation."""
    right = [bool(np.argmax(logits) == label) for label, logits in history]
    forgotten = sum(was and not now for was, now in itertools.pairwise(right))
    margins = [logits[label] - max(np.delete(logits, label)) for label, logits in history]
    p = [np.exp(logits[label]) / np.exp(logits).sum() for label, logits in history]
    windows = [p[at : at + window] for at in range(len(p) - window + 1)] or [p]
    spread = [np.std(each, ddof=1) if len(each) > 1 else 0.0 for each in windows]
    return {
        "forgetting": forgotten if any(right) else len(history),
        "aum": np.mean(margins),
        "dyn_unc": np.mean(spread),
        "dual": np.mean([one * (1 - np.mean(each)) for one, each in zip(spread, windows, strict=True)]),
    }


@examples(30)
@given(seed=st.integers(0, 10_000), window=st.integers(2, 5), epochs=st.integers(1, 8))
def test_the_tally_is_that_of_a_plain_loop(seed, window, epochs):
    rng, stored, positions = np.random.default_rng(seed), 23, np.arange(0, 23, 2)
    labels = rng.integers(0, 3, stored).astype(np.int32)
    found, history = tally.start(stored, window), {position: [] for position in positions.tolist()}
    update = jax.jit(tally.update)
    for _ in range(epochs):
        for batch in rng.permutation(positions).reshape(3, 4):
            logits = rng.normal(size=(4, 3)).astype(np.float32)
            found = update(found, jnp.asarray(batch, jnp.int32), labels[batch], logits)
            for position, row in zip(batch.tolist(), logits, strict=True):
                history[position].append((labels[position], row.astype(np.float64)))
    scores = tally.scores(jax.device_get(found), positions)
    for row, position in enumerate(positions.tolist()):
        for name, value in plainly(history[position], window).items():
            assert scores[name][row] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_an_image_that_comes_twice_in_a_batch_counts_once():
    positions = jnp.array([2, 0, 2], jnp.int32)
    logits = jnp.array([[5.0, 0], [3, 0], [0, 1]])
    found = tally.update(tally.start(4, 3), positions, jnp.zeros(3, jnp.int32), logits)
    assert found["seen"].tolist() == [1, 0, 1, 0]
    assert found["margin"].tolist() == [3, 0, -1, 0]  # its last presentation
    with pytest.raises(ValueError, match="2 of 4"):
        tally.scores(jax.device_get(found), np.arange(4))


def test_those_never_right_are_hardest():
    """In DeepCore, CCS, D2 and DUAL they have 0, as the easiest have."""
    found = tally.start(3, 2)
    for right in ([True, True, False], [True, False, False], [True, True, False], [True, False, False]):
        logits = jnp.array([[1.0, 0] if each else [0, 1.0] for each in right])
        found = tally.update(found, jnp.arange(3, dtype=jnp.int32), jnp.zeros(3, jnp.int32), logits)
    assert tally.scores(jax.device_get(found), np.arange(3))["forgetting"].tolist() == [0, 2, 4]


@pytest.fixture(scope="module")
def trained(scored):
    """A trainer that keeps a tally, and the first network of the workdir `scored` after its last step."""
    config, workdir = scored
    dataset = open_dataset(config)
    trainer = Trainer(config, dataset, make_mesh(config, 1), tallied=dataset.train.num_stored)
    return trainer, state_of(trainer, f"{workdir.scores}/networks/network0")


def state_of(trainer, folder):
    saved = Checkpoints(folder)
    state = saved.restore(24, trainer.init_state(0))
    saved.close()
    return state


def test_clean_scores_are_those_of_a_loop_over_single_images(trained, scored):
    trainer, state = trained
    found = trainer.score(trainer.stack([state]), gradients=True)
    np.testing.assert_allclose(files.read(scored[1], "entropy").each[:, 0], found["entropy"][0], rtol=1e-3)
    np.testing.assert_allclose(files.read(scored[1], "grand_end").each[:, 0], found["grand"][0], rtol=1e-3)
    model, config = trainer.programs.model, trainer.config
    dataset = trainer.dataset
    for row in (0, 5, 700, 1346):
        position = dataset.train.positions[row : row + 1]
        image = jnp.asarray(dataset.read("train", position), jnp.float32) / 255
        image, label = (image - jnp.array(config.mean)) / jnp.array(config.std), int(dataset.train.labels[row])

        def loss(params, image=image, label=label):
            logits, layers = model.apply({"params": params, "batch_stats": state["batch_stats"]}, image, train=False)
            return -jax.nn.log_softmax(logits)[0, label], (logits[0], layers["end"][0])

        (_, (logits, pooled)), gradient = jax.value_and_grad(loss, has_aux=True)(state["params"])
        p = np.asarray(jax.nn.softmax(logits), np.float64)
        error = np.linalg.norm(p - np.eye(10)[label])
        flat = {
            jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        }
        last = sum((leaf**2).sum() for path, leaf in flat.items() if "classifier" in path)
        wanted = {
            "el2n": error,
            "grand_last": error * np.sqrt((np.asarray(pooled, np.float64) ** 2).sum() + 1),
            "entropy": -(p * np.log(p)).sum(),
            "least_confidence": 1 - p.max(),
            "margin": np.subtract(*np.sort(p)[:-3:-1]),
            "grand": np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in flat.values())),
        }
        for name, value in wanted.items():
            assert found[name][0, row] == pytest.approx(value, rel=2e-3, abs=1e-5), name
        # The closed form is the gradient by the parameters of the last layer alone.
        assert found["grand_last"][0, row] == pytest.approx(np.sqrt(last), rel=2e-3, abs=1e-5)


@pytest.mark.soak
def test_a_tally_changes_no_training(trained, tmp_path):
    trainer, state = trained
    plain = Trainer(trainer.config, trainer.dataset, trainer.mesh)
    job = Job("run", str(tmp_path), trainer.dataset.train.positions, FIRST_SEED)
    train_pack(plain, [job], 1, Schedule(24, 1), "train")
    other = state_of(plain, job.folder)
    for name in ("params", "batch_stats", "opt_state"):
        pairs = zip(jax.tree.leaves(state[name]), jax.tree.leaves(other[name]), strict=True)
        assert all(np.allclose(one, two, rtol=1e-3, atol=1e-5) for one, two in pairs)
    seen = state["tally"]["seen"]
    assert seen.sum() == 24 * 64
    assert set(seen.tolist()) == {1, 2}


@pytest.fixture(scope="module")
def scored(digits_npz, tmp_path_factory):
    """A workdir after the stage, with every score; its config and data."""
    config = small_config(digits_npz, **CONFIG)
    workdir = Workdir(str(tmp_path_factory.mktemp("scored") / "w"))
    workdir.claim(config)
    score(config, workdir)
    return config, workdir


CONFIG = {"steps": 24, "score_trials": 2, "score_at": 0.25, "methods": ALL, "score_window": 2, "checkpoint_every": 9}


def values_of(workdir):
    return {name: files.read(workdir, name) for name in files.listed(workdir)}


def test_the_stage_writes_every_score_with_its_networks(scored):
    _config, workdir = scored
    found = values_of(workdir)
    assert {*found} == {*ALL}
    for each in found.values():
        assert each.each.shape == (1347, 2)
        np.testing.assert_allclose(each.values, each.each.mean(axis=1))
        assert (each.each[:, 0] != each.each[:, 1]).any()
        assert each.made["score_trials"] == 2
    assert {name for name, each in found.items() if each.keep == "low"} == {"margin", "aum"}
    ranks = {name: np.argsort(np.argsort(each.priority)) for name, each in found.items()}
    assert np.corrcoef(ranks["entropy"], ranks["least_confidence"])[0, 1] > 0.7
    assert np.corrcoef(ranks["margin"], ranks["least_confidence"])[0, 1] > 0.7
    assert not np.array_equal(found["grand"].values, found["grand_end"].values)


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name].each, other[name].each, rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("at", [7, *soaked(2, 13, 30)])
def test_a_stage_that_is_stopped_goes_on_with_the_same_scores(scored, digits_npz, tmp_path, monkeypatch, at):
    config, _ = scored
    workdir, asked = Workdir(str(tmp_path / "w")), iter([*[False] * at, True])
    workdir.claim(config)
    with monkeypatch.context() as patch:
        patch.setattr(processes, "ending", lambda: next(asked))
        with pytest.raises(Preempted):
            score(config, workdir)
    assert not files.listed(workdir)
    score(config, workdir)
    same(values_of(workdir), values_of(scored[1]))


@pytest.mark.soak
def test_micro_batches_tally_what_whole_batches_do(digits_npz):
    """With BatchNorm in groups of a micro-batch the step is the same but for rounding."""
    found = []
    for size in (0, 16):
        config = small_config(digits_npz, bn_group_size=16, micro_batch=size, steps=5000)
        programs = Programs(config, (8, 8, 1), 10, make_mesh(config, 1), resident=False, tallied=100)
        rng, state = np.random.default_rng(0), jax.tree.map(lambda leaf: leaf[None], programs.init(np.uint32(1)))
        item = {
            "image": rng.integers(0, 256, (1, 1, 64, 8, 8, 1), np.uint8), "label": rng.integers(0, 10, (1, 1, 64), np.int32),
            "position": rng.permutation(100)[None, None, :64].astype(np.int32),
        }  # fmt: skip
        with jax.set_mesh(programs.mesh):
            lengths = {"steps": np.float32(100), "warmup_steps": np.float32(1)}
            state, _ = programs.train(state, np.ones(1, np.uint32), lengths, {}, item)
        found.append(jax.device_get(state["tally"]))
    assert found[0]["seen"].sum() == 64
    assert np.abs(found[0]["margin"]).sum() > 1
    for name, values in found[0].items():
        np.testing.assert_allclose(values, found[1][name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.soak
@pytest.mark.parametrize("fields", [{"pack": 2}, {"resident_mb": 0}], ids=["packs", "streamed"])
def test_packs_and_streams_make_the_same_scores(scored, digits_npz, tmp_path, fields):
    config, workdir = small_config(digits_npz, **CONFIG, **fields), Workdir(str(tmp_path / "w"))
    workdir.claim(config)
    score(config, workdir)
    same(values_of(workdir), values_of(scored[1]))


@pytest.mark.soak
def test_a_further_score_takes_no_training_but_a_gradient_does(scored, digits_npz, tmp_path, monkeypatch):
    fields = {**CONFIG, "methods": ("random", "el2n")}
    config, workdir = small_config(digits_npz, **fields), Workdir(str(tmp_path / "w"))
    workdir.claim(config)
    score(config, workdir)
    assert {*files.listed(workdir)} == {"el2n"}
    dispatches, train = [], Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda self, *rest: dispatches.append(1) or train(self, *rest))
    score(small_config(digits_npz, **{**fields, "methods": ("aum", "grand_last", "entropy")}), workdir)
    assert not dispatches
    score(small_config(digits_npz, **{**fields, "methods": ("grand",)}), workdir)
    assert dispatches
    assert {*files.listed(workdir)} == {"el2n", "aum", "grand_last", "entropy", "grand"}
    expected = values_of(scored[1])
    same(values_of(workdir), {name: expected[name] for name in files.listed(workdir)})


def test_a_training_that_sees_not_every_image_is_refused(digits_npz, tmp_path):
    config, workdir = small_config(digits_npz, methods=("random", "el2n")), Workdir(str(tmp_path / "w"))
    workdir.claim(config)
    with pytest.raises(ConfigError, match=r"6 steps of 64 images do not cover all 1347 training images once"):
        score(config, workdir)
    assert not files.listed(workdir)


def test_without_a_method_that_reads_one_the_stage_does_nothing(digits_npz, tmp_path):
    config, workdir = small_config(digits_npz), Workdir(str(tmp_path / "w"))
    workdir.claim(config)
    score(config, workdir)
    assert not (tmp_path / "w" / "scores").exists()


def test_a_changed_field_is_refused_by_name(scored, digits_npz):
    with pytest.raises(WorkdirError, match=r"score_at: 0.25 there, 0.5 here .*scores made with it"):
        scored[1].claim(small_config(digits_npz, **{**CONFIG, "score_at": 0.5}))


def test_a_damaged_or_missing_score_is_named(scored, tmp_path):
    shutil.copytree(scored[1].root, tmp_path / "w")
    workdir = Workdir(str(tmp_path / "w"))
    path = tmp_path / "w" / "scores" / "aum.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"aum.parquet"):
        files.read(workdir, "aum")
    with pytest.raises(WorkdirError, match=r"no score_mine.parquet: import the score first"):
        files.read(workdir, "score_mine")
