"""Fields of a config about how networks are trained."""

import functools

from redundancy.config.field import MOST_IMAGES, Affects, Field, below_one, between, one_of
from redundancy.runtime.errors import ConfigError

BUDGETS = ("steps", "epochs")
PACK_MODES = ("auto", "loop", "vmap")
FORMULATIONS = ("auto", "xla", "cpu", "packed")

_field = functools.partial(Field, "Training")
_how = functools.partial(_field, affects=Affects.HOW)
_length = functools.partial(_field, affects=Affects.HOW | Affects.COMPARISON)

FIELDS: dict[str, Field] = {
    # A training's identity contains the schedule instead of the fields that determine it.
    "steps": _length(100_000, "steps of one training on the full set; not used if epochs is set", **between(1)),
    "epochs": _length(
        0.0, "epochs of one training on the full set, in place of steps; 0 uses steps", **between(0, 100_000)
    ),
    "budget": _field(
        "steps",
        "length of trainings on subsets: 'steps' as many steps as on the full set, 'epochs' as many epochs",
        **one_of(BUDGETS),
        affects=Affects.RUNS | Affects.COMPARISON,
    ),
    "batch_size": _field(128, "images per step, for one trial", **between(1, MOST_IMAGES)),
    "lr_per_256": _field(
        0.2,
        "learning rate for a batch of 256 images; the peak is lr_per_256 x batch_size / 256 (Goyal et al., section 2.1)",
        "a number above 0, from 1e-12 to 1e36",
        lambda value: 1e-12 <= value <= 1e36,
    ),
    "warmup_steps": _length(2500, "steps of linear warm-up from 0; not used if warmup_epochs is set", **between(0)),
    "warmup_epochs": _length(
        0.0, "epochs of linear warm-up, in place of warmup_steps; 0 uses warmup_steps", **between(0, 100_000)
    ),
    "micro_batch": _field(
        0,
        "images of a device's share of the batch that are computed at a time, with gradients summed; 0 is the whole share. Must "
        "be a multiple of bn_group_size, so that only memory and speed change",
        **between(0, MOST_IMAGES),
    ),
    "label_smoothing": _field(
        0.0,
        "share of each label's weight that is spread over all classes",
        **below_one(),
    ),
    "momentum": _field(
        0.9,
        "momentum of SGD",
        **below_one(),
    ),
    "nesterov": _field(False, "whether the momentum is Nesterov's"),
    "l2": _field(
        1e-4,
        "factor of the L2 penalty's gradient; only for kernels, not for biases and BatchNorm",
        **between(0, 1000),
    ),
    "seed": _field(0, "seed of all random numbers", **between(0)),
    "eval_batch_size": _how(500, "images per step of evaluation or embedding", **between(1, MOST_IMAGES)),
    "log_every": _how(100, "steps between two lines of metrics", **between(1)),
    "checkpoint_every": _how(5000, "steps between two checkpoints", **between(1)),
    "checkpoints_kept": _how(
        2, "number of newest checkpoints that each run keeps", "a whole number from 1 to 1000", lambda n: 1 <= n <= 1000
    ),
    "data_parallel": _how(0, "devices that share one trial's batch; 0: trials are spread first", **between(0, 65_536)),
    "pack": _how(0, "trials that one program trains; 0 is one per device", **between(0, 10_000)),
    "pack_mode": _how(
        "auto",
        "how a device trains several trials of a pack: 'loop' one after the other, 'vmap' as one batched network; 'auto' uses "
        "the faster one, as measured",
        **one_of(PACK_MODES),
    ),
    "formulation": _how(
        "auto",
        "implementation of convolutions and BatchNorm: 'xla', or our own kernels, 'cpu' on CPUs and 'packed' on NVIDIA GPUs for "
        "packs of batched trials; 'auto' is the one measured to be faster on the platform; results are equal up to rounding",
        **one_of(FORMULATIONS),
    ),
    "steps_per_dispatch": _how(
        0, "steps in one device program; 0 is 1 on CPU and for streamed sets, otherwise 50", **between(0, 10_000)
    ),
}


def check(config) -> None:
    """Raises ConfigError for inconsistent fields."""
    if not (config.epochs or config.warmup_epochs) and config.warmup_steps > config.steps:
        raise ConfigError(
            f"config.warmup_steps is {config.warmup_steps}, more than config.steps, {config.steps}; "
            "lower warmup_steps or raise steps."
        )
    if not (config.epochs or config.warmup_epochs) and config.budget == "epochs":
        least = min(config.fractions)
        steps = max(1, round(config.steps * least))
        if config.warmup_steps > steps:
            raise ConfigError(
                f"config.warmup_steps is {config.warmup_steps}, but with config.budget 'epochs' a training on {least:g} of "
                f"the set lasts {steps} steps; lower warmup_steps, give warmup_epochs, which shrink with "
                "the subset, or set budget to 'steps'."
            )
    if config.epochs and config.warmup_epochs > config.epochs:
        raise ConfigError(
            f"config.warmup_epochs is {config.warmup_epochs}, more than config.epochs, {config.epochs}; "
            "lower warmup_epochs or raise epochs."
        )
    if config.bn_group_size and config.batch_size % config.bn_group_size:
        raise ConfigError(
            f"config.bn_group_size is {config.bn_group_size} and does not divide config.batch_size, "
            f"{config.batch_size}; choose a divisor, or 0 for the whole batch."
        )
    if config.micro_batch:
        if config.batch_size % config.micro_batch:
            raise ConfigError(
                f"config.micro_batch is {config.micro_batch} and does not divide config.batch_size, "
                f"{config.batch_size}; choose a divisor, or 0 for the whole batch."
            )
        if not config.bn_group_size or config.micro_batch % config.bn_group_size:
            raise ConfigError(
                f"config.micro_batch is {config.micro_batch} and config.bn_group_size {config.bn_group_size}; wanted "
                "whole BatchNorm groups: set bn_group_size to a divisor of micro_batch."
            )
