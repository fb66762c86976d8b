"""Your own images: a folder laid out by class, `PATH/train/CLASS/*.jpg` or `PATH/CLASS/*.jpg`.

    redundancy run --config configs/folder.py:PATH --workdir DIR

Images are resized and cropped to 64 x 64 pixels (--config.image_size). Where there is no test/ or validation/
folder, a fifth of each class is held out for measuring (--config.holdout). The recipe suits a few thousand to
some hundred thousand images; with more, raise --config.steps and --config.depth.
"""

import os

from redundancy.config import defaults
from redundancy.errors import ConfigError


def get_config(arg: str = ""):
    if not arg:
        raise ConfigError("wanted the folder after a colon: --config configs/folder.py:PATH")
    config = defaults()
    config.dataset = os.path.abspath(os.path.expanduser(arg))
    config.image_size = 64
    config.mean, config.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    config.augmentation, config.pad = "crop_flip", 8
    config.depth, config.widths = 14, (16, 32, 64)
    config.steps, config.warmup_steps, config.batch_size = 1000, 100, 64
    config.fractions, config.trials = (0.9, 0.7, 0.5), 3
    config.log_every, config.checkpoint_every = 50, 250
    return config
