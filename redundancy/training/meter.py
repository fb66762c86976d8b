"""Fetches metrics from the device one dispatch late, so that the device never waits, and aggregates them into lines.

Every step is checked: a loss that is not finite is reported with its step before anything else is saved.
"""

import collections
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from redundancy.runtime.errors import UserError
from redundancy.training.mesh import fetch_to_host
from redundancy.training.peaks import peak_flops

Line = tuple[int, list[dict[str, float]]]  # step, and values for each run


class DivergedError(UserError):
    """The loss or a parameter of a run is not finite."""


class Meter:
    """Metrics of the dispatches of one pack.

    Args:
      names: names of the pack's runs.
      start, stop: step before the first dispatch, step after the last.
      log_every: steps between two lines; there is also a line at `stop`.
      images: images of one trial in one step.
      size: trials in the pack, including copies that fill it.
      devices: devices of the mesh.
      flops_per_image: floating-point operations of one training step for one image.
      dtype: type that convolutions compute in, on which the devices' peak rate depends.
      pending: for each run the metrics of steps before `start` that no line has reported yet, see `Meter.pending`.
    """

    def __init__(
        self,
        names: list[str],
        start: int,
        stop: int,
        log_every: int,
        images: int,
        size: int,
        devices,
        flops_per_image: int,
        dtype: str,
        pending: Sequence[Mapping[str, np.ndarray]] = (),
    ):
        self._names, self._step, self._stop, self._log_every = names, start, stop, log_every
        self._images, self._size, self._devices = images, size, len(devices)
        self._flops, self._peak = flops_per_image, peak_flops(devices[0].device_kind, dtype)
        self._sent = collections.deque()  # (last step, device metrics [T, K]) not fetched yet
        self._fetched = []  # host metrics since the last line
        if any(of_run for of_run in pending):
            rows = [*pending] + [pending[-1]] * (size - len(pending))
            self._fetched = [{name: np.stack([row[name] for row in rows]) for name in pending[0]}]
        self._last = start  # last step of the dispatch that was sent last
        self._lengths = set()  # numbers of steps of the dispatches so far; each new number is compiled first
        self._compiled = start  # last step of the last dispatch that may have been compiled
        self._clock = None  # time up to which seconds have been counted; None while the clock is stopped
        self._counted, self._seconds = 0, 0.0  # steps since the last line whose duration is known, and this duration

    def sent(self, step: int, metrics) -> Iterator[Line]:
        """To be called after sending a dispatch that ends with `step`. Yields the lines of earlier dispatches, without waiting.

        Raises:
          DivergedError: a loss is not finite.
        """
        if step - self._last not in self._lengths:
            self._lengths.add(step - self._last)
            self._compiled, self._clock = step, None
        self._last = step
        self._sent.append((step, metrics))
        while len(self._sent) > 1:
            yield from self._fetch()

    def rest(self) -> Iterator[Line]:
        """Waits for all dispatches sent and yields their lines. Stops the clock until `resume`.

        Raises:
          DivergedError: a loss is not finite.
        """
        while self._sent:
            yield from self._fetch()
        self._clock = None

    def pending(self) -> list[dict[str, np.ndarray]]:
        """For each run the metrics of the steps since the last line, name -> [steps]; to be called after `rest`.

        If they are passed to the meter of the resumed training, it writes the same lines as an uninterrupted one.
        """
        names = self._fetched[0] if self._fetched else ()
        whole = {name: np.concatenate([host[name] for host in self._fetched], axis=1) for name in names}
        return [{name: values[index] for name, values in whole.items()} for index in range(len(self._names))]

    def resume(self) -> None:
        """Restarts the clock; to be called after `rest` and before sending the next dispatch."""
        self._clock = time.monotonic()

    def _fetch(self) -> Iterator[Line]:
        step, metrics = self._sent.popleft()
        host = fetch_to_host(metrics)
        for name, losses in zip(self._names, host["loss"], strict=False):
            if not np.isfinite(losses).all():
                first = int(np.argmin(np.isfinite(losses)))
                raise DivergedError(f"the loss of {name} is {losses[first]} at step {step - len(losses) + first + 1}")
        now = time.monotonic()
        if self._clock is not None:
            self._counted += step - self._step
            self._seconds += now - self._clock
        # The time before a compiled dispatch includes the compilation, so it is not counted.
        self._clock = now if step >= self._compiled else None
        self._fetched.append(host)
        due = step // self._log_every > self._step // self._log_every or step == self._stop
        self._step = step
        if due:
            yield step, self._line()

    def _line(self) -> list[dict[str, float]]:
        """For each run, the means since the last line, and the rate if it could be measured."""
        means = {
            name: np.concatenate([host[name] for host in self._fetched], axis=1).mean(axis=1)
            for name in self._fetched[0]
        }
        self._fetched = []
        rate = self._rate()
        return [
            {name: float(value[index]) for name, value in means.items()} | rate for index in range(len(self._names))
        ]

    def _rate(self) -> dict[str, float]:
        counted, seconds, self._counted, self._seconds = self._counted, self._seconds, 0, 0.0
        if not counted:
            return {}
        trial = counted * self._images / seconds
        each = trial * self._size / self._devices
        found = {"images_per_second": trial, "images_per_second_per_device": each}
        return found | ({"model_flops_utilization": each * self._flops / self._peak} if self._peak else {})
