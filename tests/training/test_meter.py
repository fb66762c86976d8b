"""Metrics: fetched one dispatch late, every step checked, rates and shares of the peak."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from redundancy import storage
from redundancy.training import meter as meter_lib
from redundancy.training.meter import DivergedError, Meter
from redundancy.training.peaks import peak_flops
from redundancy.training.profiling import Profiler


def make(kind="cpu", start=0, stop=40, devices=2):
    device = types.SimpleNamespace(device_kind=kind)
    return Meter(["a", "b"], start, stop, 10, 128, 2, [device] * devices, 1000, "bfloat16")


def losses(first, second):
    return {"loss": jnp.array([first, second], jnp.float32)}


def test_a_line_comes_once_the_next_dispatch_is_sent_and_holds_means_since_the_last():
    meter = make()
    assert list(meter.sent(5, losses([1.0] * 5, [3.0] * 5))) == []
    assert list(meter.sent(10, losses([2.0] * 5, [4.0] * 5))) == []
    ((step, (a, b)),) = meter.sent(15, losses([9.0] * 5, [9.0] * 5))
    assert (step, a["loss"], b["loss"]) == (10, 1.5, 3.5)
    assert list(meter.rest()) == []


def test_there_is_a_line_at_the_end():
    meter = make(stop=7)
    list(meter.sent(7, losses([1.0] * 7, [1.0] * 7)))
    assert [step for step, _ in meter.rest()] == [7]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_step_of_a_loss_that_is_not_finite_is_named(bad):
    meter = make(start=20)
    list(meter.sent(25, losses([1.0] * 5, [1.0] * 5)))
    list(meter.sent(30, losses([1.0] * 5, [1.0, 1.0, bad, bad, 1.0])))
    with pytest.raises(DivergedError, match=rf"the loss of b is {bad} at step 28"):
        list(meter.rest())


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand: clock.now."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(meter_lib.time, "monotonic", lambda: clock.now)
    return clock


def dispatched(meter, clock, steps):
    """Lines of dispatches that end with `steps`, each sent at a time given."""
    lines = []
    for step, clock.now in steps.items():
        count = step - meter._last
        lines += meter.sent(step, losses([1.0] * count, [1.0] * count))
    return lines


def rates(lines):
    return {step: values[0].get("images_per_second") for step, values in lines}


def test_rates_are_those_of_the_device_and_leave_out_the_first_dispatch(clock):
    meter = make(kind="NVIDIA H200")
    lines = dispatched(meter, clock, {5: 50.0, 10: 100.0, 15: 101.0})
    lines += meter.rest()
    # From step 5 at 100 s to step 10 at 101 s; two trials on two devices.
    (_, (values, _)) = lines[0]
    assert values["images_per_second"] == 5 * 128
    assert values["images_per_second_per_device"] == 5 * 128
    assert values["model_flops_utilization"] == pytest.approx(5 * 128 * 1000 / 989e12)


def test_rates_leave_out_checkpoints(clock):
    meter = make()
    lines = dispatched(meter, clock, {5: 100.0, 10: 101.0, 15: 102.0})
    clock.now = 103.0
    lines += meter.rest()
    clock.now = 200.0
    meter.resume()
    lines += dispatched(meter, clock, {20: 200.0, 25: 204.0, 30: 206.0, 35: 208.0})
    # The first has 5 steps of a second; the second 5 before the checkpoint, in a second, and 5 after it, in four.
    assert rates(lines) == {10: 5 * 128 / 1, 20: 10 * 128 / 5, 30: 10 * 128 / 4}


@pytest.mark.parametrize("length", [5, 10, 20])
def test_there_are_rates_if_each_dispatch_ends_with_a_checkpoint(clock, length):
    meter, lines = make(), []
    for step in range(length, 41, length):
        lines += dispatched(meter, clock, {step: clock.now + 0.5})
        clock.now += 1.5 if step > length else 60.0
        lines += meter.rest()
        clock.now += 30.0
        meter.resume()
    first, *others = rates(lines).values()
    assert first == (128 * 5 / 2 if length == 5 else None)
    assert others == [128 * length / 2] * len(others)
    assert len(others) == {5: 3, 10: 3, 20: 1}[length]


def test_rates_leave_out_the_compilation_of_a_last_shorter_dispatch(clock):
    meter = make(stop=37)
    lines = dispatched(meter, clock, {15: 50.0, 30: 100.0, 37: 160.0})  # sent once it is compiled
    clock.now = 161.0
    lines += meter.rest()
    assert rates(lines) == {15: None, 30: None, 37: None}
    meter = make(stop=37)
    lines = dispatched(meter, clock, {10: 50.0, 20: 100.0, 30: 101.0, 37: 160.0})
    clock.now = 161.0
    lines += meter.rest()
    assert rates(lines) == {10: None, 20: 10 * 128, 30: None, 37: None}


def test_peaks():
    assert peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert peak_flops("TPU v5 lite", "float32") == 197e12
    assert peak_flops("TPU v5p", "bfloat16") == 459e12
    assert peak_flops("cpu", "float32") is None


def test_a_trace_is_written(tmp_path):
    profiler = Profiler(str(tmp_path), on=True)
    for step in range(8):
        profiler.dispatched(jnp.ones(3) + step)
    profiler.close()
    names = [path.name for path in (tmp_path / "profile").rglob("*") if path.is_file()]
    assert any(name.endswith(".xplane.pb") for name in names)
    assert "perfetto_trace.json.gz" in names


def test_no_trace_is_written_unless_asked_for_or_of_a_short_training(tmp_path):
    for on in (False, True):
        profiler = Profiler(str(tmp_path), on=on)
        profiler.dispatched(jnp.ones(3))
        profiler.close()
    assert storage.list_dir(str(tmp_path)) == []
