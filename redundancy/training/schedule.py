"""How long a training lasts and how its learning rate goes: linear warm-up, then cosine decay."""

import dataclasses

import jax
import jax.numpy as jnp

from redundancy.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Of one training.

    Attributes:
      steps: in all.
      warmup_steps: of them, with the learning rate rising.
    """

    steps: int
    warmup_steps: int


def full_schedule(config, num_images: int) -> Schedule:
    """Of a training on the full set of `num_images` images.

    Raises:
      ConfigError: the warm-up is longer than the training, which only the number of images tells where one is in epochs.
    """
    per_epoch = num_images / config.batch_size
    steps = max(1, round(config.epochs * per_epoch)) if config.epochs else config.steps
    warmup = round(config.warmup_epochs * per_epoch) if config.warmup_epochs else config.warmup_steps
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
    """Of a training on a subset: the full set's steps, or as many epochs as on the full set (config.budget).

    With the same epochs a warm-up given in epochs shrinks with the subset, one given in steps stays.

    Args:
      config: resolved config.
      num_images: of the full set.
      fraction: kept share of it.

    Raises:
      ConfigError: the warm-up is longer than the training on the full set, or than this one.
    """
    full = full_schedule(config, num_images)
    if config.budget == "steps":
        return full
    steps = max(1, round(full.steps * fraction))
    warmup = round(full.warmup_steps * fraction) if config.warmup_epochs else full.warmup_steps
    if warmup > steps:
        raise ConfigError(
            f"config.warmup_steps is {warmup}, but with config.budget 'epochs' the training on {fraction:g} of {num_images} "
            f"images lasts {steps} steps. Lower warmup_steps, give warmup_epochs, which shrink with the subset, or set "
            "budget to 'steps'."
        )
    return Schedule(steps, warmup)


def check(config, num_images: int) -> None:
    """Raises ConfigError where some training that the config asks for is shorter than its warm-up."""
    for fraction in (1.0, *config.fractions):
        subset_schedule(config, num_images, fraction)


def peak_learning_rate(config) -> float:
    """Goyal et al. 2017, section 2.1: proportional to the images of a step."""
    return config.lr_per_256 * config.batch_size / 256


def learning_rate(step: jax.Array, steps: jax.Array | int, peak: float, warmup_steps: jax.Array | int) -> jax.Array:
    """Learning rate of a step: linear from 0 to `peak` over the warm-up, then a half cosine down to 0.

    Args:
      step: steps taken before this one, from 0.
      steps: steps in all.
      peak: highest rate, reached after `warmup_steps`.
      warmup_steps: steps of warm-up; cut to `steps` where a training is shorter.
    """
    warmup = jnp.minimum(warmup_steps, steps)
    rising = step / jnp.maximum(warmup, 1)
    done = (step - warmup) / jnp.maximum(steps - warmup, 1)
    falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0.0, 1.0)))
    return peak * jnp.where(step < warmup, rising, falling)
