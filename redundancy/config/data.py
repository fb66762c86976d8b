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
        "TFDS name (builder, builder/config, builder:version), folder of images, or .npz file; '' for no data set: only link "
        "and select, on imported embeddings. The same set may be in another place for a later stage",
        affects=Affects.IDENTITY | Affects.HOW,
        is_path=True,
    ),
    "data_dir": _field(
        "", "folder of the data sets that TFDS prepares; '' is TFDS's default", affects=Affects.NOTHING, is_path=True
    ),
    "train_split": _field("train", "split for training, from which images are selected", "a split's name", bool),
    "test_split": _field(
        "auto",
        "split on which accuracy is measured; 'auto' is test, or else validation or val, or else held-out images; '' holds "
        "images out. In a folder of images, 'auto' also finds usual names such as Testing or valid, and skips splits without labels",
    ),
    "holdout": _field(
        0.2,
        "share of each class of the train split that is held out for measuring if there is no test split",
        "a number above 0 and below 1",
        lambda value: 0 < value < 1,
    ),
    "image_size": _field(
        0,
        "side, in pixels, to which images are resized and cropped; 0 keeps the stored size",
        **between(0, 16_384),
    ),
    "resident_mb": _field(
        2048,
        "MB of decoded images up to which the device holds the data set; a larger set is streamed",
        **between(0),
        affects=Affects.HOW,
    ),
    "bad_images": _field(
        "stop",
        "handling of files in a folder of images that cannot be decoded, have an unsupported format, or lie outside of the class "
        "folders: 'stop' raises one error that names them; 'skip' leaves them out, before positions are assigned, and lists them",
        **one_of(BAD_IMAGES),
        affects=Affects.NOTHING,
    ),
    "mean": _field((0.5,), "mean of pixel / 255, one number or one per channel", **all_between(-1000, 1000)),
    "std": _field((0.25,), "standard deviation of pixel / 255, as for mean", **all_between(0.0001, 1000)),
    "augmentation": _field(
        "crop_flip",
        "random augmentation of each training image; resized_crop is Inception's crop of random size and aspect ratio",
        **one_of(AUGMENTATIONS),
    ),
    "pad": _field(4, "pixels of zero padding before the random crop", **between(0, 4096)),
    "crop_area": _field(
        (0.08, 1.0),
        "smallest and largest share of the image's area in a resized_crop",
        "two numbers above 0 and up to 1, the second not below the first",
        lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= 1,
        float,
    ),
    "crop_aspect": _field(
        (3 / 4, 4 / 3),
        "smallest and largest aspect ratio, width / height, of a resized_crop",
        "two numbers from 0.1 to 10, the second not below the first",
        lambda value: len(value) == 2 and 0.1 <= value[0] <= value[1] <= 10,
        float,
    ),
    "eval_crop": _field(
        1.0,
        "side of the centre square, as a share of an image's shorter side, to which an image without resized_crop is cropped; "
        "0.875 is 224 of 256",
        "a number from 0.1 to 1",
        lambda value: 0.1 <= value <= 1,
    ),
}


def check(config) -> None:
    """Raises ConfigError for inconsistent fields."""
    if "resized_crop" in config.augmentation and not config.image_size:
        raise ConfigError(
            f"config.augmentation is {config.augmentation!r}, but config.image_size is 0; set the side in pixels that "
            "crops are resized to, for example --config.image_size=224."
        )
    for name in ("mean", "std"):
        if len(config[name]) not in (1, 3):
            raise ConfigError(f"config.{name} has {len(config[name])} numbers; wanted: one for all channels or three.")
