"""Random changes of files and of JSON values, and helpers that use them; for the fuzz tests."""

import copy
import io
import os

import numpy as np
import pytest
from hypothesis import strategies as st

from redundancy.runtime.errors import UserError

N, D = 12, 3


def tried(function, *args, **kwargs):
    """What the function returns, or None where it raises a UserError in words."""
    try:
        return function(*args, **kwargs)
    except UserError as error:
        text = str(error)
        assert text.strip()
        assert "Traceback" not in text
        text.encode()
        return None


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory):
    """A working folder of its own, in which nothing may be written."""
    folder = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(os, "fsync", lambda _: None)  # most of the time otherwise
        yield
    assert not os.listdir(folder)


@st.composite
def changed(draw, originals):
    """One of some files with a few bytes flipped, set, cut off, left out, put in, or taken from another of the files."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        size = len(data)
        # What files say of themselves is at their beginnings and ends.
        at = draw(
            st.one_of(st.integers(0, min(size, 100)), st.integers(max(0, size - 200), size), st.integers(0, size))
        )
        length = draw(st.integers(1, 12))
        match draw(st.sampled_from(["flip", "set", "cut", "drop", "insert", "splice", "repeat"])):
            case "flip" if at < size:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "set":
                data[at : at + length] = draw(st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80", b"9", b"("])) * length
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + length]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=12))
            case "splice":
                data[at:] = draw(st.sampled_from(originals))[at + draw(st.integers(-8, 8)) :]
            case "repeat":
                data[at:at] = data[at : at + 40 * length]
    return bytes(data)


def saved(write, *args, **kwargs):
    buffer = io.BytesIO()
    write(buffer, *args, **kwargs)
    return buffer.getvalue()


VECTORS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
LABELS = np.arange(N) % 2
PICTURES = np.random.default_rng(0).integers(0, 256, (N, 6, 5, 3), np.uint8)


JUNK = (
    None, True, False, 0, 1, -1, 7, 0.5, 1e308, float("nan"), 2**31, 2**63, -(2**63), 2**70, 10**400, "", " ", "0", "1", "-1", "x", "end",
    "semantic", "../../x", "/", "a\0b", "a\nb", "é", "\ud800", "x" * 5000, [], {}, [[]], [None], [0], ["x"], {"": None}, {"0": 0}, {"x": {}},
    {"file": "x"}, [{"file": "../../../etc/passwd", "rows": 1, "sha256": ""}], {"imported": "x", "sha256": 5},
)  # fmt: skip


def places(value, path=()):
    """Paths of all values in a JSON value."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def junk(draw):
    return copy.deepcopy(draw(st.sampled_from(JUNK)))


@st.composite
def restructured(draw, original):
    """A JSON value of which one or two parts are exchanged, left out, doubled or put elsewhere."""
    value = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(sorted(places(value), key=repr)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return junk(draw)
            continue
        *inner, last = path
        parent = value
        for key in inner:
            parent = parent[key]
        match draw(st.sampled_from(["junk", "junk", "junk", "number", "drop", "add", "move"])):
            case "junk":
                parent[last] = junk(draw)
            case "number" if isinstance(parent[last], (int, float)):
                parent[last] += draw(st.sampled_from([-1, 1, 0.5, 1000]))
            case "drop":
                del parent[last]
            case "add" if isinstance(parent, dict):
                parent[draw(st.sampled_from(["x", "0", "99", "-1", "", "é"]))] = junk(draw)
            case "add":
                parent.append(copy.deepcopy(parent[last]))
            case "move":
                parent[last] = copy.deepcopy(value)
    return value
