"""Imports TensorFlow and TFDS without the lines that their native code writes to stderr before logging is set up and that
TF_CPP_MIN_LOG_LEVEL does not suppress. Import errors are Python exceptions and remain visible. Also keeps TensorFlow off the
accelerator, and keeps TFDS from importing modules that the files of a data set name.
"""

import contextlib
import importlib
import importlib.util
import os
import sys

# Triton 3.7 and later crash the process if they are imported after TensorFlow. Where it cannot be imported,
# models/gpu/cards.py reports why.
if importlib.util.find_spec("jax_triton"):
    with contextlib.suppress(Exception):
        importlib.import_module("triton")


@contextlib.contextmanager
def _native_stderr_closed():
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


with _native_stderr_closed():
    import tensorflow as tf
    import tensorflow_datasets as tfds

    # Only JAX uses the accelerator. This fails if something has already initialised TensorFlow's devices.
    with contextlib.suppress(RuntimeError, ValueError):
        for kind in ("GPU", "TPU"):
            tf.config.set_visible_devices([], kind)


def _refuse_foreign_features():
    # The features.json of a prepared data set names the classes of its features, and TFDS would import their modules.
    connector = tfds.features.FeatureConnector
    find = connector.cls_from_name.__func__

    def cls_from_name(cls, name):
        if name not in cls._registered_features and not name.startswith("tensorflow_datasets."):
            raise ValueError(f"the feature {name[:200]!r} is not one of TFDS's own; others are not imported")
        return find(cls, name)

    connector.cls_from_name = classmethod(cls_from_name)


_refuse_foreign_features()

__all__ = ["tf", "tfds"]
