"""Images generated from their positions, so fast that input is never the bottleneck: shows whether a training is input-bound.

dataset="generated" has ImageNet's numbers of classes and images, "generated:CLASSES:TRAIN:TEST" any others. Never imports
TensorFlow.
"""

import numpy as np

from redundancy.data import splits
from redundancy.data.dataset import Dataset, final_shape
from redundancy.data.inputs import shown
from redundancy.runtime.errors import ConfigError

_IMAGENET = (1000, 1_281_167, 50_000)
_OFFSETS = 1 << 22
_DIGITS = 9


class GeneratedDataset(Dataset):
    """Noise images: image p is copied from a place in one random buffer that depends on p and the split."""

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        size = _OFFSETS + int(np.prod(self.image_shape))
        self._buffer = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)

    def _read(self, part, positions):
        images = np.empty((len(positions), *self.image_shape), np.uint8)
        flat = images.reshape(len(positions), -1)
        # The factor is odd, so that positions below 2^22 have different places.
        offsets = (positions * 2_654_435_761 + (part.name == "test") * 1_000_003) % _OFFSETS
        for row, offset in zip(flat, offsets.tolist(), strict=True):
            row[:] = self._buffer[offset : offset + flat.shape[1]]
        return images

    def _read_crops(self, part, positions, crop, draws):
        # A crop of noise is noise.
        return self._read(part, positions)


def open_generated(config) -> GeneratedDataset:
    """Opens config.dataset, "generated" or "generated:CLASSES:TRAIN:TEST"; labels are position % CLASSES.

    Raises:
      ConfigError: not three positive numbers, fewer training images than classes, or no image_size.
    """
    classes, *counts = _numbers(config.dataset)
    shape = final_shape(config.dataset, (None, None, 3), config.image_size, "they have none of their own")
    labels = {name: np.arange(count) % classes for name, count in zip(("train", "test"), counts, strict=True)}
    names = splits.choose(config.train_split, config.test_split, tuple(labels))
    class_names = tuple(map(str, range(classes)))
    parts = splits.make(config.dataset, class_names, labels, *names, config.holdout)
    fingerprint = {"name": ":".join(map(str, ("generated", classes, *counts)))}
    return GeneratedDataset(
        config,
        name="generated",
        class_names=class_names,
        image_shape=shape,
        fingerprint=fingerprint | splits.fingerprint(parts, config.holdout),
        splits=parts,
    )


def _numbers(name: str) -> tuple[int, int, int]:
    if name == "generated":
        return _IMAGENET
    parts = name.split(":")[1:]
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) <= _DIGITS]
    if len(parts) != 3 or len(numbers) != 3 or min(numbers) < 1 or numbers[1] < numbers[0]:
        raise ConfigError(
            f"config.dataset is '{shown(name)}'; wanted 'generated', or 'generated:CLASSES:TRAIN:TEST' with three numbers from "
            f"1 on, of at most {_DIGITS} digits, TRAIN at least CLASSES, for example 'generated:10:5000:1000'."
        )
    return tuple(numbers)
