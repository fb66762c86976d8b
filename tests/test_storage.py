"""Files are there whole or not at all, and a damaged one is named."""

import os

import numpy as np
import pyarrow as pa
import pytest

from redundancy import storage
from redundancy.errors import DataError


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


def test_json_that_is_no_json_is_named(tmp_path):
    path = str(tmp_path / "manifest.json")
    storage.write_bytes(path, b'{"cut": ')
    with pytest.raises(DataError, match=r"manifest\.json is not JSON"):
        storage.read_json(path)


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


def test_an_unknown_protocol_says_what_is_wanted():
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

    monkeypatch.setattr(storage, "filesystem", lambda path: (Remote(), path.removeprefix("gs://")))
    assert storage.stamps(["gs://bucket/a/1"]) == [["3", "generation=17"]]
    assert storage.stamps(["gs://bucket/a/1", "gs://bucket/a/2"]) is None
    with pytest.raises(FileNotFoundError):
        storage.stamps(["gs://bucket/a/3"])
