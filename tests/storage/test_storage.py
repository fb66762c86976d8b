"""Files are written whole or not at all, and errors name damaged ones."""

import concurrent.futures
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from redundancy import storage
from redundancy.runtime.errors import DataError, StorageError
from redundancy.storage import scratch


def table(start, stop):
    return pa.table({"position": np.arange(start, stop), "value": np.arange(start, stop) * 0.5})


def test_a_failed_write_leaves_the_old_file_and_no_scratch(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file.json"
    storage.write_json(str(path), {"a": 1})

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        storage.write_json(str(path), {"a": 2})
    assert storage.read_json(str(path)) == {"a": 1}
    assert os.listdir(tmp_path / "a") == ["file.json"]


@pytest.mark.parametrize(
    "data",
    [
        b'{"cut": ',
        b"",
        b"\xff\xfe\xff",
        b'{"a": "\xe9"}',
        b"[" * 200_000,
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"9" * 5000,
    ],
    ids=["cut", "empty", "no text", "latin-1", "deep", "NaN", "infinity", "long number"],
)
def test_invalid_json_is_an_error_with_the_file(tmp_path, data):
    path = str(tmp_path / "manifest.json")
    storage.write_bytes(path, data)
    with pytest.raises(DataError, match=r"manifest\.json is not JSON \(.*run the stage that writes it again"):
        storage.read_json(path)


VALUE = {"layer": "end", "parts": [{"rows": 3, "sum": 0.1 + 0.2}, None, True], "text": "ä \u2028", "2": -1e300, "": {}}


def test_json_has_a_checksum_that_reading_removes(tmp_path):
    path = str(tmp_path / "manifest.json")
    storage.write_json(path, VALUE)
    text = storage.read_bytes(path)
    assert list(json.loads(text)) == [*VALUE, "sha256_of_rest"]
    assert storage.read_json(path) == VALUE
    storage.write_json(path, json.loads(text))  # by a program that keeps the checksum
    assert storage.read_bytes(path) == text
    storage.write_json(path, {1: (1, 2)})
    assert storage.read_json(path) == {"1": [1, 2]}
    for value in ([1, 2], "text", 3, None):
        storage.write_json(path, value)
        assert storage.read_json(path) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(path, {"a": float("nan")})


def test_json_of_other_programs_without_a_checksum_is_read(tmp_path):
    path = str(tmp_path / "manifest.json")
    storage.write_bytes(path, json.dumps(VALUE, indent=4).encode())
    assert storage.read_json(path) == VALUE


def test_changed_json_is_an_error_with_the_file(tmp_path):
    path = str(tmp_path / "manifest.json")
    storage.write_json(path, VALUE)
    text = storage.read_bytes(path).decode()
    for changed in (text.replace("true", "false"), text.replace('"rows": 3', '"rows": 4'), text.replace("end", "mid")):
        storage.write_bytes(path, changed.encode())
        with pytest.raises(DataError, match=r"manifest\.json was changed or damaged since.*remove that line"):
            storage.read_json(path)
    # Other spelling of the same value is accepted.
    storage.write_bytes(path, json.dumps(json.loads(text), sort_keys=True).encode())
    assert storage.read_json(path) == VALUE


def test_any_damaged_byte_of_json_is_found(tmp_path):
    path = str(tmp_path / "manifest.json")
    storage.write_json(path, VALUE)
    whole, rng = storage.read_bytes(path), random.Random(0)
    found = 0
    for place in range(len(whole)):
        storage.write_bytes(path, flipped(whole, place, rng.randrange(1, 256)))
        read, error = read_or_error(storage.read_json, path)
        assert (error is None) or "manifest.json" in error, error
        found += error is not None
        if error is None:  # white space, or the name of the checksum
            read = {key: value for key, value in read.items() if not isinstance(value, str) or len(value) != 64}
            assert read == VALUE
    assert found > 0.6 * len(whole)


def flipped(data, place, bits):
    return data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]


def read_or_error(read, path):
    try:
        return read(path), None
    except DataError as error:
        return None, str(error)


def test_parquet_round_trip_with_metadata_and_row_groups(tmp_path):
    path = str(tmp_path / "part.parquet")
    digest = storage.write_parquet(path, [table(0, 5), table(5, 9)], {"layer": "end"})
    assert digest == storage.sha256(path)
    read = storage.read_parquet(path)
    assert read["position"].to_pylist() == list(range(9))
    assert storage.parquet_metadata(read) == {"layer": "end"}
    assert storage.read_parquet(path, ["value"]).column_names == ["value"]
    assert pa.parquet.ParquetFile(path).num_row_groups == 2


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_a_truncated_parquet_file_is_named(tmp_path, kept):
    path = str(tmp_path / "part.parquet")
    storage.write_parquet(path, [table(0, 500)])
    data = storage.read_bytes(path)
    storage.write_bytes(path, data[:kept])
    with pytest.raises(DataError, match=r"part\.parquet cannot be read.*truncated or damaged"):
        storage.read_parquet(path)


def several_types(rows):
    rng = np.random.default_rng(0)
    columns = table(0, rows).append_column("kept", pa.array(rng.random(rows) < 0.5))
    columns = columns.append_column("id", pa.array([f"image {number % 7}" for number in range(rows)]))
    columns = columns.append_column("empty", pa.array([None if number % 3 else number for number in range(rows)]))
    vectors = pa.FixedSizeListArray.from_arrays(rng.random(3 * rows).astype(np.float32), 3)
    return columns.append_column("embedding", vectors)


def test_any_damaged_byte_of_a_parquet_file_is_found(tmp_path):
    path = str(tmp_path / "part.parquet")
    written = several_types(12)
    storage.write_parquet(path, [written.slice(0, 7), written.slice(7)], {"fraction": "0.9000", "seed": "17"})
    whole, rng = storage.read_bytes(path), random.Random(0)
    before = storage.read_parquet(path)
    assert before.equals(written)
    found, places = 0, rng.sample(range(len(whole)), 1500)
    for place in places:
        with open(path, "wb") as file:
            file.write(flipped(whole, place, rng.choice((1 << rng.randrange(8), rng.randrange(1, 256)))))
        read, error = read_or_error(storage.read_parquet, path)
        # Some bytes do not matter, such as the minimum in a page's header.
        assert "part.parquet cannot be read as Parquet" in error if error else read.equals(before, check_metadata=True)
        found += error is not None
    assert found > 0.8 * len(places)


def test_values_lost_by_a_damaged_page_header_are_detected(tmp_path):
    path = str(tmp_path / "part.parquet")
    storage.write_parquet(path, [table(0, 20)])
    whole = storage.read_bytes(path)
    # In each page's header: the encoding of its definition levels, RLE (6) or bit-packed (8).
    places = [match.end() - 1 for match in re.finditer(rb"\x15\x28\x15\x10\x15\x06", whole)]
    assert len(places) == 2
    for place in places:
        storage.write_bytes(path, flipped(whole, place, 6 ^ 8))
        with pytest.raises(DataError, match=r"lacks .* values instead of 0"):
            storage.read_parquet(path)


@pytest.mark.parametrize("compression", ["snappy", "none", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_parquet_files_of_other_programs_without_checksums_are_read(tmp_path, compression, version):
    path = str(tmp_path / "theirs.parquet")
    written = several_types(100).replace_schema_metadata({"by": "others"})
    pa.parquet.write_table(written, path, compression=compression, data_page_version=version)
    read = storage.read_parquet(path)
    assert read.equals(written)
    assert storage.parquet_metadata(read) == {"by": "others"}
    pa.parquet.write_table(written, path, store_schema=False, write_statistics=False)
    assert storage.read_parquet(path, ["position", "kept"]).equals(written.select(["position", "kept"]))


@pytest.mark.parametrize("kind", [ValueError, KeyError, MemoryError, UnicodeError, pa.ArrowInvalid, OSError])
def test_every_error_of_pyarrow_for_damaged_bytes_names_the_file(kind):
    with (
        pytest.raises(DataError, match=r"part\.parquet cannot be read as Parquet"),
        storage.parquet_errors("part.parquet"),
    ):
        raise kind
    with pytest.raises(OSError, match="Input/output"), storage.parquet_errors("part.parquet"):
        raise OSError(5, "Input/output error")
    with pytest.raises(StorageError), storage.parquet_errors("part.parquet"):
        raise StorageError("the network")


def test_a_missing_column_and_a_missing_file_are_named(tmp_path):
    path = str(tmp_path / "part.parquet")
    storage.write_parquet(path, [table(0, 5)])
    with pytest.raises(DataError, match="no column 'embedding'"):
        storage.read_parquet(path, columns=["embedding"])
    with pytest.raises(DataError, match=r"none\.parquet is missing"):
        storage.read_parquet(str(tmp_path / "none.parquet"))


def test_list_dir_hides_scratch_files_and_missing_folders(tmp_path):
    (tmp_path / ".part.tmp").write_text("x")
    (tmp_path / "b").write_text("x")
    (tmp_path / "a").mkdir()
    assert storage.list_dir(str(tmp_path)) == ["a", "b"]
    assert storage.list_dir(str(tmp_path / "none")) == []


def test_remote_paths_use_the_same_functions():
    storage.write_json("memory://bucket/run/manifest.json", {"a": 1})
    storage.write_parquet("memory://bucket/run/part.parquet", [table(0, 3)])
    assert storage.list_dir("memory://bucket/run") == ["manifest.json", "part.parquet"]
    assert storage.read_parquet("memory://bucket/run/part.parquet").num_rows == 3
    storage.remove("memory://bucket/run")
    assert not storage.exists("memory://bucket/run/manifest.json")


def test_the_error_for_an_unknown_protocol_names_what_is_wanted():
    with pytest.raises(DataError, match="gs://bucket/path"):
        storage.read_bytes("gz://bucket/file")


def test_stamps_change_with_the_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert storage.stamps([str(path)]) is None  # changed a moment ago
    os.utime(path, (1e9, 1e9))
    first = storage.stamps([str(path)])
    assert storage.stamps([str(path)]) == first
    path.write_bytes(b"two")
    os.utime(path, (1e9, 1e9))
    assert storage.stamps([str(path)]) != first
    with pytest.raises(FileNotFoundError):
        storage.stamps([str(tmp_path / "none")])


def test_stamps_of_remote_files_come_from_listings(monkeypatch):
    listed = {"bucket/a": [{"name": "bucket/a/1", "size": 3, "generation": "17"}, {"name": "bucket/a/2", "size": 4}]}

    class Remote:
        def invalidate_cache(self, folder):
            pass

        def ls(self, folder, detail):
            return listed[folder]

    monkeypatch.setattr(storage.listing, "filesystem", lambda path: (Remote(), path.removeprefix("gs://")))
    assert storage.stamps(["gs://bucket/a/1"]) == [["3", "generation=17"]]
    assert storage.stamps(["gs://bucket/a/1", "gs://bucket/a/2"]) is None
    with pytest.raises(FileNotFoundError):
        storage.stamps(["gs://bucket/a/3"])


KILLED = """
import os, signal, sys
from redundancy import storage
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
storage.write_bytes(sys.argv[1] + "/runs/a/file", b"half")
"""


def test_only_files_of_killed_writers_are_removed(tmp_path, monkeypatch):
    keep = [tmp_path / name for name in (".hidden", ".x.12345678.tmp", "part.parquet", ".git/a.tmp", ".lease.json")]
    for path in keep:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (1e9, 1e9))
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)]).returncode == -signal.SIGKILL
    left = sorted((tmp_path / "runs/a").iterdir())
    assert len(left) == 2
    with scratch.scratch_file("mine", str(tmp_path / "runs/mine"), b"x") as mine:
        # Files of another machine, with the number of a process that has ended here.
        with monkeypatch.context() as patch:
            patch.setattr(scratch, "_machine", lambda: "0" * 12)
            theirs = [left[0].with_name(f".b.writer-{'0' * 12}-{4194304 + age}-abcdef12.tmp") for age in (0, 1)]
        for path in theirs:
            path.write_bytes(b"x")
        os.utime(theirs[1], (time.time() - 90_000,) * 2)
        removed = storage.remove_scratch(str(tmp_path))
        assert sorted(removed) == sorted(map(str, [*left, theirs[1]]))
        assert os.path.exists(mine)
    assert all(path.exists() for path in [*keep, theirs[0]])
    assert storage.remove_scratch(str(tmp_path)) == []
    assert storage.remove_scratch(str(tmp_path / "none")) == []
    assert storage.remove_scratch("gs://bucket/none") == []


def test_scratch_files_can_be_removed_while_others_write(tmp_path):
    done = threading.Event()

    def write():
        number = 0
        while not done.is_set():
            storage.write_bytes(str(tmp_path / f"folder{number % 5}" / "file"), b"x" * 1000)
            number += 1
        return number

    with concurrent.futures.ThreadPoolExecutor() as pool:
        writers = [pool.submit(write) for _ in range(3)]
        for _ in range(50):
            assert storage.remove_scratch(str(tmp_path)) == []
        done.set()
        assert min(writer.result() for writer in writers) > 0


def test_a_folder_of_many_files_takes_little_time(tmp_path):
    for number in range(2000):
        (tmp_path / f"{number}").touch()
    started = time.process_time()
    assert storage.remove_scratch(str(tmp_path)) == []
    assert time.process_time() - started < 1  # processor time of this process
