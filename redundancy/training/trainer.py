"""The device programs of training, evaluation and embedding, for packs of trials on one mesh.

`shard_map` over "trial" keeps trials apart: no collective crosses that axis. Within a trial the batch is spread
over "data". A program is a function of arrays alone; what is written anywhere is written by loop.py.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from redundancy.data import Dataset
from redundancy.data.augmentation import augment, normalize
from redundancy.models import make_model
from redundancy.training.feed import make_feed
from redundancy.training.mesh import put
from redundancy.training.optimizer import learning_rate, make_optimizer

State = dict[str, Any]  # params, batch_stats, opt_state, step; with a leading trial axis in a pack


class Trainer:
    """Programs for one config, data set and mesh; compiled at first use and shared by every pack.

    Attributes:
      feed: where batches come from.
      mesh: ("trial", "data").
      block: steps in one dispatch.
    """

    def __init__(self, config, dataset: Dataset, mesh: Mesh):
        self.config, self.dataset, self.mesh = config, dataset, mesh
        self.feed = make_feed(dataset, mesh)
        self.model = make_model(config, len(dataset.class_names))
        self._optimizer = make_optimizer(config)
        # XLA's CPU convolutions inside a while loop leave the fast multi-threaded path (measured about 10 times
        # slower for 8 x 8 images, 30 times for 32 x 32), so on CPU neither steps nor trials are looped over.
        self._unroll = mesh.devices.flat[0].platform == "cpu"
        # A streamed dispatch holds all its images at once, on the host and on the device.
        self.block = config.steps_per_dispatch or (1 if self._unroll or not dataset.resident else 50)
        self._eval_batch_size = -(-config.eval_batch_size // mesh.shape["data"]) * mesh.shape["data"]

        trial, item, shared = P("trial"), P("trial"), P()
        self._train = jax.jit(
            self._shard_map(self._train_body, (trial, trial, shared, shared, item), (trial, trial)), donate_argnums=0
        )
        self._evaluate = jax.jit(self._shard_map(self._evaluate_body, (trial, shared, shared, shared), trial))
        self._embed = jax.jit(self._embed_body)
        self._init = jax.jit(self._init_one)

    def _shard_map(self, body, in_specs, out_specs):
        return jax.shard_map(
            body, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, axis_names={"trial"}, check_vma=False
        )

    def _over_data(self, x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, P("data"))

    def _init_one(self, seed: jax.Array) -> State:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.config.seed), seed), 0)
        variables = self.model.init(key, jnp.zeros((1, *self.dataset.image_shape), jnp.float32), train=False)
        params = variables["params"]
        return {
            "params": params,
            "batch_stats": variables["batch_stats"],
            "opt_state": self._optimizer.init(params),
            "step": jnp.zeros((), jnp.int32),
        }

    def init_state(self, seed: int) -> State:
        """State of one trial before its first step, on the host: a pure function of config.seed and `seed`."""
        return jax.device_get(self._init(np.uint32(seed)))

    def stack(self, states: list[State]) -> State:
        """States of single trials on the host -> the pack's state on the mesh."""
        return put(self.mesh, P("trial"), jax.tree.map(lambda *leaves: np.stack(leaves), *states))

    def unstack(self, states: State, count: int) -> list[State]:
        """The pack's state -> the first `count` trials' states on the host."""
        host = jax.device_get(states)
        return [jax.tree.map(lambda leaf, i=i: leaf[i], host) for i in range(count)]

    def _prepare(self, images: jax.Array) -> jax.Array:
        return self._over_data(normalize(images, self.config.mean, self.config.std, jnp.dtype(self.config.dtype)))

    def _step(self, state: State, seed: jax.Array, steps: jax.Array, arrays, item) -> tuple[State, dict]:
        """One step of one trial."""
        config = self.config
        images, labels, positions = self.feed.fetch(arrays, item)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), seed), 1)
        key = jax.random.fold_in(key, state["step"])
        images = augment(self._over_data(images), key, positions, config.augmentation, config.pad)
        x = self._prepare(images)

        def loss_of(params):
            (logits, _), updated = self.model.apply(
                {"params": params, "batch_stats": state["batch_stats"]}, x, train=True, mutable=["batch_stats"]
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, (updated["batch_stats"], (logits.argmax(-1) == labels).mean())

        (loss, (batch_stats, accuracy)), grads = jax.value_and_grad(loss_of, has_aux=True)(state["params"])
        direction, opt_state = self._optimizer.update(grads, state["opt_state"], state["params"])
        rate = learning_rate(state["step"], steps, config.lr, config.warmup_steps)
        params = jax.tree.map(lambda p, d: p - rate * d, state["params"], direction)
        state = {
            "params": params,
            "batch_stats": batch_stats,
            "opt_state": opt_state,
            "step": state["step"] + 1,
        }
        return state, {"loss": loss, "accuracy": accuracy, "learning_rate": rate}

    def _train_trial(self, state: State, seed: jax.Array, steps: jax.Array, arrays, items) -> tuple[State, dict]:
        """The steps of one dispatch, of one trial; items `[K, ...]`, metrics `[K]`."""

        def body(state, item):
            return self._step(state, seed, steps, arrays, item)

        if not self._unroll:
            return jax.lax.scan(body, state, items)
        metrics = []
        for step in range(items["position"].shape[0]):
            state, values = body(state, jax.tree.map(lambda leaf, step=step: leaf[step], items))
            metrics.append(values)
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *metrics)

    def _each_trial(self, function, *stacked):
        """`function` of each of this device's trials, results stacked."""
        count = jax.tree.leaves(stacked[0])[0].shape[0]
        if count > 1 and not self._unroll:
            return jax.lax.map(lambda args: function(*args), stacked)
        results = [function(*jax.tree.map(lambda leaf, i=i: leaf[i], stacked)) for i in range(count)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    def _train_body(self, states, seeds, steps, arrays, items):
        return self._each_trial(
            lambda state, seed, item: self._train_trial(state, seed, steps, arrays, item), states, seeds, items
        )

    def _logits(self, state: State, images: jax.Array):
        variables = {"params": state["params"], "batch_stats": state["batch_stats"]}
        return self.model.apply(variables, self._prepare(images), train=False)

    def _evaluate_body(self, states, arrays, item, mask):
        images, labels, _ = self.feed.fetch(arrays, item)

        def sums(state):
            logits, _ = self._logits(state, images)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            correct = (logits.argmax(-1) == labels) & mask
            return {"loss": jnp.where(mask, losses, 0).sum(), "correct": correct.sum(), "count": mask.sum()}

        return self._each_trial(sums, states)

    def _embed_body(self, state, arrays, item):
        images, _, _ = self.feed.fetch(arrays, item)
        return self._logits(state, self._over_data(images))[1]

    def put_items(self, items):
        """Training items `[T, K, B, ...]` onto the mesh."""
        return put(self.mesh, P("trial", None, "data"), items)

    def train(self, states: State, seeds: np.ndarray, steps: int, items) -> tuple[State, dict]:
        """Runs one dispatch; `states` is consumed. Metrics are device arrays `[T, K]`, not waited for."""
        with jax.set_mesh(self.mesh):
            return self._train(states, seeds, np.float32(steps), self.feed.arrays["train"], items)

    def evaluate(self, states: State) -> tuple[np.ndarray, np.ndarray]:
        """Correct answers int64 `[T]` and mean loss float64 `[T]` on the whole test set.

        The last batch is padded and masked, and sums are taken, so every test image counts once.
        """
        positions = self.dataset.test.positions
        batches = []
        with jax.set_mesh(self.mesh):
            for item, mask in self.feed.once("test", positions, self._eval_batch_size):
                item, mask = put(self.mesh, P("data"), (item, mask))
                batches.append(self._evaluate(states, self.feed.arrays["test"], item, mask))
        sums = jax.tree.map(
            lambda *leaves: np.sum(np.stack(leaves), axis=0, dtype=np.float64), *jax.device_get(batches)
        )
        if not np.all(sums["count"] == len(positions)):
            raise AssertionError(f"evaluation saw {sums['count']} test images, not {len(positions)}")
        return sums["correct"].astype(np.int64), sums["loss"] / len(positions)

    def embed(self, state: State, positions: np.ndarray):
        """Pooled layers of training images, not augmented, in the order of `positions`.

        Args:
          state: one trial's state.
          positions: int64 `[n]`, ascending.

        Yields:
          dict layer -> float32 `[b, D]`, for consecutive batches of positions.
        """
        state = put(self.mesh, P(), {name: state[name] for name in ("params", "batch_stats")})
        with jax.set_mesh(self.mesh):
            for item, mask in self.feed.once("train", positions, self._eval_batch_size):
                layers = self._embed(state, self.feed.arrays["train"], put(self.mesh, P("data"), item))
                yield {name: np.asarray(layer)[mask] for name, layer in layers.items()}
