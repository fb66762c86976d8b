"""The demo: 1,347 handwritten digits for training and 450 for testing, bundled with scikit-learn.

    redundancy run --config digits --workdir DIR

Runs the whole pipeline in two minutes on two CPU cores, without a download. Expected: 98 to 99 % on the full set, about 98 %
at 90 % kept by either method; three trials on 450 test images cannot show a difference.
`:methods` compares ten methods, see docs/methods.md, in nine minutes on two slow cores.
`:quick` is shorter; `:smoke` takes seconds, and its numbers are meaningless.
"""

from redundancy.config import check_variant, defaults
from redundancy.methods import COMPARED


def get_config(arg: str = ""):
    check_variant(arg, ("methods", "quick", "smoke"))
    config = defaults()
    config.dataset = "digits"
    config.mean, config.std = (0.305,), (0.376,)
    config.augmentation, config.pad = "crop", 1
    config.depth, config.widths = 8, (16, 32, 64)
    config.steps, config.warmup_steps, config.batch_size = 400, 40, 64
    config.lr_per_256 = 0.4
    config.fractions, config.trials = (0.9, 0.5, 0.2), 3
    config.embedding_parts = 2
    config.log_every, config.checkpoint_every = 50, 200
    if arg == "methods":
        config.methods = COMPARED
    if arg == "quick":
        config.steps, config.warmup_steps = 200, 20
        config.fractions, config.trials = (0.9, 0.5), 2
    if arg == "smoke":
        config.widths = (4, 8, 8)
        config.steps, config.warmup_steps = 20, 2
        config.fractions, config.trials = (0.9, 0.5), 2
        config.log_every, config.checkpoint_every = 5, 10
    return config
