"""Traces some steps of a training, for TensorBoard's profile plugin and Perfetto."""

import pathlib
import tempfile

import jax
from absl import logging

from redundancy import storage

_FIRST, _LAST = 3, 6  # dispatches, counted from 1: after compilation


class Profiler:
    """Traces a few dispatches of a training into `folder`/profile.

    Args:
      folder: folder of the run, local or gs://.
      on: whether to trace at all.
    """

    def __init__(self, folder: str, on: bool):
        self._folder = storage.join(folder, "profile")
        self._on, self._dispatches, self._place = on, 0, None

    def dispatched(self, result) -> None:
        """To be called after each dispatch; waits for `result` if the trace ends with it."""
        if not self._on:
            return
        self._dispatches += 1
        if self._dispatches == _FIRST:
            self._place = tempfile.TemporaryDirectory()
            jax.block_until_ready(result)
            jax.profiler.start_trace(self._place.name, create_perfetto_trace=True)
        elif self._dispatches == _LAST:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Stops a trace that is still running, and writes it."""
        if self._place is None:
            if self._on and self._dispatches:
                logging.warning("--profile: the training is too short, no trace was written")
            self._on = False
            return
        jax.profiler.stop_trace()
        root = pathlib.Path(self._place.name)
        for path in sorted(root.rglob("*")):
            if path.is_file():
                storage.write_bytes(storage.join(self._folder, *path.relative_to(root).parts), path.read_bytes())
        self._place.cleanup()
        self._place, self._on = None, False
        logging.info("--profile: trace in %s (tensorboard --logdir %s, or ui.perfetto.dev)", self._folder, self._folder)
