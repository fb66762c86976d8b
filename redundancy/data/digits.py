"""TFDS builder for the handwritten digits that come with scikit-learn: 1,797 images, no download."""

import numpy as np
import sklearn.datasets

from redundancy.data.tfds.quiet import tfds

# The images are sorted by writer, so the last ones are partly by other people than the first ones.
TRAIN_IMAGES = 1347


class Digits(tfds.core.GeneratorBasedBuilder):
    """Optical recognition of handwritten digits (UCI test part): train 1,347 images, test 450, uint8 [8, 8, 1]."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "As bundled with scikit-learn."}  # noqa: RUF012 (TFDS's own way)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The 1,797 handwritten digits of scikit-learn's load_digits, 0..16 scaled to 0..255.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80/",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        digits = sklearn.datasets.load_digits()
        images = np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None]
        return {
            "train": self._generate_examples(images[:TRAIN_IMAGES], digits.target[:TRAIN_IMAGES]),
            "test": self._generate_examples(images[TRAIN_IMAGES:], digits.target[TRAIN_IMAGES:]),
        }

    def _generate_examples(self, images, labels):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image, "label": int(label)}
