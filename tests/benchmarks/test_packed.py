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
from redundancy.models.gpu.cards import Card
from redundancy.models.gpu.shape import Shape
from tests.models import interpreter


def test_the_convolutions_of_a_step_are_counted():
    model = make_model(config_lib.resolve({"depth": 8}), 10)
    times = packed.convolutions(model, 3, 16, (32, 32, 3))
    assert sum(times.values()) == 3 * 9 - 1  # the images need no gradient
    assert times["forward", Shape(3, 16, 32, 32, 16, 16, 3, 1)] == 2
    assert times["kernel_gradient", Shape(3, 16, 32, 32, 16, 32, 1, 2)] == 1


@pytest.mark.soak
def test_bottlenecks_of_imagenet_are_counted():
    fields, image = packed._FORMS["imagenet"]
    model = make_model(config_lib.resolve({**fields, "depth": 50}), 10)
    times = packed.convolutions(model, 2, 4, image)
    assert sum(times.values()) == 3 * 53 - 1
    assert times["forward", Shape(2, 4, 224, 224, 3, 64, 7, 2)] == 1
    assert times["input_gradient", Shape(2, 4, 7, 7, 2048, 512, 1, 1)] == 2


def test_tiles_that_are_tried_differ_from_the_usual_one():
    shape = Shape(8, 128, 32, 32, 16, 16, 3, 1)
    for kind in tiles.KINDS:
        usual = tiles.usual(kind, shape, False, 90)
        tried = packed.variations(kind, shape, usual)
        assert tried[0] == usual
        assert len(set(tried)) == len(tried) > 6
        assert {tile.lines for tile in tried} >= {1, 2, 4}


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
def test_kernels_and_steps_are_measured_and_the_fastest_is_kept(monkeypatch, tmp_path, capsys):
    """All of it but the GPU: the kernels in Triton's interpreter, the steps' rates given."""
    if interpreter.kernels is None:
        pytest.skip("triton is not installed")
    rates = iter([100.0, 90.0, 110.0, 100.0, 90.0, 80.0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shape = Shape(2, 1, 4, 3, 3, 16, 2, 2)
    monkeypatch.setattr(packed, "convolutions", lambda *_: dict.fromkeys(((kind, shape) for kind in tiles.KINDS), 1))
    monkeypatch.setattr(packed, "_AT_ONCE", 1)
    monkeypatch.setattr(packed, "_step", lambda *_: {"images_per_second": next(rates), "median_s": 1.0, "all_s": 1.0})
    monkeypatch.setattr(packed.cards, "card_of", lambda device: Card("no card", 90))
    monkeypatch.setattr(packed.cards, "obstacle", lambda card: None)
    monkeypatch.setattr(packed.gpu, "Kernels", interpreter.Interpreted)
    arguments = ["--quick", "--json", "--trials=2", "--batch=2", "--depth=8", "--dtype=float32", "--seconds=10000"]
    tiles.chosen.cache_clear()
    packed.main(arguments)
    result = json.loads(capsys.readouterr().out)
    assert result["ratios"]["step/packed, these tiles"] == 1.1
    assert len(result["cases"]) == 4
    kept = tiles.chosen("no card")
    assert kept["form"] == "packed"
    for name, case in result["cases"].items():
        if name != "step":
            found = case["results"]["ours"]
            assert found["greatest_error"] < 1e-5
            assert kept["tiles"][name]["tile"] == found["tile"]
    packed.main([*arguments[:1], *arguments[2:], "--only", "steps"])  # as a table
    assert "90 images/s" in capsys.readouterr().out
    assert tiles.chosen("no card")["form"] == "xla"
    tiles.chosen.cache_clear()


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("fields", "most_copies"), [((), 8), (("--dtype=float32", "--depth=8"), 8)])
def test_the_training_of_a_pack_compiles_for_a_gpu_that_is_not_there(repo, child_env, fields, most_copies):
    """Every convolution is a kernel of ours, and little is copied."""
    pytest.importorskip("triton")
    pytest.importorskip("jax_plugins.xla_cuda13")
    command = [sys.executable, "-m", "benchmarks.packed_for_a_gpu", *fields]
    done = subprocess.run(command, cwd=repo, env=child_env, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    blocks = (found["depth"] - 2) // 6
    convolutions = 1 + 6 * blocks + 2  # the stem, two in each block, two shortcuts
    assert found["triton"] == 3 * convolutions - 1
    assert found["cudnn"] == 0
    assert found["copies"] <= most_copies
    assert np.isfinite(found["fusions"])
