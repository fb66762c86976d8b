"""Fields of a config about the data set and its images."""

import functools

from redundancy.config.field import Affects, Field, all_between, between, one_of
from redundancy.runtime.errors import ConfigError

AUGMENTATIONS = ("none", "flip", "crop", "crop_flip", "resized_crop", "resized_crop_flip")
BAD_IMAGES = ("stop", "skip")

_field = functools.partial(Field, "Data")

FIELDS: dict[str, Field] = {
    "dataset": _field(
        "digits",
        "TFDS name (builder, builder/config, builder:version), folder of images, or .npz file; '' is none: link and "
        "select alone, on imported embeddings. The same set may lie elsewhere for a later stage",
        affects=Affects.IDENTITY | Affects.HOW,
        is_path=True,
    ),
    "data_dir": _field(
        "", "where TFDS keeps prepared data sets; '' is TFDS's own default", affects=Affects.NOTHING, is_path=True
    ),
    "train_split": _field("train", "split that is trained on and pruned", "a split's name", bool),
    "test_split": _field(
        "auto",
        "split that accuracy is measured on; 'auto' is test, else validation or val, else held out; '' holds out. Of a folder "
        "of images 'auto' takes other usual names too, such as Testing or valid, and passes over a split without labels",
    ),
    "holdout": _field(
        0.2,
        "share of each class of the train split held out for measuring where there is no test split",
        "a number above 0 and below 1",
        lambda value: 0 < value < 1,
    ),
    "image_size": _field(
        0,
        "side in pixels that images are resized and cropped to; 0 keeps them as stored",
        **between(0, 16_384),
    ),
    "resident_mb": _field(
        2048,
        "MB of decoded images up to which a set lives on the device; above it streams",
        **between(0),
        affects=Affects.HOW,
    ),
    "bad_images": _field(
        "stop",
        "what becomes of files of a folder of images that cannot be decoded, are of a kind that is not read, or lie outside of "
        "the class folders: 'stop' names them in one error; 'skip' leaves them out, before positions are given, and lists them",
        **one_of(BAD_IMAGES),
        affects=Affects.NOTHING,
    ),
    "mean": _field((0.5,), "mean of pixel / 255, one or one per channel", **all_between(-1000, 1000)),
    "std": _field((0.25,), "standard deviation of pixel / 255, one or one per channel", **all_between(0.0001, 1000)),
    "augmentation": _field(
        "crop_flip",
        "random change of each training image; resized_crop is Inception's crop of any size and aspect",
        **one_of(AUGMENTATIONS),
    ),
    "pad": _field(4, "pixels of zero padding before the random crop", **between(0, 4096)),
    "crop_area": _field(
        (0.08, 1.0),
        "least and greatest share of the image's area that a resized_crop takes",
        "two numbers above 0 and up to 1, the second not below the first",
        lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= 1,
        float,
    ),
    "crop_aspect": _field(
        (3 / 4, 4 / 3),
        "least and greatest width by height of a resized_crop",
        "two numbers from 0.1 to 10, the second not below the first",
        lambda value: len(value) == 2 and 0.1 <= value[0] <= value[1] <= 10,
        float,
    ),
    "eval_crop": _field(
        1.0,
        "image_size by the side that an image's shorter side is resized to before its centre is cut out, unless a "
        "resized_crop is; 0.875 is 224 of 256",
        "a number from 0.1 to 1",
        lambda value: 0.1 <= value <= 1,
    ),
}


def check(config) -> None:
    """Raises ConfigError if fields do not suit each other."""
    if "resized_crop" in config.augmentation and not config.image_size:
        raise ConfigError(
            f"config.augmentation is {config.augmentation!r}, but config.image_size is 0; set the side in pixels that "
            "crops are resized to, for example --config.image_size=224."
        )
    for name in ("mean", "std"):
        if len(config[name]) not in (1, 3):
            raise ConfigError(f"config.{name} has {len(config[name])} numbers; wanted: one for all channels or three.")
