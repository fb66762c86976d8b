"""JSON files; each object holds a checksum of its other keys."""

import contextlib
import hashlib
import json
from typing import Any

from redundancy.runtime.errors import DataError
from redundancy.storage import files
from redundancy.storage.conditional import create_bytes, write_if
from redundancy.storage.files import read_bytes

_CHECKSUM = "sha256_of_rest"  # key of the checksum of the canonical JSON of the other keys


def _canonical_sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def read_json(path: str) -> Any:
    """The value in a JSON file, written by `write_json` or by another program, without a checksum.

    Raises:
      DataError: the file is not JSON, or its checksum does not match.
    """
    data = read_bytes(path)
    try:
        value = json.loads(data, parse_constant=_no_number)
        if b"\\u" in data:  # it may be a lone surrogate, which cannot be encoded
            json.dumps(value, ensure_ascii=False).encode()
        if not isinstance(value, dict) or _CHECKSUM not in value:
            return value
        found = value.pop(_CHECKSUM)
        whole = found == _canonical_sha256(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); delete it and run the stage that writes it again.") from error
    if not whole:
        raise DataError(
            f"{path} was changed or damaged since it was written: {_CHECKSUM!r} does not match. Delete the file and run "
            "the stage that writes it again; or, if you changed it on purpose, remove that line from it."
        )
    return value


def json_lines(data: bytes, *numbers: str) -> list[dict[str, Any]]:
    """The objects in JSON lines, except those without one of the fields `numbers`, and except an incomplete last line."""
    found = []
    for text in data.decode(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and all(isinstance(line.get(name), int | float) for name in numbers):
                found.append(line)
    return found


def json_bytes(value: Any) -> bytes:
    """The bytes that `write_json` writes for `value`."""
    if isinstance(value, dict):
        rest = json.loads(json.dumps({key: value[key] for key in value if key != _CHECKSUM}, allow_nan=False))
        value = {**rest, _CHECKSUM: _canonical_sha256(rest)}
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: str, value: Any) -> None:
    """Writes JSON. Adds to an object a last key with a checksum of the others, which `read_json` checks and removes."""
    files.write_bytes(path, json_bytes(value))


def change_json(path: str, seen: str | None, value: Any) -> bool:
    """As `write_json`, if the file's `generation` is still `seen` (None: no file). Returns whether it wrote."""
    data = json_bytes(value)
    return create_bytes(path, data) if seen is None else write_if(path, seen, data)
