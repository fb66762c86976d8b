"""Checkpoints of single trials, stored with Orbax, which no other module uses."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

# If TensorFlow is installed, Orbax would use its gs:// client. The rest of the project uses fsspec's, and with data sets in
# .npz files TensorFlow must not be imported at all.
os.environ.setdefault("EPATH_USE_TF", "false")

import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from redundancy import storage
from redundancy.config import differing, left_out
from redundancy.runtime import processes
from redundancy.runtime.errors import StorageError, WorkdirError

_SHOWN = 4  # most differences that an error lists


def _folder(run_folder: str) -> str:
    path = storage.join(run_folder, "checkpoints")
    return os.path.abspath(path) if storage.is_local(path) else path


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a checkpoint records about a training besides its state.

    Attributes:
      of: JSON that identifies the training: config, data, seeds. A checkpoint is only continued by the same training.
      at: JSON with the position in the data. It is for people only, since it follows from the step.
      pending: metrics of the steps that no line of metrics has reported yet, name -> [steps] float32.
    """

    of: Mapping[str, Any]
    at: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pending: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


_NOTHING = Progress({})


def _named(tree) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every array of a tree, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): (tuple(leaf.shape), str(np.dtype(leaf.dtype))) for path, leaf in leaves}


def _differences(found: dict, wanted: dict) -> list[str]:
    def show(of):
        return f"{of[1]} {list(of[0])}"

    lines = [f"no {name}, wanted {show(wanted[name])}" for name in wanted if name not in found]
    lines += [f"{name} {show(found[name])}, not wanted" for name in found if name not in wanted]
    both = [name for name in wanted if name in found and found[name] != wanted[name]]
    return lines + [f"{name} {show(found[name])}, wanted {show(wanted[name])}" for name in both]


def _sha256(tree) -> str:
    """Checksum of the paths, shapes, dtypes and bytes of all arrays of a tree."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}\n".encode())
        digest.update(np.ascontiguousarray(leaf).data if leaf.ndim else leaf.tobytes())
    return digest.hexdigest()


def _json_sha256(about: Mapping[str, Any]) -> str:
    """Checksum of all keys except the checksum itself."""
    rest = {name: value for name, value in about.items() if name != "about_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


class _Manager(ocp.CheckpointManager):
    """Orbax's manager without its query of JAX's preemption service, which the training loop already asks in every process."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The newest checkpoints of one run, in the folder `checkpoints/` of the run.

    A checkpoint is a trial's whole state on the host (parameters, statistics, momentum and step), with a checksum and its
    `Progress`. Incomplete checkpoints are ignored. If there are several processes, process 0 writes and all read.
    """

    def __init__(self, run_folder: str, kept: int = 2):
        self._run_folder, self.folder = run_folder, _folder(run_folder)
        self._writes = processes.is_first()
        self._unsaved = None  # step and items of the save in progress
        if self._writes:
            storage.make_dirs(self.folder)
        own = processes.index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
        )
        self._manager = _Manager(
            self.folder,
            item_handlers={"state": ocp.StandardCheckpointHandler(), "about": ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(
                max_to_keep=kept,
                create=False,
                cleanup_tmp_directories=self._writes,
                multiprocessing_options=alone,
            ),
        )

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state, progress: Progress = _NOTHING) -> None:
        """Starts a save in the background; the next save, wait or close waits for it. Does nothing except in process 0.

        Raises:
          WorkdirError: the previous checkpoint cannot be written.
        """
        self.wait()
        if not self._writes or step in self._manager.all_steps():
            return
        tree = jax.tree.map(np.asarray, flax.serialization.to_state_dict(state))
        pending = {name: np.asarray(values, np.float32).tolist() for name, values in progress.pending.items()}
        about = {"step": step, "sha256": _sha256(tree), "of": progress.of, "at": progress.at, "pending": pending}
        about["about_sha256"] = _json_sha256(about)
        self._unsaved = step, ocp.args.Composite(state=ocp.args.StandardSave(tree), about=ocp.args.JsonSave(about))
        with self._write_errors():
            storage.retrying(self.folder, self._begin)

    def _begin(self) -> None:
        step, items = self._unsaved
        if step not in self._manager.all_steps():
            self._manager.save(step, args=items, force=True)

    def _finish(self) -> None:
        """Waits for the save. If it failed temporarily, starts it again, so that the caller can wait again."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            if storage.is_transient(error):
                self._manager.reload()
                self._begin()
            raise

    def progress(self, step: int) -> Progress:
        """The progress in a checkpoint.

        Raises:
          WorkdirError: the checkpoint cannot be read.
        """
        about = self._about(step)
        pending = {name: np.array(values, np.float32) for name, values in about["pending"].items()}
        return Progress(about["of"], about["at"], pending)

    def sha256(self, step: int) -> str:
        """Checksum of the state of a step, by which artifacts made from it identify it; raises as `progress`."""
        return self._about(step)["sha256"]

    def _about(self, step: int) -> dict[str, Any]:
        about = self._read(step, about=ocp.args.JsonRestore())["about"]
        kinds = {"sha256": str, "of": dict, "at": dict, "pending": dict}
        if not isinstance(about, dict) or not all(isinstance(about.get(name), kind) for name, kind in kinds.items()):
            raise self._unusable(self._path(step), "its about/ was not written by this program, or was changed since")
        if about.get("about_sha256") != _json_sha256(about):
            raise self._unusable(self._path(step), "its about/ was changed or damaged since it was written")
        return about

    def _path(self, step: int) -> str:
        return storage.join(self.folder, str(step))

    def restore(self, step: int, like, of: Mapping[str, Any] = {}):
        """The state of a step, with the structure, shapes and dtypes of `like`.

        Args:
          step: one of `steps`.
          like: state of the wanted structure.
          of: identity of the training to continue, see `Progress`; only its own keys are compared.

        Raises:
          WorkdirError: the checkpoint cannot be read, has arrays that differ from those of `like`, is damaged or belongs to
            another training.
        """
        target = jax.tree.map(np.asarray, flax.serialization.to_state_dict(like))
        path, about = self._path(step), self._about(step)
        theirs, of = ({**left_out(), **each} if of else {} for each in (about["of"], of))
        if fields := differing({name: theirs.get(name) for name in of}, of):
            shown = "; ".join(f"{name}: {_short(theirs.get(name))} there, {_short(of[name])} now" for name in fields)
            raise self._unusable(path, f"it belongs to another training. Differing: {shown}")
        stored = self._stored(step)
        if stored is not None and (wrong := _differences(stored, _named(target))):
            more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise self._unusable(path, f"it holds another network: {'; '.join(wrong[:_SHOWN])}{more}")
        tree = self._read(step, state=ocp.args.StandardRestore(target))["state"]
        if _sha256(tree) != about["sha256"]:
            raise self._unusable(
                path, "its arrays do not match its checksum: it is damaged, or mixed from two checkpoints"
            )
        return flax.serialization.from_state_dict(like, tree)

    def _read(self, step: int, **items) -> Mapping[str, Any]:
        path = self._path(step)

        def read():
            return self._manager.restore(step, args=ocp.args.Composite(**items))

        try:
            return storage.retrying(path, read)
        except StorageError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds of errors for damaged checkpoints
            first = (str(error).splitlines() or [""])[0]
            raise self._unusable(path, f"it cannot be restored ({type(error).__name__}: {first[:300]})") from error

    def _stored(self, step: int) -> dict[str, tuple[tuple[int, ...], str]] | None:
        """Shapes and dtypes in the checkpoint's metadata; None if they cannot be read."""
        try:
            return _named(self._manager.item_metadata(step)["state"].tree)
        except Exception:  # restoring will report what is wrong
            return None

    def _unusable(self, path: str, why: str) -> WorkdirError:
        others = [step for step in self.steps() if str(step) != path.rsplit("/", 1)[-1]]
        earlier = f"{path} to continue from step {others[-1]}, or " if others else ""
        return WorkdirError(
            f"{path} cannot be used: {why}. Delete {earlier}{self._run_folder} to train this run again, and give the same "
            "command; or restore the original files."
        )

    def wait(self) -> None:
        """Waits for the last save.

        Raises:
          WorkdirError: the checkpoint cannot be written.
        """
        if self._unsaved is not None:
            with self._write_errors():
                storage.retrying(self.folder, self._finish)
            self._unsaved = None

    def close(self) -> None:
        """Waits for the last save and ends Orbax's threads; raises as `wait`."""
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _write_errors(self):
        try:
            yield
        except StorageError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds of errors, ValueError for a full disk
            text = str(error) or type(error).__name__
            full = "No space left" in text or "quota" in text.lower()
            hint = "no space left. Free some space" if full else f"{text.splitlines()[0]}. Fix this"
            raise WorkdirError(
                f"{self.folder}: a checkpoint cannot be written: {hint} and give the same command again; "
                "it continues from the last checkpoint."
            ) from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def common_step(all_checkpoints: Sequence[Checkpoints]) -> int | None:
    """The last step at which every run of a pack has a checkpoint, or None; the same in all processes."""

    def find():
        steps = set.intersection(*(set(checkpoints.steps()) for checkpoints in all_checkpoints))
        if not steps and any(checkpoints.steps() for checkpoints in all_checkpoints):
            logging.warning("the runs of a pack have no checkpoint of the same step; they start again")
        return max(steps, default=None)

    return processes.first(find)
