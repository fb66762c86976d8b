"""Finds the images a labelled data set does not need, and shows what leaving them out costs.

The Python interface: `select`, `CompleteLinkage`, and functions that read a finished workdir (docs/python.md). Each is imported
at first use, so that `import redundancy` is fast.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from redundancy.interface.clustering import select as select
    from redundancy.interface.estimator import CompleteLinkage as CompleteLinkage
    from redundancy.interface.files import load_embeddings as load_embeddings
    from redundancy.interface.files import load_merges as load_merges
    from redundancy.interface.files import load_results as load_results
    from redundancy.interface.files import load_subset as load_subset

__version__ = "0.1.0"

_MODULES = {
    "CompleteLinkage": "estimator",
    "load_embeddings": "files",
    "load_merges": "files",
    "load_results": "files",
    "load_subset": "files",
    "select": "clustering",
}
__all__ = [*_MODULES]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'redundancy' has no attribute {name!r}")
    return getattr(importlib.import_module(f"redundancy.interface.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
