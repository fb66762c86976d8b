"""The image shapes of well-known data sets, without opening them."""

import dataclasses

from redundancy.runtime.errors import ConfigError

# Height, width and channels as stored (0 if images differ), classes, images of the training split. Source: the pages of the
# data sets in the TensorFlow Datasets catalog.
_KNOWN = {
    "cifar10": (32, 32, 3, 10, 50_000),
    "cifar100": (32, 32, 3, 100, 50_000),
    "digits": (8, 8, 1, 10, 1_797),
    "fashion_mnist": (28, 28, 1, 10, 60_000),
    "food101": (0, 0, 3, 101, 75_750),
    "imagenet2012": (0, 0, 3, 1000, 1_281_167),
    "imagenette": (0, 0, 3, 10, 9_469),
    "mnist": (28, 28, 1, 10, 60_000),
    "stl10": (96, 96, 3, 10, 5_000),
    "svhn_cropped": (32, 32, 3, 10, 73_257),
}


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The properties of a data set that programs depend on.

    Attributes:
      image: (height, width, channels) of the network's input images.
      classes: number of classes.
      images: images of the training split; 0 if unknown.
      resident: whether the device holds the set (config.resident_mb).
    """

    image: tuple[int, int, int]
    classes: int
    images: int
    resident: bool


def shapes(config, image_size: int | None = None, classes: int | None = None) -> Shapes:
    """Shapes of the config's data set, by its name; for an unknown name they must be given.

    Args:
      config: resolved config.
      image_size: side in pixels, to use instead of config.image_size.
      classes: number of classes, to use instead of the known one.

    Raises:
      ConfigError: a value is neither known nor given.
    """
    name = config.dataset.split(":")[0].split("/")[0]
    height, width, channels, known_classes, images = _KNOWN.get(name, (0, 0, 3, 0, 0))
    side = image_size or config.image_size
    if side:
        height = width = side
    if not height:
        raise ConfigError(
            f"preflight does not open data sets, and the images of {config.dataset!r} have no size known by its name. "
            "Give --image-size, or --config.image_size: the side in pixels that the network sees."
        )
    classes = classes or known_classes
    if not classes:
        raise ConfigError(
            f"preflight does not open data sets, and {config.dataset!r} is none it knows by name "
            f"({', '.join(_KNOWN)}). Give --classes: the number of classes."
        )
    fits = 0 < images * height * width * channels <= config.resident_mb * 1e6
    return Shapes((height, width, channels), classes, images, fits and "resized" not in config.augmentation)
