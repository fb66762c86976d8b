"""Fashion-MNIST: 60,000 grey images, 28 x 28 pixels, of ten kinds of clothing. Not in the paper.

    redundancy run --config fashion_mnist --workdir DIR

TFDS downloads it (30 MB) unless it is in config.data_dir. The recipe is ours: ResNet-20, 20,000 steps.
`:quick` is for two CPU cores; `:smoke` takes about a minute, and its numbers are meaningless.
"""

from redundancy.config import check_variant, defaults


def get_config(arg: str = ""):
    check_variant(arg, ("quick", "smoke"))
    config = defaults()
    config.dataset = "fashion_mnist"
    config.mean, config.std = (0.2860,), (0.3530,)
    config.augmentation, config.pad = "crop_flip", 2
    config.depth, config.widths = 20, (16, 32, 64)
    config.steps, config.warmup_steps, config.batch_size = 20_000, 1000, 128
    config.fractions, config.trials = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5), 10
    if arg:
        config.depth = 8
        config.fractions, config.trials = (0.9, 0.5), 2
        config.log_every = 50
    if arg == "quick":
        # No random crops, since they only slow down a training of a few epochs.
        config.widths, config.augmentation = (8, 16, 32), "flip"
        config.steps, config.warmup_steps, config.batch_size = 1200, 100, 64
        config.lr_per_256 = 0.4
        config.checkpoint_every = 300
    if arg == "smoke":
        config.widths = (4, 4, 8)
        config.steps, config.warmup_steps, config.trials = 10, 1, 1
        config.log_every, config.checkpoint_every = 5, 5
    return config
