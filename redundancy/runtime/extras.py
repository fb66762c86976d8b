"""The packages of each extra of the installation, and messages for missing ones."""

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
    """'… needs x, which is not installed: pip install "redundancy[EXTRA]".' for a module; None if no extra has it."""
    for extra, modules in EXTRAS.items():
        if (name := module.partition(".")[0]) in modules:
            return f'{what} needs {name}, which is not installed: pip install "redundancy[{extra}]".'
    return None


def need(extra: str, what: str) -> None:
    """Raises ConfigError if a package of an extra is not installed. Imports nothing."""
    for module in EXTRAS[extra]:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(str(hint(module, what)))
