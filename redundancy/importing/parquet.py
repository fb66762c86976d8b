"""Opens Parquet files of other tools, and reads columns with one value per row."""

import contextlib
import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from redundancy import storage
from redundancy.data import inputs
from redundancy.runtime.errors import DataError, UserError


@contextlib.contextmanager
def opened(path: str, column: str | None = None) -> Iterator[pq.ParquetFile]:
    """Opens a file, and checks that it has `column`, if that is given and the file has rows.

    Errors of pyarrow, on opening and within the context, are converted to DataError.
    """
    if storage.is_local(path) and (problem := inputs.unfit(path)):
        raise DataError(f"{path} {problem}; wanted a Parquet file. Check the path.")
    try:
        with storage.open_read(path) as source:
            # With these options a column is read by pages; otherwise by row groups, and one may be the whole file.
            file = pq.ParquetFile(source, buffer_size=1 << 22, pre_buffer=False, page_checksum_verification=True)
            names = file.schema_arrow.names
            if column is not None and names.count(column) != 1 and file.metadata.num_rows:
                found = f"{names.count(column)} columns" if column in names else "no column"
                raise DataError(
                    f"{path} has {found} {column!r}; it has {inputs.shown(str(names))}. Name the right one in --columns."
                )
            yield file
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(
                f"{path} cannot be read ({error.strerror}); check the file, its permissions and the disk."
            ) from error
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path} cannot be read as Parquet ({inputs.shown(first)}); it is truncated, damaged or no Parquet file. Write "
            "it again."
        ) from error


def only_column(path: str, wanted: str) -> str:
    """`wanted`, or the name of the only column if the file has just one."""
    with opened(path) as file:
        names = file.schema_arrow.names
    return names[0] if len(names) == 1 else wanted


def read_column(path: str, name: str) -> tuple[pa.ChunkedArray | None, list[str] | None]:
    """A column, and its class names if Hugging Face's metadata has them; None, None for a file without rows.

    Raises:
      DataError: the file is damaged, or has no such column.
    """
    with opened(path, name) as file:
        if not file.metadata.num_rows:
            return None, None
        inputs.check_memory(path, f"column {name!r} of {file.metadata.num_rows} rows", 8 * file.metadata.num_rows)
        return file.read([name]).column(0), _class_names((file.schema_arrow.metadata or {}).get(b"huggingface"), name)


def _class_names(metadata: bytes | None, column: str) -> list[str] | None:
    """Class names from the ClassLabel type in the metadata that `datasets` writes; None if there are none."""
    try:
        names = json.loads(metadata or "{}")["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return names if isinstance(names, list) and names and all(isinstance(name, str) for name in names) else None
