"""Statistics that a training keeps for every image, updated by each batch that contains the image.

The predictions are those of the training step itself: augmented images, BatchNorm in training mode.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

Tally = dict[str, jax.Array]

NAMES = ("forgetting", "aum", "dyn_unc", "dual")


def start(num_stored: int, window: int) -> Tally:
    """The tally before the first step, for positions 0…num_stored-1 and windows of `window` presentations."""
    counts, sums = jnp.zeros(num_stored, jnp.int32), jnp.zeros(num_stored, jnp.float32)
    return {
        "seen": counts, "forgotten": counts, "right": counts > 0, "ever_right": counts > 0,
        "margin": sums, "deviation": sums, "dual": sums,
        "recent": jnp.zeros((num_stored, window), jnp.float32),
    }  # fmt: skip


def _last_of_each(positions: jax.Array) -> jax.Array:
    """Marks the last occurrence of each of the positions [B] in the batch: a batch across two epochs may repeat some."""
    order = jnp.argsort(positions)  # stable
    again = jnp.append(positions[order][1:] == positions[order][:-1], False)
    return jnp.zeros(len(positions), bool).at[order].set(~again)


def update(tally: Tally, positions: jax.Array, labels: jax.Array, logits: jax.Array) -> Tally:
    """The tally after a batch: positions and labels int32 [B], logits [B, C]. A repeated image counts once."""
    logits = logits.astype(jnp.float32)
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
    of_label = jnp.sum(jnp.where(own, logits, 0), axis=1)
    margin = of_label - jnp.max(jnp.where(own, -jnp.inf, logits), axis=1)
    right, probability = jnp.argmax(logits, axis=1) == labels, jnp.exp(of_label - jax.nn.logsumexp(logits, axis=1))

    seen, window = tally["seen"][positions], tally["recent"].shape[1]
    place = jax.nn.one_hot(seen % window, window, dtype=bool)
    recent = jnp.where(place, probability[:, None], tally["recent"][positions])
    whole = seen + 1 >= window
    deviation, mean = jnp.std(recent, axis=1, ddof=1), recent.mean(axis=1)

    # JAX drops updates at positions beyond the end.
    rows = jnp.where(_last_of_each(positions), positions, len(tally["seen"]))

    def add(name, values):
        return tally[name].at[rows].add(values, mode="drop")

    return {
        "seen": add("seen", 1),
        "forgotten": add("forgotten", tally["right"][positions] & ~right),
        "right": tally["right"].at[rows].set(right, mode="drop"),
        "ever_right": tally["ever_right"].at[rows].max(right, mode="drop"),
        "margin": add("margin", margin),
        "deviation": add("deviation", jnp.where(whole, deviation, 0)),
        "dual": add("dual", jnp.where(whole, deviation * (1 - mean), 0)),
        "recent": tally["recent"].at[rows].set(recent, mode="drop"),
    }


def scores(tally: Mapping[str, np.ndarray], positions: np.ndarray) -> dict[str, np.ndarray]:
    """The scores of one network: its tally on the host, and positions [n], to name -> float64 [n].

    forgetting counts how often a right answer became wrong; an image that was never right has the number of its presentations,
    more than any other (Toneva et al. 2019). aum is the mean margin of the logits (Pleiss et al. 2020). dyn_unc is the mean over
    windows of the standard deviation of the label's probability (He et al. 2024); dual is the mean of this deviation times one
    minus the window's mean (Cho et al. 2025). A training shorter than a window counts as one window.

    Raises:
      ValueError: an image was never seen.
    """
    of = {name: np.asarray(values)[positions] for name, values in tally.items()}
    seen, window = of["seen"], of["recent"].shape[1]
    if not seen.all():
        raise ValueError(f"{np.count_nonzero(seen == 0)} of {len(seen)} images")
    windows = np.maximum(seen - window + 1, 1)
    deviation, dual = of["deviation"].astype(np.float64), of["dual"].astype(np.float64)
    for count in np.unique(seen[seen < window]).tolist():
        rows = np.flatnonzero(seen == count)
        recent = of["recent"][rows, :count].astype(np.float64)
        deviation[rows] = recent.std(axis=1, ddof=1) if count > 1 else 0
        dual[rows] = deviation[rows] * (1 - recent.mean(axis=1))
    return {
        "forgetting": np.where(of["ever_right"], of["forgotten"], seen).astype(np.float64),
        "aum": of["margin"].astype(np.float64) / seen,
        "dyn_unc": deviation / windows,
        "dual": dual / windows,
    }
