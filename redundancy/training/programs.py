"""The device programs of training, evaluation and embedding, for packs of trials on one mesh.

`shard_map` over "trial" keeps trials independent: no collective crosses that axis. Within a trial, the batch is spread over
"data". Programs depend only on arrays and can be compiled from their shapes alone; preflight does so without data and
devices.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from redundancy.data.augmentation import augment, normalize
from redundancy.models import make_model
from redundancy.models.flops import uses_xla_convolutions
from redundancy.training import tally as tally_lib
from redundancy.training.feed import fetch
from redundancy.training.learning_rate import learning_rate, peak_learning_rate
from redundancy.training.micro_batches import mean_value_and_grad
from redundancy.training.optimizer import make_optimizer

_GRADIENT_BYTES = 256 << 20

# params, batch_stats, opt_state, step, and tally if there is one; with a leading trial axis in a pack.
State = dict[str, Any]


def clean_scores(logits: jax.Array, labels: jax.Array, pooled: jax.Array) -> dict[str, jax.Array]:
    """Scores of single predictions: logits [B, C], labels int32 [B] and the last layer's input [B, D], to float32 [B] each.

    el2n is the norm of the error p - y (Paul et al. 2021). grand_last is the norm of the loss's gradient with respect to the
    last layer's weights and biases, |p - y| sqrt(|h|^2 + 1). entropy is in nats; least_confidence is 1 - max p; no_margin is
    one minus the difference of the two greatest p.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    p = jnp.exp(log_p)
    el2n = jnp.linalg.norm(p - jax.nn.one_hot(labels, p.shape[1]), axis=1)
    greatest = jax.lax.top_k(p, 2)[0]
    unsure = -jnp.expm1(jnp.max(log_p, axis=1))  # computed as 1 - p, it would round to 0 for confident predictions
    return {
        "el2n": el2n,
        "grand_last": el2n * jnp.sqrt(jnp.sum(pooled.astype(jnp.float32) ** 2, axis=1) + 1),
        "entropy": -jnp.sum(p * log_p, axis=1),
        "least_confidence": unsure,
        "no_margin": unsure + greatest[:, 1],
    }


class Programs:
    """Programs for one config, image shape, number of classes and mesh; compiled at first use.

    Args:
      config: resolved config.
      image_shape: (height, width, channels).
      num_classes: outputs of the classifier.
      mesh: ("trial", "data"); its devices may be those of a topology that this machine does not have.
      resident: whether devices hold the images, rather than items.
      vmap: whether a device's trials are batched into one network, rather than run one after the other.
      tallied: number of stored images for which the training keeps a tally, see tally.py; 0 for none.

    Attributes:
      block: steps in one dispatch.
      eval_batch_size: images of one evaluation or embedding dispatch, a multiple of the data axis.
    """

    def __init__(
        self,
        config,
        image_shape: tuple[int, int, int],
        num_classes: int,
        mesh: Mesh,
        resident: bool,
        vmap: bool = False,
        tallied: int = 0,
    ):
        self.tallied = tallied
        self.config, self.image_shape, self.num_classes = config, image_shape, num_classes
        self.mesh, self.resident = mesh, resident
        device = mesh.devices.flat[0]
        platform = device.platform
        self.model = make_model(config, num_classes, platform, device, batched=vmap)
        self._optimizer = make_optimizer(config)
        # XLA's CPU convolutions are slow inside a while loop, where they do not use several threads (measured about 10
        # times slower for 8 x 8 images, 30 times for 32 x 32). So loops over steps and trials are unrolled with them.
        self.unroll = platform == "cpu" and uses_xla_convolutions(self.model, image_shape)
        self.vmap = vmap
        # A streamed dispatch holds all its images at once, on the host and on the device. On CPU a single step is long enough.
        self.block = config.steps_per_dispatch or (1 if platform == "cpu" or not resident else 50)
        self.eval_batch_size = -(-config.eval_batch_size // mesh.shape["data"]) * mesh.shape["data"]

        trial, shared = P("trial"), P()
        self.train = jax.jit(
            self._shard_map(self._train_body, (trial, trial, shared, shared, trial), (trial, trial)), donate_argnums=0
        )
        self.evaluate = jax.jit(self._shard_map(self._evaluate_body, (trial, shared, shared, shared), trial))
        self.embed = jax.jit(self._embed_body)
        self.score = jax.jit(self._shard_map(self._score_body, (trial, shared, shared), trial))
        self.gradient_norm = jax.jit(self._shard_map(self._gradient_norm_body, (trial, shared, shared), trial))
        self.init = jax.jit(self._init)

    @functools.cached_property
    def gradient_batch_size(self) -> int:
        """Images of one dispatch of `gradient_norm`: per device, as many as have 256 MiB of gradients, and at most 64."""
        parameters = jax.eval_shape(self._init, jax.ShapeDtypeStruct((), jnp.uint32))["params"]
        of_image = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters))
        return max(1, min(64, _GRADIENT_BYTES // of_image)) * self.mesh.shape["data"]

    def _shard_map(self, body, in_specs, out_specs):
        return jax.shard_map(
            body, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, axis_names={"trial"}, check_vma=False
        )

    def _over_data(self, x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, P("data"))

    def _init(self, seed: jax.Array) -> State:
        """State of one trial before its first step, a pure function of config.seed and `seed` (uint32)."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.config.seed), seed), 0)
        variables = self.model.init(key, jnp.zeros((1, *self.image_shape), jnp.float32), train=False)
        params = variables["params"]
        state = {
            "params": params,
            "batch_stats": variables["batch_stats"],
            "opt_state": self._optimizer.init(params),
            "step": jnp.zeros((), jnp.int32),
        }
        if self.tallied:
            state["tally"] = tally_lib.start(self.tallied, self.config.score_window)
        return state

    def _prepare(self, images: jax.Array) -> jax.Array:
        return self._over_data(normalize(images, self.config.mean, self.config.std, jnp.dtype(self.config.dtype)))

    def _losses(self, logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
        if not smoothing:
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, self.num_classes), smoothing)
        return optax.softmax_cross_entropy(logits, targets)

    def _step(self, state: State, seed: jax.Array, schedule: dict, arrays, item) -> tuple[State, dict]:
        """One step of one trial."""
        config = self.config
        images, labels, positions = fetch(arrays, item)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), seed), 1)
        key = jax.random.fold_in(key, state["step"])
        images = augment(self._over_data(images), key, positions, config.augmentation, config.pad)

        shards = self.mesh.shape["data"]
        parts = config.batch_size // shards // config.micro_batch if config.micro_batch else 1

        def loss_of(params, images, labels, rows):
            (logits, _), updated = self.model.apply(
                {"params": params, "batch_stats": state["batch_stats"]},
                self._prepare(images),
                train=True,
                mutable=["batch_stats"],
            )
            loss = self._losses(logits, labels, config.label_smoothing).mean()
            answers = {}
            if self.tallied:  # aux is the mean over the parts, and each part has only the answers of its own images
                answers = (
                    jnp.zeros((config.batch_size, self.num_classes)).at[rows].set(logits.astype(jnp.float32)) * parts
                )
            return loss, (updated["batch_stats"], (logits.argmax(-1) == labels).mean(), answers)

        (loss, (batch_stats, accuracy, answers)), grads = mean_value_and_grad(
            loss_of, state["params"], (images, labels, jnp.arange(len(labels))), parts, shards, self.unroll
        )
        direction, opt_state = self._optimizer.update(grads, state["opt_state"], state["params"])
        rate = learning_rate(state["step"], schedule["steps"], peak_learning_rate(config), schedule["warmup_steps"])
        params = jax.tree.map(lambda p, d: p - rate * d, state["params"], direction)
        new = {
            "params": params,
            "batch_stats": batch_stats,
            "opt_state": opt_state,
            "step": state["step"] + 1,
        }
        if self.tallied:
            new["tally"] = tally_lib.update(state["tally"], positions, labels, answers)
        return new, {"loss": loss, "accuracy": accuracy, "learning_rate": rate}

    def _train_trial(self, state: State, seed: jax.Array, schedule: dict, arrays, items) -> tuple[State, dict]:
        """The steps of one dispatch for one trial; items `[K, ...]`, metrics `[K]`."""

        def body(state, item):
            return self._step(state, seed, schedule, arrays, item)

        if not self.unroll:
            return jax.lax.scan(body, state, items)
        metrics = []
        for step in range(items["position"].shape[0]):
            state, values = body(state, jax.tree.map(lambda leaf, step=step: leaf[step], items))
            metrics.append(values)
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *metrics)

    def _each_trial(self, function, *stacked):
        """Calls `function` for each of this device's trials and stacks the results."""
        count = jax.tree.leaves(stacked[0])[0].shape[0]
        if count > 1 and self.vmap:
            return jax.vmap(function)(*stacked)
        if count > 1 and not self.unroll:
            return jax.lax.map(lambda args: function(*args), stacked)
        results = []
        for trial in range(count):
            args = jax.tree.map(lambda leaf, trial=trial: leaf[trial], stacked)
            results.append(function(*args))
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    def _train_body(self, states, seeds, schedule, arrays, items):
        return self._each_trial(
            lambda state, seed, item: self._train_trial(state, seed, schedule, arrays, item), states, seeds, items
        )

    def _logits(self, state: State, images: jax.Array):
        variables = {"params": state["params"], "batch_stats": state["batch_stats"]}
        return self.model.apply(variables, self._prepare(images), train=False)

    def _evaluate_body(self, states, arrays, item, mask):
        images, labels, _ = fetch(arrays, item)

        def sums(state):
            logits, _ = self._logits(state, images)
            losses = self._losses(logits, labels, 0.0)
            correct = (logits.argmax(-1) == labels) & mask
            return {"loss": jnp.where(mask, losses, 0).sum(), "correct": correct.sum(), "count": mask.sum()}

        return self._each_trial(sums, states)

    def _score_body(self, states, arrays, item):
        """Scores of single images in eval mode, without augmentation: name -> float32 [T, B]."""
        images, labels, _ = fetch(arrays, item)

        def of_trial(state):
            logits, layers = self._logits(state, images)
            return clean_scores(logits, labels, layers["end"])

        return self._each_trial(of_trial, states)

    def _gradient_norm_body(self, states, arrays, item):
        """Norm of the gradient of each single image's loss with respect to all parameters, in eval mode: float32 [T, B]."""
        images, labels, _ = fetch(arrays, item)

        def of_trial(state):
            def square(image, label):
                def loss(params):
                    logits, _ = self._logits({**state, "params": params}, image[None])
                    return self._losses(logits.astype(jnp.float32), label[None], 0.0).sum()

                return sum(
                    jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(jax.grad(loss)(state["params"]))
                )

            return jnp.sqrt(jax.vmap(square)(images, labels))

        return self._each_trial(of_trial, states)

    def _embed_body(self, state, arrays, item):
        images, _, _ = fetch(arrays, item)
        return self._logits(state, self._over_data(images))[1]

    def _abstract(self, spec: P, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(self.mesh, spec))

    def _abstract_state(self, spec: P, lead: tuple[int, ...]) -> State:
        state = jax.eval_shape(self._init, jax.ShapeDtypeStruct((), jnp.uint32))
        return jax.tree.map(lambda leaf: self._abstract(spec, lead + leaf.shape, leaf.dtype), state)

    def _abstract_input(self, spec: P, lead: tuple[int, ...], num_images: int) -> tuple[dict, dict]:
        """Shapes of the arrays and items that feed.py provides."""
        item = {"position": self._abstract(spec, lead, jnp.int32)}
        if not self.resident:
            image = self._abstract(P(*spec), (*lead, *self.image_shape), jnp.uint8)
            return {}, {**item, "image": image, "label": self._abstract(spec, lead, jnp.int32)}
        arrays = {
            "image": self._abstract(P(), (num_images, *self.image_shape), jnp.uint8),
            "label": self._abstract(P(), (num_images,), jnp.int32),
        }
        return arrays, {**item, "row": self._abstract(spec, lead, jnp.int32)}

    def train_arguments(self, trials: int, block: int | None = None, num_images: int = 0) -> tuple:
        """Shapes and shardings of the arguments of `train`, for `train.lower(*train_arguments(1))`.

        Args:
          trials: trials of the pack, a multiple of the mesh's axis "trial".
          block: steps in the dispatch.
          num_images: training images of a resident set.
        """
        lead = (trials, block or self.block, self.config.batch_size)
        arrays, items = self._abstract_input(P("trial", None, "data"), lead, num_images)
        schedule = {name: self._abstract(P(), (), np.float32) for name in ("steps", "warmup_steps")}
        seeds = self._abstract(P("trial"), (trials,), np.uint32)
        return self._abstract_state(P("trial"), (trials,)), seeds, schedule, arrays, items

    def embed_arguments(self, num_images: int = 0) -> tuple:
        """Shapes and shardings of the arguments of `embed`."""
        state = self._abstract_state(P(), ())
        state = {name: state[name] for name in ("params", "batch_stats")}
        return state, *self._abstract_input(P("data"), (self.eval_batch_size,), num_images)
