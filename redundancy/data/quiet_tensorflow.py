"""Imports TensorFlow and TFDS without the lines that their native code writes to stderr before logging is set up.
Keeps TensorFlow away from the accelerator.

TF_CPP_MIN_LOG_LEVEL does not reach them. Errors of the import itself are Python exceptions and are not hidden.
"""

import contextlib
import os
import sys


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

    # The accelerator is JAX's alone; too late where something else has started TensorFlow's devices before.
    with contextlib.suppress(RuntimeError, ValueError):
        for kind in ("GPU", "TPU"):
            tf.config.set_visible_devices([], kind)

__all__ = ["tf", "tfds"]
