"""Which devices find the near pairs of a class: accelerators those of large classes, this machine's cores all others'.

The choice changes no pair. JAX_PLATFORMS forces it: "cpu" for the cores, and "cuda" alone, without "cpu", for the GPU.
"""

import contextlib
from collections.abc import Sequence

import jax

# A GPU compiles for longer than two cores take for fewer images: for ten classes of 5,000 an H100 took 11.6 s, the cores 0.2 s.
LEAST = 100_000


def chosen(n: int, devices: Sequence[jax.Device], host: Sequence[jax.Device]) -> Sequence[jax.Device]:
    """Those that work on a class of n images, of JAX's own choice of devices and of the host's, of which there may be none."""
    return devices if devices[0].platform == "cpu" or n >= LEAST or not host else host


def _host() -> list[jax.Device]:
    try:
        return jax.local_devices(backend="cpu")[:1]
    except RuntimeError:  # JAX_PLATFORMS names others alone
        return []


def for_class(n: int) -> Sequence[jax.Device]:
    """The devices of this process that work on a class of n images."""
    return chosen(n, jax.local_devices(), _host())


def on_host() -> contextlib.AbstractContextManager:
    """Arrays of NumPy are computed with on this machine's cores, whatever device is JAX's own choice."""
    if jax.local_devices()[0].platform == "cpu" or not (host := _host()):
        return contextlib.nullcontext()
    return jax.default_device(host[0])
