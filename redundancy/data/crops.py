"""Chooses the part of an image to cut out: a random part for training (as for Inception), the centre for everything else.

Pure NumPy: positions and image sizes in, windows out. A random crop depends only on (seed, epoch, position), not on the batch,
the process or the reader.
"""

import dataclasses

import numpy as np

from redundancy.data import order

TRIES = 10
# Separates these random numbers from those of the batch order, which has the same (seed, epoch).
_STREAM = 0x0C20_9001


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, resized to the wanted square ("Going deeper with convolutions", section 6).

    Each of ten tries draws a share of the image's area, uniform in `area`, and an aspect ratio, log-uniform in `aspect`. The
    first rectangle that fits is taken, at a uniformly drawn place. If none fits, it is the largest part around the centre
    with an allowed aspect ratio.
    """

    area: tuple[float, float] = (0.08, 1.0)  # least and greatest share of the image's area, above 0 and up to 1
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # least and greatest width / height, above 0

    def draws(self, seed: tuple[int, ...], epochs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The random part of each crop, drawn before the image's size is known.

        Args:
          seed: non-negative numbers.
          epochs: int [n], or one number for all.
          positions: int64 [n].

        Returns:
          float64 [n, TRIES, 4]: height and width as shares of sqrt(image height * image width); vertical and horizontal place
          of the crop, from 0 at the top (left) edge to 1 at the bottom (right) edge.
        """
        epochs = np.broadcast_to(epochs, np.shape(positions))
        uniform = np.empty((len(positions), TRIES, 4))
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            uniform[rows] = _uniform(seed, int(epoch), positions[rows], TRIES * 4).reshape(-1, TRIES, 4)
        low, high = self.area
        area = low + (high - low) * uniform[..., 0]
        low, high = np.log(self.aspect)
        aspect = np.exp(low + (high - low) * uniform[..., 1])
        return np.stack([np.sqrt(area / aspect), np.sqrt(area * aspect), uniform[..., 2], uniform[..., 3]], axis=-1)

    def windows(self, draws: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """The windows that result from `draws` in images of these sizes.

        Args:
          draws: float64 [n, TRIES, 4], from the method `draws`.
          heights, widths: int [n], pixels.

        Returns:
          int64 [n, 4]: top, left, height, width.
        """
        sizes = np.stack([heights, widths], axis=-1).astype(np.float64)
        tried = np.rint(draws[..., :2] * np.sqrt(sizes.prod(axis=-1))[:, None, None])
        fits = ((tried >= 1) & (tried <= sizes[:, None])).all(axis=-1)
        first = fits.argmax(axis=-1)
        rows = np.arange(len(draws))
        sides = tried[rows, first]
        corners = np.floor(draws[rows, first, 2:] * (sizes - sides + 1))
        centred_sides = np.minimum(sizes, np.maximum(1, np.rint(sizes[:, ::-1] * [1 / self.aspect[0], self.aspect[1]])))
        centred = np.concatenate([np.floor((sizes - centred_sides) / 2), centred_sides], axis=-1)
        found = np.where(fits.any(axis=-1)[:, None], np.concatenate([corners, sides], axis=-1), centred)
        return found.astype(np.int64)


def centre_box(height: int, width: int, share: float) -> tuple[float, float, float, float]:
    """The centre square with `share` of the shorter side: top, left, height, width in pixels, not necessarily integers."""
    side = share * min(height, width)
    return (height - side) / 2, (width - side) / 2, side, side


def _uniform(seed: tuple[int, ...], epoch: int, positions: np.ndarray, count: int) -> np.ndarray:
    """float64 [n, count] in [0, 1), a pure function of (seed, epoch, position)."""
    keys = order.seed_sequence((_STREAM, *seed), epoch).generate_state(2, np.uint64)
    # Vectorised SplitMix64, since a generator per position would take longer than the crop.
    with np.errstate(over="ignore"):
        starts = keys[0] ^ _mix(positions.astype(np.uint64) + keys[1])
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)
        bits = _mix(starts[:, None] + steps)
    return (bits >> np.uint64(11)) * 2.0**-53


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return bits ^ (bits >> np.uint64(31))
