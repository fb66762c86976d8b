"""Lists of names as arrays of NumPy."""

import io

import numpy as np
import pyarrow as pa


def npy(names: pa.Array) -> bytes:
    """A .npy file: int64 positions, texts, or bytes where a name is no UTF-8; loads without pickle."""
    values = (
        names.to_numpy()
        if pa.types.is_integer(names.type)
        else np.array(names.to_pylist() or [], bytes if pa.types.is_binary(names.type) else str)
    )
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
