"""Chooses the devices that find the near pairs of a class: accelerators for large classes, this machine's cores for all others.

The choice does not change the pairs. JAX_PLATFORMS forces it: "cpu" for the cores, "cuda" alone, without "cpu", for the GPU.
"""

import contextlib
from collections.abc import Sequence

import jax

# With fewer images, compiling for a GPU takes longer than the work on two cores (11.6 s on an H100, 0.2 s; ten classes of 5,000).
LEAST = 100_000


def chosen(n: int, devices: Sequence[jax.Device], host: Sequence[jax.Device]) -> Sequence[jax.Device]:
    """The devices for a class of n images: `devices`, JAX's default ones, or `host`, this machine's, which may be empty."""
    return devices if devices[0].platform == "cpu" or n >= LEAST or not host else host


def _host() -> list[jax.Device]:
    try:
        return jax.local_devices(backend="cpu")[:1]
    except RuntimeError:  # JAX_PLATFORMS does not name the CPU
        return []


def for_class(n: int) -> Sequence[jax.Device]:
    """The devices of this process that work on a class of n images."""
    return chosen(n, jax.local_devices(), _host())


def on_host() -> contextlib.AbstractContextManager:
    """Within it, JAX computes with NumPy arrays on this machine's cores, whatever its default device is."""
    if jax.local_devices()[0].platform == "cpu" or not (host := _host()):
        return contextlib.nullcontext()
    return jax.default_device(host[0])
