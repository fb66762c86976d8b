"""Preflight for a GPU: its kernels are counted, their time is estimated; real compilations where XLA's plugin is installed."""

import importlib.util
import json

import pytest

from redundancy.preflight import hlo
from redundancy.preflight.generations import parse_topology
from redundancy.preflight.gpus import GPUS, LAUNCH_S, REACHED, REACHED_BY_CUDNN, step_seconds
from redundancy.runtime.errors import ConfigError
from tests.failing import fails

PLUGIN = importlib.util.find_spec("jax_cuda13_plugin") is not None
CIFAR = ("preflight", "--config=configs/cifar10.py", "--topology=h100", "--config.dtype=bfloat16")
TEXT = """HloModule m, is_scheduled=true

%fused_computation (param_0: f32[8]) -> f32[8] {
  %param_0 = f32[8]{0} parameter(0)
  ROOT %add.1 = f32[8]{0} add(%param_0, %param_0)
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (state: (f32[8], u8[100])) -> (f32[8], u8[100]) {
  %state = (f32[8]{0}, u8[100]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%state), index=0
  %set = u8[100]{0} get-tuple-element(%state), index=1
  %read = f32[8]{0} fusion(%x, %set), kind=kLoop, calls=%fused_computation
  ROOT %out = (f32[8]{0}, u8[100]{0}) tuple(%read, %set)
}

ENTRY %main (x: f32[8], set: u8[100]) -> f32[] {
  %x = f32[8]{0} parameter(0)
  %set = u8[100]{0} parameter(1)
  %both = (f32[8]{0}, u8[100]{0}) tuple(%x, %set)
  %turns = (f32[8]{0}, u8[100]{0}) while(%both), condition=%body, body=%body
  %y = f32[8]{0} get-tuple-element(%turns), index=0
  %conv = (f32[16]{0}, u8[0]{0}) custom-call(%y, %y), custom_call_target="__cudnn$convForward"
  %z = f32[16]{0} get-tuple-element(%conv), index=0
  ROOT %total = f32[] reduce(%z, %z), dimensions={0}, to_apply=%add
}
"""


def test_kernels_are_those_of_no_fusion_and_a_loop_counts_once():
    found = hlo.kernels(TEXT, stored=100)
    assert [(each.kind, each.bytes) for each in found] == [
        ("fusion", 64),
        ("__cudnn$convForward", 128),
        ("reduce", 132),
    ]
    assert hlo.kernels(TEXT)[0].bytes == 164  # the resident set as a whole


def test_a_step_takes_as_long_as_its_kernels_and_small_ones_the_least_time():
    gpu = GPUS["h100"]
    large = hlo.Kernel("fusion", gpu.bandwidth * REACHED)  # a second
    slow = hlo.Kernel("__cudnn$convForward", gpu.bandwidth * REACHED_BY_CUDNN)
    assert step_seconds([large, slow, *[hlo.Kernel("copy", 10)] * 4], gpu) == pytest.approx(
        (2 + 4 * LAUNCH_S, 4 * LAUNCH_S)
    )


def test_a_gpu_is_a_topology_by_its_name():
    assert [(parse_topology(name).name, parse_topology(name).chips) for name in GPUS] == [(name, 1) for name in GPUS]
    assert all(gpu.flops > 1e14 for gpu in GPUS.values())
    assert 'description_str: "NVIDIA L4"' in GPUS["l4"].target
    with pytest.raises(ConfigError, match=r"compiles for one GPU\. Give --topology=h100"):
        parse_topology("h100:2")
    with pytest.raises(ConfigError, match=r"h200.*\"h100\""):
        parse_topology("h10")


@pytest.mark.skipif(PLUGIN, reason="the plugin is installed")
def test_without_the_compiler_the_error_says_how_to_install_it(redundancy):
    fails(redundancy(*CIFAR), 'pip install "redundancy[train,cuda]"')


@pytest.mark.soak
@pytest.mark.skipif(not PLUGIN, reason="XLA's CUDA plugin is not installed")
def test_the_estimate_is_near_what_an_h100_was_measured_to_do(redundancy):
    for batch, measured in (("128", 45_200), ("512", 88_900)):
        done = redundancy(*CIFAR, f"--config.batch_size={batch}", "--json")
        assert done.returncode == 0, done.stderr
        train = json.loads(done.stdout)["programs"]["train"]
        assert train["images_per_chip"] / train["estimate_s"] == pytest.approx(measured, rel=0.15)
        assert train["kinds"]["__cudnn$convBackwardFilter"] == 33
    done = redundancy(*CIFAR, "--config.batch_size=1000000", "--config.eval_batch_size=100")
    assert done.returncode == 1
    assert "does not fit on h100" in done.stderr
