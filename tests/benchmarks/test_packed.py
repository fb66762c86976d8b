"""What benchmarks.packed needs no GPU for."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import packed
from redundancy import config as config_lib
from redundancy.models import make_model
from redundancy.models.gpu import tiles
from redundancy.models.gpu.shape import Shape


def test_the_convolutions_of_a_step_are_counted():
    model = make_model(config_lib.resolve({"depth": 8}), 10)
    times = packed.convolutions(model, 3, 16, (32, 32, 3))
    assert sum(times.values()) == 3 * 9 - 1  # the images need no gradient
    assert times["forward", Shape(3, 16, 32, 32, 16, 16, 3, 1)] == 2
    assert times["kernel_gradient", Shape(3, 16, 32, 32, 16, 32, 1, 2)] == 1


def test_tiles_that_are_tried_differ_from_the_usual_one():
    shape = Shape(8, 128, 32, 32, 16, 16, 3, 1)
    for kind in tiles.KINDS:
        usual = tiles.usual(kind, shape, False, 90)
        tried = packed.variations(kind, usual)
        assert tried[0] == usual
        assert len(set(tried)) == len(tried) > 6


@pytest.mark.parametrize("kind", tiles.KINDS)
def test_xlas_convolutions_are_measured(kind):
    shape = Shape(2, 1, 4, 4, 2, 3, 3, 1)
    pairs = [packed._arrays(kind, shape, jnp.float32, seed) for seed in range(2)]
    program = packed._compiled(packed.by_xla(kind, shape), pairs)
    wanted = {"forward": shape.y, "input_gradient": shape.x, "kernel_gradient": shape.kernel}[kind]
    assert program(pairs)[1].shape == wanted
    assert packed._microseconds(program, pairs) > 0
    assert "shapes" in packed._compiled(lambda first, second: jnp.zeros(3) + jnp.zeros(4), pairs)


def test_without_a_gpu_it_says_so():
    with pytest.raises(
        SystemExit, match=r"wants a GPU and jax_triton, but on 'cpu' the device is not one of NVIDIA's$"
    ):
        packed.main(["--json"])


@pytest.mark.soak
@pytest.mark.parametrize(("fields", "most_copies"), [((), 8), (("--dtype=float32", "--depth=8"), 8)])
def test_the_training_of_a_pack_compiles_for_a_gpu_that_is_not_there(repo, child_env, fields, most_copies):
    """Every convolution is a kernel of ours, and little is copied."""
    pytest.importorskip("triton")
    pytest.importorskip("jax_plugins.xla_cuda13")
    command = [sys.executable, "-m", "benchmarks.packed_for_a_gpu", *fields]
    done = subprocess.run(command, cwd=repo, env=child_env, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    blocks = (found["depth"] - 2) // 6
    convolutions = 1 + 6 * blocks + 2  # the stem, two in each block, two shortcuts
    assert found["triton"] == 3 * convolutions - 1
    assert found["cudnn"] == 0
    assert found["copies"] <= most_copies
    assert np.isfinite(found["fusions"])
