"""Images made up from their positions, so cheaply that they never limit: tells input-bound from compute-bound.

dataset="generated" has ImageNet's numbers, "generated:CLASSES:TRAIN:TEST" any others. Never imports TensorFlow.
"""

import numpy as np

from redundancy.data import splits
from redundancy.data.dataset import Dataset
from redundancy.data.inputs import shown
from redundancy.runtime.errors import ConfigError

_IMAGENET = (1000, 1_281_167, 50_000)
_OFFSETS = 1 << 22
_DIGITS = 9


class GeneratedDataset(Dataset):
    """Noise: image p is a piece of one random buffer, copied from a place that depends on p and the split."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._buffer = np.random.default_rng(0).integers(
            0, 256, _OFFSETS + int(np.prod(self.image_shape)), dtype=np.uint8
        )

    def _read(self, part, positions):
        images = np.empty((len(positions), *self.image_shape), np.uint8)
        flat = images.reshape(len(positions), -1)
        # An odd factor: different places for different positions below 2^22.
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
      ConfigError: other numbers than three from 1 on, fewer training images than classes, or no image_size.
    """
    classes, train, test = _numbers(config.dataset)
    if not config.image_size:
        raise ConfigError(
            f"config.image_size is 0, but the images of {config.dataset!r} have no size of their own; set the side in "
            "pixels, for example --config.image_size=224."
        )
    stored = {"train": train, "test": test}
    names = splits.choose(config.train_split, config.test_split, tuple(stored))
    labels = {name: np.arange(stored[name]) % classes for name in names if name}
    class_names = tuple(map(str, range(classes)))
    held_out = names[1] is None
    parts = splits.make(
        config.dataset,
        class_names,
        (names[0], labels[names[0]]),
        None if held_out else (names[1], labels[names[1]]),
        config.holdout,
    )
    fingerprint = {
        "name": f"generated:{classes}:{train}:{test}",
        "split": names[0],
        "shard_lengths": [stored[names[0]]],
    }
    fingerprint |= (
        {"holdout": config.holdout} if held_out else {"test_split": names[1], "test_shard_lengths": [stored[names[1]]]}
    )
    return GeneratedDataset(
        name="generated",
        class_names=class_names,
        image_shape=(config.image_size, config.image_size, 3),
        fingerprint=fingerprint,
        splits=parts,
        resident_mb=config.resident_mb,
        augmentation=config.augmentation,
    )


def _numbers(name: str) -> tuple[int, int, int]:
    if name == "generated":
        return _IMAGENET
    parts = name.split(":")[1:]
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) <= _DIGITS]
    if len(parts) != 3 or len(numbers) != 3 or min(numbers) < 1 or numbers[1] < numbers[0]:
        raise ConfigError(
            f"config.dataset is '{shown(name)}'; wanted 'generated', or 'generated:CLASSES:TRAIN:TEST' with three numbers from 1 "
            f"on, of at most {_DIGITS} digits, and at least as many training images as classes, for example 'generated:10:5000:1000'."
        )
    return tuple(numbers)
