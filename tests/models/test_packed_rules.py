"""What a convolution of the form "packed" does under vmap, in gradients and in a training, with packs computed by XLA."""

import dataclasses
import importlib.util
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from redundancy import config as config_lib
from redundancy.models import gpu, make_model
from redundancy.models.gpu import cards, convolution, tiles
from redundancy.models.gpu.cards import Card
from redundancy.models.gpu.shape import Shape
from redundancy.runtime.errors import ConfigError
from redundancy.training.mesh import make_mesh
from redundancy.training.programs import Programs
from tests.tiers import soaked

H100 = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3", compute_capability="9.0")


def xla(x, kernel, stride):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """Packs by XLA, which notes the shapes of what it is given.

    Attributes:
      seen: name of the function and shapes of its arguments, for each call.
      most: channels that it has, as the kernels have none for some shapes.
    """

    seen: list = dataclasses.field(default_factory=list)
    most: int = 1000

    def _of(self, name, function, *arrays):
        self.seen.append((name, *(array.shape for array in arrays)))
        assert len({array.shape[0] for array in arrays}) == 1
        return None if arrays[0].shape[-1] > self.most else jax.vmap(function)(*arrays)

    def forward(self, x, kernel, stride):
        return self._of("forward", lambda x, kernel: xla(x, kernel, stride), x, kernel)

    def input_gradient(self, dy, kernel, size, stride):
        x = jax.ShapeDtypeStruct((dy.shape[1], *size, kernel.shape[3]), dy.dtype)
        return self._of(
            "input_gradient",
            lambda dy, kernel: jax.linear_transpose(lambda x: xla(x, kernel, stride), x)(dy)[0],
            *(dy, kernel),
        )

    def kernel_gradient(self, x, dy, taps, stride):
        kernel = jax.ShapeDtypeStruct((taps, taps, x.shape[-1], dy.shape[-1]), jnp.float32)
        return self._of(
            "kernel_gradient",
            lambda x, dy: jax.linear_transpose(lambda kernel: xla(x, kernel, stride), kernel)(dy)[0],
            *(x.astype(jnp.float32), dy.astype(jnp.float32)),
        )


def _arrays(*lead, stride=2):
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = (3, 7, 6, 4), (3, 3, 4, 5), (3, -(-7 // stride), -(-6 // stride), 5)
    return [jax.random.normal(key, (*lead, *size)) for key, size in zip(keys, sizes, strict=True)]


def _all(function):
    """Output and both gradients of a convolution of one trial."""

    def of(x, kernel, dy):
        y, pull_back = jax.vjp(function, x, kernel)
        return y, *pull_back(dy)

    return of


def _same(found, wanted, tolerance=1e-5):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())


AXES = [(0, 0, 0), (None, 0, 0), (0, None, 0), (0, 0, None), (None, 0, None), (1, 0, 2)]


@pytest.mark.parametrize(
    ("axes", "stride"), [*((axes, 2) for axes in AXES), *soaked(*((axes, 1) for axes in AXES))], ids=str
)
def test_trials_under_vmap_equal_single_ones(axes, stride):
    packs = Reference()
    arrays = [
        array[0] if axis is None else jnp.moveaxis(array, 0, axis)
        for array, axis in zip(_arrays(2, stride=stride), axes, strict=True)
    ]

    def ours(x, kernel):
        return convolution(x, kernel, stride, packs)

    found = jax.jit(jax.vmap(_all(ours), in_axes=axes))(*arrays)
    _same(found, jax.vmap(_all(lambda x, kernel: xla(x, kernel, stride)), in_axes=axes)(*arrays))
    kinds = {name for name, *_ in packs.seen}
    of_kernel = {"kernel_gradient"} if axes[0] is not None or axes[2] is not None else set()
    assert kinds == of_kernel | (set() if axes[1] is None else {"forward", "input_gradient"})


def test_trials_of_trials_are_one_pack_and_a_single_one_is_xlas():
    packs, arrays = Reference(), _arrays(2, 3)

    def ours(x, kernel):
        return convolution(x, kernel, 2, packs)

    found = jax.vmap(jax.vmap(_all(ours)))(*arrays)
    _same(found, jax.vmap(jax.vmap(_all(lambda x, kernel: xla(x, kernel, 2))))(*arrays))
    assert ("forward", (6, 3, 7, 6, 4), (6, 3, 3, 4, 5)) in packs.seen
    packs.seen.clear()
    one = [array[0, 0] for array in arrays]
    _same(_all(ours)(*one), _all(lambda x, kernel: xla(x, kernel, 2))(*one))
    assert not packs.seen


def test_gradients_of_single_images_of_each_trial():
    packs, (x, kernel, dy) = Reference(), _arrays(2)

    def of_image(convolve, kernel, image, dy):
        return jax.grad(lambda kernel: jnp.vdot(convolve(image[None], kernel)[0], dy))(kernel)

    def of_trials(convolve):
        of_images = jax.vmap(of_image, in_axes=(None, None, 0, 0))
        return jax.vmap(of_images, in_axes=(None, 0, 0, 0))(convolve, kernel, x, dy)

    _same(of_trials(lambda x, k: convolution(x, k, 2, packs)), of_trials(lambda x, k: xla(x, k, 2)))


def test_what_packs_do_not_compute_is_xlas():
    arrays = _arrays(2)
    found = jax.vmap(_all(lambda x, kernel: convolution(x, kernel, 2, Reference(most=1))))(*arrays)
    _same(found, jax.vmap(_all(lambda x, kernel: xla(x, kernel, 2)))(*arrays))


def test_kernel_gradients_of_narrow_packs_are_not_rounded():
    packs, (x, kernel, dy) = Reference(), _arrays(2)
    x, dy = x.astype(jnp.bfloat16), dy.astype(jnp.bfloat16)
    y, of_x, of_kernel = jax.vmap(_all(lambda x, kernel: convolution(x, kernel, 2, packs)))(x, kernel, dy)
    assert (y.dtype, of_x.dtype, of_kernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    wide = jax.vmap(_all(lambda x, kernel: xla(x, kernel, 2)))(
        *(array.astype(jnp.float32) for array in (x, kernel, dy))
    )
    _same(of_kernel, wide[2])


FIELDS = {"depth": 8, "widths": (4, 4, 8), "batch_size": 6, "steps": 20, "warmup_steps": 2, "steps_per_dispatch": 20}


def _train(trials, packs, vmap, **fields):
    """Losses of the steps of a pack, and the state after them."""
    config = config_lib.resolve({**FIELDS, **fields})
    programs = Programs(config, (8, 8, 3), 10, make_mesh(config, num_trials=1), resident=True, vmap=vmap)
    if packs:
        programs.model = programs.model.clone(formulation="packed", packs=packs)
        programs.unroll = False
    rng = np.random.default_rng(0)
    arrays = {"image": rng.integers(0, 256, (40, 8, 8, 3), np.uint8), "label": rng.integers(0, 10, 40, np.int32)}
    rows = rng.integers(0, 40, (4, 20, 6), np.int32)[trials]
    states = [programs.init(np.uint32(trial)) for trial in trials]
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    schedule = {"steps": np.float32(20), "warmup_steps": np.float32(2)}
    with jax.set_mesh(programs.mesh):
        state, metrics = programs.train(
            state, np.array(trials, np.uint32), schedule, arrays, {"row": rows, "position": rows}
        )
    return np.asarray(metrics["loss"]), jax.device_get(state)


@pytest.mark.soak
def test_packed_trials_have_the_losses_and_the_state_of_single_ones():
    packs = Reference()
    losses, state = _train([0, 1, 2], packs, vmap=True)
    assert {name for name, *_ in packs.seen} == set(tiles.KINDS)
    alone, of_one = _train([0, 1, 2], None, vmap=False)  # one after the other, by the kernels for CPUs
    np.testing.assert_allclose(losses, alone, rtol=2e-4)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(of_one), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.soak
def test_shares_of_a_batch_are_computed_apart(repo, child_env):
    env = {**child_env, "XLA_FLAGS": f"--xla_force_host_platform_device_count=4 {child_env['XLA_FLAGS']}"}
    child = [sys.executable, "-m", "tests.models.test_packed_rules"]
    done = subprocess.run(child, cwd=repo, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def main() -> None:
    """The child: two trials on four devices, of which two share a trial's batch, with packs of one and of two trials."""
    for trials in (2, 4):
        mesh = jax.make_mesh((2, 2), ("trial", "data"), axis_types=(AxisType.Auto,) * 2)
        packs, (x, kernel, dy) = Reference(), _arrays(trials)
        arrays = x[:, :2], kernel, dy[:, :2]

        def of_pack(x, kernel, dy, packs=packs):
            return jax.vmap(_all(lambda x, kernel: convolution(x, kernel, 2, packs)))(x, kernel, dy)

        with jax.set_mesh(mesh):
            cut = jax.shard_map(
                of_pack, in_specs=(P("trial"),) * 3, out_specs=P("trial"), axis_names={"trial"}, check_vma=False
            )
            found = jax.jit(cut)(*arrays)
        _same(found, jax.vmap(_all(lambda x, kernel: xla(x, kernel, 2)))(*arrays))
        assert ("forward", (trials // 2, 1, 7, 6, 4), (trials // 2, 3, 3, 4, 5)) in packs.seen


def test_packed_is_refused_where_it_cannot_be(monkeypatch):
    config = config_lib.resolve({"formulation": "packed"})
    for platform in ("cpu", "tpu"):
        with pytest.raises(ConfigError, match=f"is 'packed', but the devices are of platform '{platform}'"):
            make_model(config, 10, platform)
    old = types.SimpleNamespace(**{**vars(H100), "compute_capability": "7.5", "device_kind": "Tesla T4"})
    with pytest.raises(
        ConfigError, match=r"Tesla T4 has compute capability 7\.5; wanted 8\.0 or more; or set it to 'auto'"
    ):
        make_model(config, 10, "gpu", old)
    monkeypatch.setitem(sys.modules, "jax_triton", None)
    with pytest.raises(ConfigError, match=r'jax_triton cannot be imported .*: pip install "redundancy\[gpu\]"'):
        make_model(config, 10, "gpu", H100)


@pytest.mark.parametrize(
    ("version", "crashes"), [("3.6.0", False), ("3.7.1", True), ("4.0.0+git1", True), ("nightly", False)]
)
def test_a_triton_that_would_crash_after_tensorflow_is_not_imported(monkeypatch, version, crashes):
    monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow"))
    monkeypatch.setitem(sys.modules, "jax_triton", None)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setattr(cards.importlib.metadata, "version", lambda _: version)
    assert ("import triton first" in cards.obstacle(Card("card", 90))) == crashes
    monkeypatch.delitem(sys.modules, "tensorflow")
    assert "jax_triton cannot be imported" in cards.obstacle(Card("card", 90))


@pytest.mark.soak
def test_triton_comes_before_tensorflow_where_packs_need_it(tmp_path, repo, child_env):
    pytest.importorskip("triton")
    (tmp_path / "jax_triton.py").touch()
    program = (
        "import sys, redundancy.data.tfds.quiet as _; print([m for m in sys.modules if m in ('triton', 'tensorflow')])"
    )
    for path, wanted in ((f"{tmp_path}:{repo}", "['triton', 'tensorflow']"), (str(repo), "['tensorflow']")):
        if path == str(repo) and importlib.util.find_spec("jax_triton"):
            continue
        env = {**child_env, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=repo, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.strip() == wanted


def test_auto_takes_the_kernels_for_packs_where_it_can(monkeypatch, tmp_path, caplog):
    config = config_lib.resolve({})
    assert make_model(config, 10, "cpu", batched=True).formulation == "cpu"
    monkeypatch.setattr(cards, "obstacle", lambda card: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiles.chosen.cache_clear()
    found = make_model(config, 10, "gpu", H100, batched=True)
    assert (found.formulation, found.packs) == ("packed", gpu.Kernels(Card(H100.device_kind, 90)))
    assert make_model(config, 10, "gpu", H100).formulation == "xla"
    path = tmp_path / "redundancy" / "packed" / "NVIDIA-H100-80GB-HBM3.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"form": "xla"}')
    tiles.chosen.cache_clear()
    assert make_model(config, 10, "gpu", H100, batched=True).formulation == "xla"
    assert make_model(config_lib.resolve({"formulation": "packed"}), 10, "gpu", H100).formulation == "packed"
    monkeypatch.setattr(cards, "obstacle", lambda card: "there is no card")
    assert make_model(config, 10, "gpu", H100, batched=True).packs is None
    tiles.chosen.cache_clear()


def test_measured_tiles_come_first_and_others_are_by_size(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiles.chosen.cache_clear()
    shape, card = Shape(8, 128, 32, 32, 16, 16, 3, 1), Card("card", 90)
    assert tiles.served("forward", shape, False, card) == tiles.usual("forward", shape, False, 90)
    assert tiles.served("forward", dataclasses.replace(shape, features=256), False, card) is None
    path = tmp_path / "redundancy" / "packed" / "card.json"
    path.parent.mkdir(parents=True)
    path.write_text(
        '{"tiles": {"forward bfloat16 32x32x16x16x3x1": {"tile": {"pixels": 64, "rows": 16, "columns": 16}},'
        ' "forward float32 32x32x16x16x3x1": {"tile": null}}}'
    )
    tiles.chosen.cache_clear()
    assert tiles.served("forward", shape, False, card) == tiles.Tile(64, 16, 16)
    assert tiles.served("forward", shape, True, card) is None
    path.write_text("{")
    tiles.chosen.cache_clear()
    assert tiles.served("forward", shape, True, card) == tiles.usual("forward", shape, True, 90)
    tiles.chosen.cache_clear()


if __name__ == "__main__":
    main()
