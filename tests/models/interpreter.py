"""Runs Triton's kernels without a GPU: in Triton's interpreter, on NumPy's arrays.

Triton reads TRITON_INTERPRET where functions are decorated, so nothing may import Triton before this module. `kernels` is
kernels.py, loaded under another name, since the interpreter writes to its globals; None where Triton is not installed.
"""

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Iterator

import jax
import ml_dtypes
import numpy as np

from redundancy.models.gpu import calls


@contextlib.contextmanager
def _interpreting() -> Iterator[None]:
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        yield
    finally:
        del os.environ["TRITON_INTERPRET"]


with _interpreting():
    try:
        from triton.runtime import interpreter

        _spec = importlib.util.spec_from_file_location(
            "interpreted", pathlib.Path(calls.__file__).with_name("kernels.py")
        )
        kernels = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(kernels)
    except ImportError:
        kernels = None


class _Array:
    """As much of a PyTorch tensor as the interpreter asks for."""

    def __init__(self, array: np.ndarray):
        self.array = array
        self.dtype = {"bfloat16": "bfloat16", "float32": "float32"}[array.dtype.name]

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def untyped_storage(self) -> "_Array":
        return self

    def cpu(self) -> "_Array":
        return self

    def new_empty(self, *_, **__) -> "_Array":
        return _Array(self.array)

    def set_(self, *_) -> None:
        pass

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return self.array.shape

    def stride(self) -> tuple[int, ...]:
        return self.array.strides

    def copy_(self, _) -> None:
        pass


def _dot(self, a, b, d, *_):
    """The interpreter's own multiplies the bits of bfloat16 as if they were whole numbers."""
    a, b = (
        each.data.view(ml_dtypes.bfloat16).astype(np.float32) if each.data.dtype == np.uint16 else each.data
        for each in (a, b)
    )
    return interpreter.TensorHandle(np.matmul(a, b, dtype=np.float32) + d.data, d.dtype.scalar)


def run(call: calls.Call, *arguments: np.ndarray) -> np.ndarray:
    """The result of a kernel's call."""
    interpreter.InterpreterBuilder.create_dot = _dot
    result = np.full(call.result.shape, np.nan, call.result.dtype)
    arrays = [_Array(np.ascontiguousarray(array)) for array in arguments]
    with _interpreting():
        getattr(kernels, call.kernel)[call.grid](*arrays, _Array(result), **call.constants)
    return result


class Interpreted(calls.Kernels):
    """The kernels' calls as they are made on a card, computed by the interpreter."""

    def run(self, call, *arguments):
        return jax.pure_callback(lambda *arrays: run(call, *map(np.asarray, arrays)), call.result, *arguments)
