"""Lists of names: text, and arrays of NumPy."""

import io

import numpy as np
import pyarrow as pa

from redundancy.runtime.errors import ConfigError


def npy(names: pa.Array) -> bytes:
    """A .npy file: int64 positions, texts, or bytes where a name is no UTF-8; loads without pickle."""
    values = names.to_numpy() if pa.types.is_integer(names.type) else np.array(names.to_pylist())
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def lines(names: pa.Array, null: bool = False) -> bytes:
    """A line for each name, or its bytes and a null byte.

    Raises:
      ConfigError: a name holds a line break, and lines would split it.
    """
    values = [value if isinstance(value, bytes) else str(value).encode() for value in names.to_pylist()]
    broken = [value for value in values if b"\n" in value or b"\r" in value]
    if broken and not null:
        raise ConfigError(
            f"--format txt has a name a line, and {len(broken)} names hold line breaks, for example {broken[0][:200]!r}. Give "
            "--null, which ends each name with a null byte, or --format csv or parquet."
        )
    end = b"\0" if null else b"\n"
    return b"".join(value + end for value in values)
