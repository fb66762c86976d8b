"""JSON files; an object holds a checksum of itself."""

import contextlib
import hashlib
import json
from typing import Any

from redundancy.runtime.errors import DataError
from redundancy.storage import files
from redundancy.storage.conditional import create_bytes, write_if
from redundancy.storage.files import read_bytes

_CHECKSUM = "sha256_of_rest"  # in a JSON object, of the canonical JSON of its other keys


def _canonical_sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def read_json(path: str) -> Any:
    """What `write_json` wrote, or the JSON that others did, which has no checksum.

    Raises:
      DataError: the file is not JSON, or not what was written.
    """
    data = read_bytes(path)
    try:
        value = json.loads(data, parse_constant=_no_number)
        if b"\\u" in data:  # halves of letters, which cannot be written again
            json.dumps(value, ensure_ascii=False).encode()
        if not isinstance(value, dict) or _CHECKSUM not in value:
            return value
        found = value.pop(_CHECKSUM)
        whole = found == _canonical_sha256(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); delete it and run the stage that writes it again.") from error
    if not whole:
        raise DataError(
            f"{path} was changed or damaged since it was written: {_CHECKSUM!r} does not fit. Delete the file and run "
            "the stage that writes it again; or, if you changed it on purpose, take that line out of it."
        )
    return value


def json_lines(data: bytes, *numbers: str) -> list[dict[str, Any]]:
    """The objects of lines of JSON that have numbers of these names; a line that a kill cut off is left out."""
    found = []
    for text in data.decode(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and all(isinstance(line.get(name), int | float) for name in numbers):
                found.append(line)
    return found


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes."""
    if isinstance(value, dict):
        rest = json.loads(json.dumps({key: value[key] for key in value if key != _CHECKSUM}, allow_nan=False))
        value = {**rest, _CHECKSUM: _canonical_sha256(rest)}
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: str, value: Any) -> None:
    """Writes JSON; an object gets a last key with a checksum of the others, which `read_json` takes off again."""
    files.write_bytes(path, json_bytes(value))


def change_json(path: str, seen: str | None, value: Any) -> bool:
    """As `write_json`, if the file's `generation` still is `seen`, None if there was no file; returns whether it wrote."""
    data = json_bytes(value)
    return create_bytes(path, data) if seen is None else write_if(path, seen, data)
