"""Chooses the tile size of each kernel: as measured on an H100, or by a rule of the sizes.

`python -m benchmarks.packed` measures on this machine's card and writes a file to the user's cache folder, which takes
precedence. Another tile size sums in another order, so results differ by rounding.
"""

import dataclasses
import functools
import json
import os
import re

import jax

from redundancy import storage
from redundancy.models.gpu.cards import Card
from redundancy.models.gpu.shape import Shape
from redundancy.storage.cache_folder import cache_folder

KINDS = ("forward", "input_gradient", "kernel_gradient")
_MOST_CHANNELS = 128  # beyond, XLA's grouped convolutions are used unless a measurement says otherwise


@dataclasses.dataclass(frozen=True)
class Tile:
    """How one kernel is divided; see kernels.py.

    Attributes:
      pixels, rows, columns: size of a tile.
      warps: warps of a program.
      stages: tiles that are loaded ahead; 0 unrolls the loop over rows.
      shares: largest number of shares of the pixels that are summed separately; only for the gradient of the kernel.
      lines: pixels below each other that are computed together.
    """

    pixels: int
    rows: int
    columns: int
    warps: int = 4
    stages: int = 3
    shares: int = 0
    lines: int = 1


# Fastest (pixels, warps[, shares]) by (channels, features, taps, stride), bfloat16, for 8 trials of 128 images of CIFAR's size
# on an H100. Measured with a prototype whose rows were those of one tap (2026-11-27, docs/performance.md).
_MEASURED = {
    "forward": {
        (3, 16, 3, 1): (256, 4),
        (16, 16, 3, 1): (128, 2),
        (16, 32, 3, 2): (512, 8),
        (16, 32, 1, 2): (128, 2),
        (32, 32, 3, 1): (256, 4),
        (32, 64, 3, 2): (128, 8),
        (32, 64, 1, 2): (64, 4),
        (64, 64, 3, 1): (128, 8),
    },
    "input_gradient": {
        (16, 16, 3, 1): (128, 2),
        (16, 32, 3, 2): (128, 4),
        (16, 32, 1, 2): (128, 4),
        (32, 32, 3, 1): (128, 8),
        (32, 64, 3, 2): (256, 4),
        (32, 64, 1, 2): (64, 2),
        (64, 64, 3, 1): (128, 8),  # (256, 4) was a tenth faster, but spills registers
    },
    "kernel_gradient": {
        (3, 16, 3, 1): (64, 4, 128),
        (16, 16, 3, 1): (64, 4, 32),
        (16, 32, 3, 2): (64, 4, 16),
        (16, 32, 1, 2): (64, 4, 64),
        (32, 32, 3, 1): (64, 4, 16),
        (32, 64, 3, 2): (64, 4, 16),
        (32, 64, 1, 2): (64, 4, 32),
        (64, 64, 3, 1): (64, 4, 16),
    },
}


def power(number: int, least: int, most: int) -> int:
    """The smallest power of two that is at least `number`, limited to `least` … `most`."""
    return max(least, min(most, 1 << (number - 1).bit_length()))


def usual(kind: str, shape: Shape, wide: bool, capability: int) -> Tile:
    """The tile from the table above, or by a rule of the sizes.

    Args:
      kind: one of KINDS.
      shape: shape of the convolution.
      wide: whether the type is float32, which tensor cores do not multiply.
      capability: compute capability of the card; the table is for an H100, 90.
    """
    summed, result = (shape.channels, shape.features)[:: -1 if kind == "input_gradient" else 1]
    weights = shape.taps**2 * shape.channels
    known = {} if wide or capability != 90 else _MEASURED[kind]
    measured = known.get((shape.channels, shape.features, shape.taps, shape.stride))
    columns = power(result, 16, 32 if wide else 64)
    if kind == "kernel_gradient":
        pixels, warps, shares = measured or (32 if wide else 64, 4, 32)
        return Tile(pixels, power(weights, 16, 32 if wide else 64), columns, warps, 3, shares)
    pixels, warps = measured or (64 if wide else 128, 8 if columns == 64 else 4)
    most = 16 if wide else 64
    rows = next((rows for rows in (64, 32, 16) if rows <= most and summed % rows == 0), 0)
    rows = rows or power(shape.taps**2 * summed, 16, min(most, 32))
    steps = -(-(shape.taps**2) * summed // rows)
    return Tile(pixels, rows, columns, warps, 3 if wide or steps > 9 else 0)


def served(kind: str, shape: Shape, wide: bool, card: Card) -> Tile | None:
    """The tile of a kernel on a card; None if XLA must compute the convolution."""
    found = chosen(card.kind).get("tiles", {}).get(key(kind, shape, wide), {})
    if found:
        return Tile(**found["tile"]) if found["tile"] else None
    return usual(kind, shape, wide, card.capability) if max(shape.channels, shape.features) <= _MOST_CHANNELS else None


def key(kind: str, shape: Shape, wide: bool) -> str:
    """The key in the file of choices: the name of a kernel and the sizes that its tile depends on."""
    sizes = (shape.height, shape.width, shape.channels, shape.features, shape.taps, shape.stride)
    return f"{kind} {'float32' if wide else 'bfloat16'} {'x'.join(map(str, sizes))}"


def path(card: str) -> str | None:
    """The file with the measurements on such a card; None if the user has no cache folder."""
    folder = cache_folder()
    return folder and os.path.join(folder, "packed", re.sub(r"\W+", "-", card) + ".json")


@functools.cache
def chosen(card: str) -> dict:
    """What `benchmarks.packed` wrote for such a card; empty if it wrote nothing, or if several processes must choose alike.

    form: "packed" or "xla", whichever has the faster step. tiles: `key` -> tile, or null where XLA was faster.
    """
    file = path(card) if jax.process_count() == 1 else None
    try:
        return json.loads(storage.read_bytes(file)) if file and os.path.exists(file) else {}
    except (OSError, ValueError):
        return {}
