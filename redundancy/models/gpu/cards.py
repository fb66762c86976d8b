"""Decides which GPUs the kernels are compiled for, and explains why not for others."""

import dataclasses
import importlib.metadata
import sys

import jax

_LEAST_CAPABILITY = 80  # tensor cores with bfloat16; Triton's own tests begin here too


@dataclasses.dataclass(frozen=True)
class Card:
    """A kind of GPU.

    Attributes:
      kind: its name, as JAX gives it.
      capability: compute capability, 90 for 9.0.
    """

    kind: str
    capability: int


def card_of(device: jax.Device | None) -> Card | None:
    """The card of a device, of this machine or of a topology; None if it is not an NVIDIA GPU."""
    capability = str(getattr(device, "compute_capability", ""))
    major, _, minor = capability.partition(".")
    return Card(device.device_kind, 10 * int(major) + int(minor)) if major.isdigit() and minor.isdigit() else None


def _crashes_after_tensorflow() -> bool:
    """Whether the installed Triton ends the process if it is imported after TensorFlow, as 3.7 to 3.9 do."""
    try:
        major, minor = map(int, importlib.metadata.version("triton").split(".")[:2])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return (major, minor) >= (3, 7)


def obstacle(card: Card | None) -> str | None:
    """The reason why the kernels cannot run on a card; None if they can."""
    if card is None:
        return "the device is not one of NVIDIA's"
    if card.capability < _LEAST_CAPABILITY:
        return f"{card.kind} has compute capability {card.capability / 10}; wanted 8.0 or more"
    if "tensorflow" in sys.modules and "triton" not in sys.modules and _crashes_after_tensorflow():
        return "TensorFlow was imported before Triton, which would crash; import triton first"
    try:
        import jax_triton  # noqa: F401
    except Exception as error:  # a version for another JAX raises many kinds of errors
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return f'jax_triton cannot be imported ({first}): pip install "redundancy[gpu]"'
    return None
