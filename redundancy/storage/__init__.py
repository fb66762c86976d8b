"""Local and gs:// paths behind one set of functions: whole-file atomic writes, JSON, Parquet, checksums.

Paths are plain strings. A file is there whole or not at all. What fails for a while on a remote path is tried again,
see `retries`; what fails for good is an error that names the path. Nothing here knows what the files mean.
"""

from redundancy.storage.conditional import create_bytes, generation, remove_if, write_if
from redundancy.storage.files import (
    check_sha256,
    exists,
    join,
    list_dir,
    make_dirs,
    open_read,
    read_bytes,
    remove,
    remove_scratch,
    sha256,
    write_bytes,
    write_text,
)
from redundancy.storage.json_files import change_json, json_bytes, read_json, write_json
from redundancy.storage.listing import stamps
from redundancy.storage.parquet import (
    open_parquet,
    parquet_bytes,
    parquet_errors,
    parquet_footer,
    parquet_metadata,
    read_parquet,
    write_parquet,
)
from redundancy.storage.remote import is_local, local_path
from redundancy.storage.retries import is_transient, retrying

__all__ = [
    "change_json",
    "check_sha256",
    "create_bytes",
    "exists",
    "generation",
    "is_local",
    "is_transient",
    "join",
    "json_bytes",
    "list_dir",
    "local_path",
    "make_dirs",
    "open_parquet",
    "open_read",
    "parquet_bytes",
    "parquet_errors",
    "parquet_footer",
    "parquet_metadata",
    "read_bytes",
    "read_json",
    "read_parquet",
    "remove",
    "remove_if",
    "remove_scratch",
    "retrying",
    "sha256",
    "stamps",
    "write_bytes",
    "write_if",
    "write_json",
    "write_parquet",
    "write_text",
]
