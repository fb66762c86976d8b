"""Your own images: a folder laid out by class, `PATH/train/CLASS/*.jpg` or `PATH/CLASS/*.jpg`.

    redundancy run --config folder:PATH --workdir DIR

A first look, about ten minutes on two CPU cores: images are resized and cropped to 32 x 32 pixels, and a small network
sees 19,200 of them. For a reliable answer, on an accelerator:
--config.image_size=64 --config.depth=20 --config.batch_size=128 --config.lr_per_256=0.2 --config.steps=20000 --config.trials=10.

If there is no test/ or validation/ folder, a fifth of each class is held out for measuring (--config.holdout). All images below
a class folder belong to that class. If image files cannot be read, or lie outside of the class folders, an error lists them before
any work starts; with --config.bad_images=skip they are left out. Formats are recognised by content, not by name. Only the first
frame of an animation is used; the camera's orientation (EXIF) is ignored. `:PATH:smoke` takes about a minute, and its numbers are
meaningless. The recipe is ours.
"""

import os

from redundancy.config import defaults
from redundancy.runtime.errors import ConfigError


def get_config(arg: str = ""):
    path, smoke = (arg.removesuffix(":smoke"), True) if arg.endswith(":smoke") else (arg, False)
    if not path:
        raise ConfigError("wanted the folder after a colon: --config folder:PATH")
    config = defaults()
    # A path with :/ is a URL, possibly with a missing slash, which is refused later.
    config.dataset = path if ":/" in path else os.path.abspath(os.path.expanduser(path))
    config.image_size = 32
    config.mean, config.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    config.augmentation, config.pad = "crop_flip", 4
    config.depth, config.widths = 8, (16, 32, 64)
    config.steps, config.warmup_steps, config.batch_size = 300, 30, 64
    config.lr_per_256 = 0.4
    config.fractions, config.trials = (0.9, 0.5), 3
    config.log_every, config.checkpoint_every = 50, 100
    if smoke:
        config.widths = (4, 4, 8)
        config.steps, config.warmup_steps, config.trials = 10, 1, 1
    return config
