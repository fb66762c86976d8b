"""Metrics: fetched one dispatch late, every step looked at, rates and shares of the peak."""

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
def test_the_very_step_is_named_where_a_loss_is_no_number(bad):
    meter = make(start=20)
    list(meter.sent(25, losses([1.0] * 5, [1.0] * 5)))
    list(meter.sent(30, losses([1.0] * 5, [1.0, 1.0, bad, bad, 1.0])))
    with pytest.raises(DivergedError, match=rf"the loss of b is {bad} at step 28"):
        list(meter.rest())


def test_rates_are_those_of_the_device_and_leave_out_the_first_dispatch(monkeypatch):
    clock = iter([100.0, 101.0, 200.0, 202.0])
    monkeypatch.setattr(meter_lib.time, "monotonic", lambda: next(clock))
    meter, lines = make(kind="NVIDIA H200"), []
    for step in (5, 10, 15):
        lines += meter.sent(step, losses([1.0] * 5, [1.0] * 5))
    lines += meter.rest()
    # From step 5 at 100 s to step 10 at 101 s; two trials on two devices.
    (_, (values, _)) = lines[0]
    assert values["images_per_second"] == 5 * 128
    assert values["images_per_second_per_device"] == 5 * 128
    assert values["model_flops_utilization"] == pytest.approx(5 * 128 * 1000 / 989e12)
    # After a rest, as for a checkpoint, the clock starts anew.
    lines = [line for step in (20, 25, 30, 35) for line in meter.sent(step, losses([1.0] * 5, [1.0] * 5))]
    assert [step for step, _ in lines] == [20, 30]
    assert "images_per_second" not in lines[0][1][0]
    assert lines[1][1][0]["images_per_second"] == 10 * 128 / 2


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
