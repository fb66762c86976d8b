"""Lists of names as NumPy arrays."""

import io

import numpy as np
import pyarrow as pa


def npy(names: pa.Array) -> bytes:
    """A .npy file of int64 positions, texts, or bytes if a name is not valid UTF-8; loads without pickle."""
    values = (
        names.to_numpy()
        if pa.types.is_integer(names.type)
        else np.array(names.to_pylist() or [], bytes if pa.types.is_binary(names.type) else str)
    )
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
