"""Convolutions of packs on GPUs by our own Triton kernels; README.md explains why."""

import jax
from absl import logging

from redundancy.models.gpu import cards, tiles
from redundancy.models.gpu.calls import Kernels
from redundancy.models.gpu.rules import Packs, convolution
from redundancy.runtime.errors import ConfigError

__all__ = ["Kernels", "Packs", "convolution", "packs_for"]


def packs_for(device: jax.Device | None, needed: bool) -> Kernels | None:
    """The kernels for a device. Returns None and logs the reason if XLA's convolutions must be used instead.

    Args:
      device: a GPU of this machine or of a topology.
      needed: whether it is an error if there are no kernels.

    Raises:
      ConfigError: kernels are needed, and there are none.
    """
    card = cards.card_of(device)
    reason = cards.obstacle(card)
    if reason and needed:
        raise ConfigError(f"config.formulation is 'packed', but {reason}; or set it to 'auto' or 'xla'.")
    if not reason and not needed and tiles.chosen(card.kind).get("form") == "xla":
        reason = f"{tiles.path(card.kind)} says that they were faster"
    if reason:
        logging.log_first_n(logging.INFO, "XLA's convolutions compute packs: %s", 1, reason)
        return None
    return Kernels(card)
