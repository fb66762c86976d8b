"""Which packages come with which extra of the installation, and what to do where one is missing."""

import importlib.util

from redundancy.runtime.errors import ConfigError

# Modules of the packages that pyproject.toml lists under each extra; tests/runtime/test_extras.py compares them.
EXTRAS = {
    "train": (
        "filelock", "flax", "importlib_resources", "jinja2", "matplotlib", "optax", "orbax", "tensorboard", "tensorflow",
        "tensorflow_datasets",
    ),
    "gpu": ("jax_triton", "triton"),
    "preflight": ("libtpu",),
    "gcp": ("gcsfs",),
    "distributed": ("dask", "distributed"),
}  # fmt: skip


def hint(module: str, what: str = "This command") -> str | None:
    """'… needs x, which is not installed: pip install "redundancy[EXTRA]".' for a module; None if it is of no extra."""
    for extra, modules in EXTRAS.items():
        if (name := module.partition(".")[0]) in modules:
            return f'{what} needs {name}, which is not installed: pip install "redundancy[{extra}]".'
    return None


def need(extra: str, what: str) -> None:
    """Raises ConfigError if a package of an extra is not installed. Imports none of them."""
    for module in EXTRAS[extra]:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(str(hint(module, what)))
