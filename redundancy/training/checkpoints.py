"""Checkpoints of single trials, by Orbax. The one module that knows Orbax."""

import contextlib
import os

# Orbax's paths take TensorFlow's own gs:// client where TensorFlow is installed; the rest of the project uses
# fsspec's, and on the npz path TensorFlow must not be imported at all.
os.environ.setdefault("EPATH_USE_TF", "false")

import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from redundancy import storage
from redundancy.errors import WorkdirError

_KEPT = 2


def _folder(run_folder: str) -> str:
    path = storage.join(run_folder, "checkpoints")
    return os.path.abspath(path) if storage.is_local(path) else path


class Checkpoints:
    """The checkpoints of one run, in its folder's `checkpoints/`; the newest two are kept.

    A checkpoint is a trial's whole state on the host: parameters, statistics, momentum and step. Seeds and data
    order are functions of the config and the step. A checkpoint that was not finished does not count as one.
    """

    def __init__(self, run_folder: str):
        self._run_folder, self.folder = run_folder, _folder(run_folder)
        storage.make_dirs(self.folder)
        self._manager = ocp.CheckpointManager(
            self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=_KEPT, create=True)
        )

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state) -> None:
        """Saves in the background; a later save or close waits for it.

        Raises:
          WorkdirError: this checkpoint, or the one before it, cannot be written.
        """
        if step not in self._manager.all_steps():
            tree = flax.serialization.to_state_dict(state)
            with self._write_errors():
                self._manager.save(step, args=ocp.args.StandardSave(jax.tree.map(np.asarray, tree)), force=True)

    def restore(self, step: int, like):
        """The state of a step, with the structure, shapes and dtypes of `like`.

        Raises:
          WorkdirError: the checkpoint cannot be read or holds other arrays than `like`.
        """
        target = jax.tree.map(np.asarray, flax.serialization.to_state_dict(like))
        try:
            tree = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged or foreign checkpoint
            raise WorkdirError(
                f"{self.folder}/{step} cannot be restored ({type(error).__name__}: {str(error).splitlines()[0]}). "
                f"Delete {self._run_folder} to train this run again."
            ) from error
        wrong = [
            f"{jax.tree_util.keystr(path)} {found.shape} {found.dtype}, wanted {wanted.shape} {wanted.dtype}"
            for (path, wanted), found in zip(
                jax.tree_util.tree_leaves_with_path(target), jax.tree.leaves(tree), strict=True
            )
            if found.shape != wanted.shape or found.dtype != wanted.dtype
        ]
        if wrong:
            raise WorkdirError(
                f"{self.folder}/{step} holds another network: {wrong[0]}. "
                f"Delete {self._run_folder} to train this run again."
            )
        return flax.serialization.from_state_dict(like, tree)

    def wait(self) -> None:
        """Waits for the last save.

        Raises:
          WorkdirError: it cannot be written.
        """
        with self._write_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save, and ends the threads that save; raises as `wait`."""
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _write_errors(self):
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many kinds, ValueError for a full disk among them
            text = str(error)
            full = "No space left" in text or "quota" in text.lower()
            hint = "no space left. Free some space" if full else f"{text.splitlines()[0]}. Mend that"
            raise WorkdirError(
                f"{self.folder}: a checkpoint cannot be written: {hint} and give the same command again; "
                "it continues from the last checkpoint."
            ) from error


def common_step(all_checkpoints: list[Checkpoints]) -> int | None:
    """The last step that every run of a pack has a checkpoint of, or None."""
    steps = set.intersection(*(set(checkpoints.steps()) for checkpoints in all_checkpoints))
    if not steps and any(checkpoints.steps() for checkpoints in all_checkpoints):
        logging.warning("runs of a pack have no checkpoint in common; they start again")
    return max(steps, default=None)
