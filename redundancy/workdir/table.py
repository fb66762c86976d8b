"""The subsets and trainings that a config asks for, and the number of steps of each training.

Opens no file and does not import JAX, so that the command `status` can use it too.
"""

import dataclasses

from redundancy import methods
from redundancy.runtime.errors import ConfigError
from redundancy.workdir import run_name, subset_name


@dataclasses.dataclass(frozen=True)
class Asked:
    """A subset that a config asks for; layer is None if the method reads no layer, trial is None if it is not random."""

    method: str
    layer: str | None
    fraction: float
    trial: int | None

    @property
    def name(self) -> str:
        return subset_name(self.method, self.fraction, self.trial, self.layer or "end")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training on the full set or on a subset, with the seed of its trial.

    Attributes:
      method: "full", or one of `methods.METHODS`.
      layer: layer that the subset was made from; "end" if the method has none.
      fraction: kept share of the full set.
      trial: number of the trial; runs of one trial have the same initialisation and order of images.
      steps: steps of the training; None if they depend on an unknown number of images.
      subset: name of the subset, None for the full set.
    """

    method: str
    layer: str
    fraction: float
    trial: int
    steps: int | None
    subset: str | None

    @property
    def name(self) -> str:
        return run_name(self.method, self.fraction, self.trial, self.layer)

    @property
    def seed(self) -> int:
        return self.trial + 1


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long one training takes.

    Attributes:
      steps: total number of steps.
      warmup_steps: number of first steps, during which the learning rate rises.
    """

    steps: int
    warmup_steps: int


def _kinds(config) -> list[tuple[str, str | None, float]]:
    """Method, layer and fraction, fractions descending; the layer is None if the method reads none."""
    return [
        (method, layer, fraction)
        for method in config.methods
        for layer in methods.get(method).layers(config)
        for fraction in sorted(config.fractions, reverse=True)
    ]


def subsets(config) -> list[Asked]:
    """All subsets of a resolved config: one for each method, layer, fraction and, for random methods, trial."""
    return [
        Asked(method, layer, fraction, trial)
        for method, layer, fraction in _kinds(config)
        for trial in methods.get(method).trials(config)
    ]


def runs(config, num_images: int = 0) -> list[Run]:
    """All runs of a resolved config: the full set, then method x layer x fraction, each for every trial.

    A fraction of 1.0 is the full set, which is trained once per trial, not once per method.

    Args:
      config: resolved config.
      num_images: training images of the full set, 0 if unknown; needed only if config.epochs is set.
    """
    found = []
    for method, layer, fraction in [("full", None, 1.0), *(kind for kind in _kinds(config) if kind[2] != 1.0)]:
        steps = None if config.epochs and not num_images else num_steps(config, num_images, fraction)
        for trial in range(config.trials):
            asked = Asked(method, layer, fraction, trial if methods.get(method).per_trial else None)
            subset = None if method == "full" else asked.name
            found.append(Run(method, layer or "end", fraction, trial, steps, subset))
    return found


def num_steps(config, num_images: int, fraction: float = 1.0) -> int:
    """Steps of a training on a share of the full set: the same steps or the same epochs as on it, see config.budget."""
    full = max(1, round(config.epochs * (num_images / config.batch_size))) if config.epochs else config.steps
    return full if config.budget == "steps" else max(1, round(full * fraction))


def full_schedule(config, num_images: int) -> Schedule:
    """The schedule of a training on the full set of `num_images` images.

    Raises:
      ConfigError: the warm-up is longer than the training.
    """
    steps, warmup = num_steps(config, num_images), config.warmup_steps
    if config.warmup_epochs:
        warmup = round(config.warmup_epochs * (num_images / config.batch_size))
    if steps >= 2**31:  # counted by int32 on the devices
        raise ConfigError(
            f"config.epochs is {config.epochs:g}, which is {steps} steps for {num_images} images and batch_size "
            f"{config.batch_size}; wanted fewer than 2,147,483,648 steps. Lower epochs."
        )
    if warmup > steps:
        length = "epochs" if config.epochs else "steps"
        field = "warmup_epochs" if config.warmup_epochs else "warmup_steps"
        raise ConfigError(
            f"config.{field} is {config[field]:g}, which is {warmup} steps of warm-up for {num_images} images; with "
            f"config.{length} {config[length]:g} the training lasts {steps}. Lower {field} or raise {length}."
        )
    return Schedule(steps, warmup)


def subset_schedule(config, num_images: int, fraction: float) -> Schedule:
    """The schedule of a training on a subset, see `num_steps`.

    If config.budget is 'epochs', a warm-up given in epochs shrinks with the subset; a warm-up given in steps does not.

    Args:
      config: resolved config.
      num_images: images of the full set.
      fraction: kept share of the full set.

    Raises:
      ConfigError: the warm-up is longer than the training on the full set, or than this one.
    """
    full = full_schedule(config, num_images)
    if config.budget == "steps":
        return full
    steps = num_steps(config, num_images, fraction)
    warmup = round(full.warmup_steps * fraction) if config.warmup_epochs else full.warmup_steps
    if warmup > steps:
        raise ConfigError(
            f"config.warmup_steps is {warmup}, but with config.budget 'epochs' the training on {fraction:g} of {num_images} "
            f"images lasts {steps} steps. Lower warmup_steps, give warmup_epochs, which shrink with the subset, or set "
            "budget to 'steps'."
        )
    return Schedule(steps, warmup)


def check(config, num_images: int) -> None:
    """Raises ConfigError if a training of the config is shorter than its warm-up."""
    for fraction in (1.0, *sorted(config.fractions, reverse=True)):
        subset_schedule(config, num_images, fraction)
