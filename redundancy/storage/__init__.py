"""One set of functions for local and gs:// paths: atomic writes of whole files, JSON, Parquet, checksums.

Paths are plain strings. A file is either complete or absent. Operations on remote paths are retried if they fail temporarily,
see `retries`; other failures raise errors that name the path. This package does not know what the files mean.
"""

from redundancy.storage.conditional import create_bytes as create_bytes
from redundancy.storage.conditional import generation as generation
from redundancy.storage.conditional import remove_if as remove_if
from redundancy.storage.conditional import write_if as write_if
from redundancy.storage.files import check_sha256 as check_sha256
from redundancy.storage.files import exists as exists
from redundancy.storage.files import join as join
from redundancy.storage.files import list_dir as list_dir
from redundancy.storage.files import make_dirs as make_dirs
from redundancy.storage.files import open_read as open_read
from redundancy.storage.files import read_bytes as read_bytes
from redundancy.storage.files import remove as remove
from redundancy.storage.files import sha256 as sha256
from redundancy.storage.files import write_bytes as write_bytes
from redundancy.storage.files import write_text as write_text
from redundancy.storage.json_files import change_json as change_json
from redundancy.storage.json_files import json_bytes as json_bytes
from redundancy.storage.json_files import json_lines as json_lines
from redundancy.storage.json_files import read_json as read_json
from redundancy.storage.json_files import write_json as write_json
from redundancy.storage.listing import stamps as stamps
from redundancy.storage.parquet import open_parquet as open_parquet
from redundancy.storage.parquet import parquet_bytes as parquet_bytes
from redundancy.storage.parquet import parquet_errors as parquet_errors
from redundancy.storage.parquet import parquet_footer as parquet_footer
from redundancy.storage.parquet import parquet_metadata as parquet_metadata
from redundancy.storage.parquet import read_parquet as read_parquet
from redundancy.storage.parquet import write_parquet as write_parquet
from redundancy.storage.remote import is_local as is_local
from redundancy.storage.remote import local_path as local_path
from redundancy.storage.retries import is_transient as is_transient
from redundancy.storage.retries import network_is_there as network_is_there
from redundancy.storage.retries import retrying as retrying
from redundancy.storage.scratch import remove_scratch as remove_scratch
