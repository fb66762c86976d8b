"""CIFAR-10 as in the paper's section 4.1: ResNet-32, 100,000 steps, 10 trials of each subset.

    redundancy run --config cifar10 --workdir DIR --config.data_dir=TFDS_DIR

Assumed, since our copy of the paper's text lost its numbers: batch_size, lr_per_256, warmup_steps, momentum, l2,
the augmentation, and the fractions. Steps, depth and trials are the paper's.

`:gpu` is a short experiment for one GPU: bfloat16, batches of 512, 20 epochs, two fractions, 8 trials in packs of 8. Nearly
the same recipe (20.5 epochs, 5 trials, packs of 1) took 410 s on an H100 on 2026-11-26: 88.11 % on the full set, 88.09 %
at 90 % kept by semantic clustering, 87.84 % at random; 87.96 % and 87.05 % at 70 % (docs/results.md).
`:methods` compares ten methods, see docs/methods.md; it has not been run yet.
`:quick` takes 10 to 20 minutes on two CPU cores. Seed 0 gave 59.9 % on the full set (std 0.4, 2 trials), 59.7 % at
90 % kept by semantic clustering and 60.0 % at random: too few trials and too small a network to show a difference.
`:smoke` takes about a minute, and its numbers are meaningless.
"""

from redundancy.config import check_variant, defaults
from redundancy.methods import COMPARED


def get_config(arg: str = ""):
    check_variant(arg, ("gpu", "methods", "quick", "smoke"))
    config = defaults()
    config.dataset = "cifar10"
    config.mean, config.std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    config.augmentation, config.pad = "crop_flip", 4
    config.depth, config.widths = 32, (16, 32, 64)
    config.steps, config.warmup_steps, config.batch_size = 100_000, 2500, 128
    config.lr_per_256, config.momentum, config.l2 = 0.2, 0.9, 1e-4
    config.fractions, config.trials = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5), 10
    if arg == "methods":
        config.methods, config.fractions = COMPARED, (0.9, 0.7, 0.5, 0.3, 0.1)
    elif arg == "gpu":
        config.dtype, config.batch_size = "bfloat16", 512
        config.epochs, config.warmup_epochs = 20.0, 1.0
        config.fractions, config.trials = (0.9, 0.7), 8
        config.pack = 8
        # A pack trains for less than a minute, so only its final checkpoint is kept.
        config.log_every, config.checkpoint_every = 500, 2000
    elif arg:
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
