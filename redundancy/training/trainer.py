"""Runs the device programs on a data set: takes batches from the feed, keeps states on the mesh, returns results on the host."""

import collections
import functools

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from redundancy.data import Dataset
from redundancy.models.flops import multiply_adds
from redundancy.training.feed import make_feed, resident_images
from redundancy.training.memory import check_fits
from redundancy.training.mesh import fetch_to_host, put
from redundancy.training.programs import Programs, State
from redundancy.workdir.table import Schedule


class Trainer:
    """Programs for one config, data set and mesh; compiled at first use and shared by every pack.

    Args:
      config: resolved config.
      dataset: the data set with its images.
      mesh: ("trial", "data").
      pack: largest number of trials that train at once.
      vmap, tallied: see Programs.

    Raises:
      ConfigError: a pack does not fit in the devices' memory.
    """

    def __init__(self, config, dataset: Dataset, mesh: Mesh, pack: int = 1, vmap: bool = False, tallied: int = 0):
        self.config, self.dataset, self.mesh = config, dataset, mesh
        shape, classes = dataset.image_shape, len(dataset.class_names)
        self.programs = Programs(config, shape, classes, mesh, dataset.resident, vmap, tallied)
        check_fits(self.programs, -(-pack // mesh.shape["trial"]) * mesh.shape["trial"], resident_images(dataset))
        self.feed = make_feed(config, dataset, mesh)

    @functools.cached_property
    def flops_per_image(self) -> int:
        """Floating-point operations of training on one image, by the usual count, see `flops`."""
        return 6 * multiply_adds(self.programs.model, self.dataset.image_shape)

    def init_state(self, seed: int) -> State:
        """State of one trial before its first step, on the host: a pure function of config.seed and `seed`."""
        return jax.device_get(self.programs.init(np.uint32(seed)))

    def stack(self, states: list[State]) -> State:
        """Combines states of single trials on the host into the pack's state on the mesh."""
        return put(self.mesh, P("trial"), jax.tree.map(lambda *leaves: np.stack(leaves), *states))

    def unstack(self, states: State, count: int) -> list[State]:
        """Returns the states of the first `count` trials of a pack, on the host."""
        host = fetch_to_host(states)
        return [jax.tree.map(lambda leaf, i=i: leaf[i], host) for i in range(count)]

    def train(self, states: State, seeds: np.ndarray, schedule: Schedule, items) -> tuple[State, dict]:
        """Runs one dispatch. It consumes `states`, and returns metrics `[T, K]` as device arrays without waiting for them.

        Args:
          states: states of the pack, on the mesh.
          seeds: uint32 `[T]`.
          schedule: schedule of this training.
          items: items of the feed, on the mesh.
        """
        lengths = {"steps": np.float32(schedule.steps), "warmup_steps": np.float32(schedule.warmup_steps)}
        with jax.set_mesh(self.mesh):
            return self.programs.train(states, seeds, lengths, self.feed.arrays["train"], items)

    def evaluate(self, states: State) -> tuple[np.ndarray, np.ndarray]:
        """Number of correct answers int64 `[T]` and mean loss float64 `[T]` on the whole test set.

        Batches are padded and masked, so that every test image counts once.
        """
        positions = self.dataset.test.positions
        waiting, fetched = collections.deque(), []
        with jax.set_mesh(self.mesh):
            for item, mask in self.feed.once("test", positions, self.programs.eval_batch_size, ordered=False):
                waiting.append(self.programs.evaluate(states, self.feed.arrays["test"], item, mask))
                if len(waiting) > 2:  # otherwise a fast source could put the whole set on the device
                    fetched.append(fetch_to_host(waiting.popleft()))
        fetched += [fetch_to_host(batch) for batch in waiting]
        sums = jax.tree.map(lambda *leaves: np.sum(np.stack(leaves), axis=0, dtype=np.float64), *fetched)
        if not np.all(sums["count"] == len(positions)):
            raise AssertionError(f"evaluation saw {sums['count']} test images, not {len(positions)}")
        return sums["correct"].astype(np.int64), sums["loss"] / len(positions)

    def score(self, states: State, gradients: bool) -> dict[str, np.ndarray]:
        """Scores of every training image in a clean pass: eval mode, no augmentation, see `programs.clean_scores`.

        Args:
          states: states of the pack, on the mesh.
          gradients: whether to also compute grand, the norm of the gradient with respect to all parameters.

        Returns:
          name -> float32 `[T, n]` (margin: float64), in the order of the training positions.
        """
        states = {name: states[name] for name in ("params", "batch_stats")}
        positions = self.dataset.train.positions

        def passed(program, size):
            done = []
            for item, _ in self.feed.once("train", positions, size):
                done.append(fetch_to_host(program(states, self.feed.arrays["train"], item)))
            return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1)[:, : len(positions)], *done)

        with jax.set_mesh(self.mesh):
            found = passed(self.programs.score, self.programs.eval_batch_size)
            found["margin"] = 1 - found.pop("no_margin").astype(np.float64)
            if gradients:
                found["grand"] = passed(self.programs.gradient_norm, self.programs.gradient_batch_size)
        return found

    def embed(self, state: State, positions: np.ndarray):
        """Pooled layers of training images, without augmentation, in the order of `positions`.

        Args:
          state: one trial's state.
          positions: int64 `[n]`, ascending.

        Yields:
          dict layer -> float32 `[b, D]`, for consecutive batches of positions.
        """
        state = put(self.mesh, P(), {name: state[name] for name in ("params", "batch_stats")})
        size = self.programs.eval_batch_size
        left = len(positions)
        with jax.set_mesh(self.mesh):
            for item, _ in self.feed.once("train", positions, size):
                layers = fetch_to_host(self.programs.embed(state, self.feed.arrays["train"], item))
                real, left = min(left, size), left - size
                yield {name: layer[:real] for name, layer in layers.items()}
