"""Storage on gs:// where requests fail, stall or get lost on the way, by an emulator behind a proxy on 127.0.0.1."""

import os
import re
import threading
import time
import urllib.request

import faults_proxy
import gcs_emulator
import numpy as np
import pyarrow as pa
import pytest
from absl import logging
from faults_proxy import first

from redundancy import storage
from redundancy.runtime.errors import ConfigError, DataError, StorageError
from redundancy.storage import retries

pytest.importorskip("gcsfs")

LASTING = ("reset", "503", "stall", "lost")
TIMEOUT = 0.4  # seconds, only for tests that wait for a timeout; this machine may be slower than that


@pytest.fixture(scope="module")
def service():
    """The proxy, its emulator behind it."""
    with faults_proxy.running(stall=10 * TIMEOUT) as proxy, gcs_emulator.running(proxy.url) as upstream:
        proxy.upstream = upstream
        yield proxy


@pytest.fixture
def proxy(service, monkeypatch, request):
    """The proxy, as the service that this process knows; patience is short."""
    from redundancy.storage.gcs import PatientGCSFileSystem

    for name, value in gcs_emulator.environ(service.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("REDUNDANCY_STORAGE_RETRY_S", "10")
    waits = any(word in request.node.name for word in ("stall", "stuck", "slow"))
    monkeypatch.setenv("REDUNDANCY_STORAGE_TIMEOUT_S", str(TIMEOUT if waits else 5))
    monkeypatch.setattr(retries, "_FIRST", 0.02)
    monkeypatch.setattr(retries.Patience, "_last_line", -1e9)
    PatientGCSFileSystem.clear_instance_cache()
    yield service
    service.choose, service.list_delay = lambda _: None, 0.0
    service.faults.clear()
    service.requests.clear()
    PatientGCSFileSystem.clear_instance_cache()


@pytest.fixture
def root(proxy, request):
    return f"gs://{gcs_emulator.BUCKET}/{re.sub('[^a-z0-9]+', '-', request.node.name)}"


@pytest.fixture
def lines(monkeypatch):
    """The lines that are logged as warnings."""
    found = []
    monkeypatch.setattr(logging, "warning", lambda line, *values: found.append(line % values))
    return found


def table(rows):
    return pa.table({"position": np.arange(rows), "value": np.random.default_rng(0).random(rows)})


@pytest.mark.parametrize("fault", [each for each in faults_proxy.FAULTS if each not in ("trickle", "damage")])
def test_operations_succeed_after_failures(proxy, root, fault):
    def check(operation, expected, failures=1):
        proxy.faults.clear()
        proxy.choose = first(failures, fault)
        assert operation() == expected
        assert proxy.faults[fault] == failures

    path, data = f"{root}/folder/file", bytes(range(256)) * 40
    check(lambda: storage.write_bytes(path, data), None)
    check(lambda: storage.read_bytes(path), data)
    check(lambda: storage.exists(path), True)
    check(lambda: storage.create_bytes(f"{root}/created", data), True)
    check(lambda: storage.create_bytes(f"{root}/created", b"of another"), False)
    check(lambda: storage.remove(f"{root}/folder"), None)
    if fault not in ("stall", "stuck"):  # which take their time
        check(lambda: storage.write_bytes(path, data), None, failures=3)
        check(lambda: storage.read_bytes(path), data, failures=3)
        check(lambda: storage.exists(f"{root}/folder"), True)
        check(lambda: storage.exists(f"{root}/none"), False)
        check(lambda: storage.list_dir(f"{root}/folder"), ["file"])
        check(lambda: len(storage.sha256(path)), 64)
        check(lambda: len(storage.stamps([path])), 1)
        check(lambda: storage.generation(path) is not None, True)
        check(lambda: storage.generation(f"{root}/none"), None)
        check(lambda: storage.remove(f"{root}/folder"), None, failures=2)
    proxy.choose = lambda _: None
    assert storage.list_dir(root) == ["created"]
    assert storage.read_bytes(f"{root}/created") == data


def test_bytes_damaged_in_transit_are_sent_again(proxy, root):
    data = b"the very same" * 100
    proxy.choose = first(2, "damage")
    storage.write_bytes(f"{root}/file", data)
    assert proxy.faults == {"damage": 2}
    proxy.choose = first(2, "damage")
    assert storage.read_bytes(f"{root}/file") == data
    assert proxy.faults == {"damage": 4}


@pytest.mark.parametrize("fault", ["503", "truncate", "stuck", "lost", "damage"])
def test_large_files_are_read_in_pieces_that_are_tried_again(proxy, root, fault):
    written = table(150_000)
    storage.write_parquet(f"{root}/large.parquet", [written.slice(0, 100_000), written.slice(100_000)])
    proxy.choose = faults_proxy.share(0.4, (fault,), seed=1)
    if fault == "damage":  # a range has no checksum, but its pages have
        with pytest.raises(DataError, match=r"large\.parquet cannot be read"):
            storage.read_parquet(f"{root}/large.parquet")
    else:
        assert storage.read_parquet(f"{root}/large.parquet").equals(written)
        assert len(storage.sha256(f"{root}/large.parquet")) == 64
    assert proxy.faults[fault]


def test_reads_that_are_slow_but_go_on_do_not_fail(proxy, root):
    storage.write_bytes(f"{root}/file", bytes(1_000_000))
    proxy.choose = first(1, "trickle")
    started = time.monotonic()
    assert storage.read_bytes(f"{root}/file") == bytes(1_000_000)
    assert time.monotonic() - started > TIMEOUT * 1.2
    assert len(proxy.requests) == 2


def test_small_files_are_opened_by_one_request(proxy, root):
    storage.write_parquet(f"{root}/small.parquet", [table(100), table(100)])
    proxy.requests.clear()
    assert storage.read_parquet(f"{root}/small.parquet").num_rows == 200
    assert len(proxy.requests) == 1


def test_a_file_that_is_replaced_while_it_is_read_is_an_error(proxy, root):
    storage.write_bytes(f"{root}/file", b"a" * 1_000_000)
    with storage.open_read(f"{root}/file") as file:
        storage.write_bytes(f"{root}/file", b"b" * 1_000_000)
        with pytest.raises(StorageError, match=r"file was replaced or removed while it was read.*same command"):
            file.read()


@pytest.mark.parametrize("fault", LASTING)
def test_a_lasting_failure_names_the_path(proxy, root, monkeypatch, lines, fault):
    monkeypatch.setenv("REDUNDANCY_STORAGE_RETRY_S", "0.5")
    proxy.choose = first(10**6, fault)
    operations = [storage.read_bytes, lambda path: storage.write_bytes(path, b"x")]
    if fault == "503":
        operations += [storage.exists, storage.list_dir, storage.sha256, storage.remove, storage.generation]
        operations += [lambda path: storage.create_bytes(path, b"x"), lambda path: storage.stamps([path])]
    for operation in operations:
        started = time.monotonic()
        with pytest.raises(StorageError) as raised:
            operation(f"{root}/file")
        assert time.monotonic() - started < 60  # not the minutes of the default
        wanted = rf"{root}(/file)?: (.*)\. Tried \d+ times in \d+ s\. Check the network.*same command again"
        assert re.match(wanted, str(raised.value))[2].startswith("HTTP 503" if fault == "503" else ("Client", "S"))
    assert len(lines) == 1
    assert re.match(rf"{root}/file: failing \(.*\); trying again for 0 s", lines[0])


def test_an_outage_is_waited_for_and_logged(proxy, root, monkeypatch, lines):
    monkeypatch.setattr(retries, "_LINE_EVERY", 0.5)
    monkeypatch.setattr(retries, "_LONGEST", 0.2)
    storage.write_bytes(f"{root}/file", b"x")
    proxy.outage(2)
    started = time.monotonic()
    assert storage.read_bytes(f"{root}/file") == b"x"
    assert (seconds := time.monotonic() - started) > 1.9
    assert 2 <= len(lines) <= 1 + seconds / 0.5
    assert re.search(r"failing for \d+ s \(.*Connect call failed", lines[-1])


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        ("401", "credentials.*gcloud auth application-default login"),
        ("403", rf"role Storage Object Admin.*bucket '{gcs_emulator.BUCKET}'"),
        ("400", "Wanted: gs://BUCKET/PATH"),
    ],
)
def test_a_refusal_is_reported_at_once(proxy, root, status, wanted):
    proxy.choose = first(10**6, status)
    for operation in (
        storage.read_bytes,
        storage.exists,
        storage.list_dir,
        lambda path: storage.write_bytes(path, b""),
    ):
        proxy.requests.clear()
        with pytest.raises(StorageError, match=rf"{root}/file: refused \(.*{wanted}"):
            operation(f"{root}/file")
        assert len(proxy.requests) == 1


def test_a_missing_bucket_is_reported_at_once(proxy):
    for operation in (storage.exists, storage.list_dir, lambda path: storage.write_bytes(path, b"")):
        with pytest.raises(StorageError, match=r"gs://none/file: there is no bucket 'none'.*buckets create gs://none"):
            operation("gs://none/file")
    assert len(proxy.requests) < 6
    for path in ("gs:///file", "gs://", "gs://My Bucket/file"):
        with pytest.raises(DataError, match=r"names no bucket\. Wanted: gs://bucket/path"):
            storage.read_bytes(path)
    with pytest.raises(FileNotFoundError) as missing:
        storage.read_bytes(f"gs://{gcs_emulator.BUCKET}/none")
    assert missing.value.filename == f"gs://{gcs_emulator.BUCKET}/none"


def test_a_creation_whose_answer_is_lost_counts_once(proxy, root):
    proxy.choose = first(1, "lost", method="POST")
    assert storage.create_bytes(f"{root}/ours", b"ours")
    assert len([method for method, _ in proxy.requests if method == "POST"]) == 2
    # An existing file with the same bytes does not count as ours if no answer got lost.
    assert not storage.create_bytes(f"{root}/ours", b"ours")
    proxy.choose = first(1, "503", method="POST")
    assert not storage.create_bytes(f"{root}/ours", b"other")
    assert storage.read_bytes(f"{root}/ours") == b"ours"


def test_one_of_many_creators_succeeds_although_answers_get_lost(proxy, root):
    proxy.choose = faults_proxy.share(0.4, ("lost", "reset", "503"), seed=3)
    for number in range(5):
        created = []

        def create(name, path=f"{root}/{number}", created=created):
            created.append((storage.create_bytes(path, name.encode()), name))

        threads = [threading.Thread(target=create, args=(f"writer {each}",)) for each in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(done for done, _ in created) == 1
        winner = next(name for done, name in created if done)
        assert storage.read_bytes(f"{root}/{number}") == winner.encode()
    assert proxy.faults["lost"]


@pytest.mark.parametrize("fault", ["503", "reset", "lost"])
def test_large_uploads_resume_after_a_failure_and_are_atomic(proxy, root, monkeypatch, fault):
    data = os.urandom(1 << 20) * 51  # in two requests
    chunks = []

    def second(request):
        if "upload_id" in request.target and request.method == "POST":
            chunks.append(request)
            return fault if len(chunks) == 2 else None
        return None

    proxy.choose = second
    storage.write_bytes(f"{root}/large", data)
    assert len(chunks) == (5 if fault == "lost" else 3)  # the emulator forgets an upload that is done
    assert proxy.faults == {fault: 1}
    proxy.choose = lambda _: None
    assert storage.read_bytes(f"{root}/large") == data
    if fault == "reset":
        monkeypatch.setenv("REDUNDANCY_STORAGE_RETRY_S", "0.5")
        proxy.requests.clear()
        proxy.choose = lambda request: (
            fault if request.method == "DELETE" or "bytes 52" in request.headers.get("content-range", "") else None
        )
        with pytest.raises(StorageError, match="never"):
            storage.write_bytes(f"{root}/never", data)
        assert [method for method, _ in proxy.requests].count("DELETE") == 1  # cancelling is not tried again
        proxy.choose = lambda _: None
        assert not storage.exists(f"{root}/never")


def test_conditional_writes_and_removals_leave_changed_files_alone(proxy, root, tmp_path):
    for path in (f"{root}/lease", str(tmp_path / "lease"), "memory://gcs/lease"):
        assert storage.generation(path) is None
        storage.write_bytes(path, b"first")
        first_one = storage.generation(path)
        assert storage.generation(path) == first_one
        storage.write_bytes(path, b"second")
        assert not storage.remove_if(path, first_one)
        assert storage.read_bytes(path) == b"second"
        assert storage.remove_if(path, storage.generation(path))
        assert not storage.exists(path)
        assert not storage.remove_if(path, "1")
        assert storage.create_bytes(path, b"created")
        seen = storage.generation(path)
        assert storage.write_if(path, seen, b"renewed")
        assert not storage.write_if(path, seen, b"late")
        assert storage.read_bytes(path) == b"renewed"
        storage.remove(path)
        assert not storage.write_if(path, seen, b"late")
        assert not storage.exists(path)
    storage.write_bytes(f"{root}/lease", b"third")
    proxy.choose = first(1, "lost", method="POST")
    assert storage.write_if(f"{root}/lease", storage.generation(f"{root}/lease"), b"fourth")
    proxy.choose = first(10**6, "403", method="POST")
    with pytest.raises(StorageError, match=f"{root}/lease: refused"):
        storage.write_if(f"{root}/lease", "1", b"fifth")
    seen = storage.generation(f"{root}/lease")
    proxy.choose = first(1, "lost", method="DELETE")
    assert storage.remove_if(f"{root}/lease", seen)


def test_written_files_exist_before_listings_show_them(proxy, root):
    proxy.list_delay = 3600.0
    storage.write_json(f"{root}/manifest.json", {"a": 1})
    assert storage.list_dir(root) == []
    assert storage.exists(f"{root}/manifest.json")
    assert storage.read_json(f"{root}/manifest.json") == {"a": 1}
    assert not storage.create_bytes(f"{root}/manifest.json", b"")
    proxy.list_delay = 0.0
    assert storage.list_dir(root) == ["manifest.json"]
    storage.remove(f"{root}/manifest.json")
    assert not storage.exists(f"{root}/manifest.json")
    assert storage.create_bytes(f"{root}/manifest.json", b"{}")


def test_other_clients_of_this_process_are_as_patient(proxy, root):
    from etils import epath

    path = epath.Path(root) / "file"
    for fault in ("503", "reset", "lost"):
        proxy.choose = first(3, fault)
        path.write_bytes(b"x" * 1000)
        proxy.choose = first(3, fault)
        assert path.read_bytes() == b"x" * 1000
        proxy.choose = first(3, fault)
        assert path.exists()
        assert proxy.faults[fault] == 9
    assert [each.name for each in epath.Path(root).iterdir()] == ["file"]
    proxy.choose = first(1, "lost", method="DELETE")
    path.unlink()
    assert not path.exists()
    # Files that another process writes are visible at once.
    path.write_bytes(b"x")
    assert [each.name for each in epath.Path(root).iterdir()] == ["file"]
    url = f"{proxy.upstream}/upload/storage/v1/b/{gcs_emulator.BUCKET}/o?uploadType=media&name="
    name = root.removeprefix(f"gs://{gcs_emulator.BUCKET}/") + "/another"
    urllib.request.urlopen(urllib.request.Request(url + name, b"x")).close()
    assert (epath.Path(root) / "another").exists()
    assert [each.name for each in epath.Path(root).iterdir()] == ["another", "file"]


def test_a_wrong_setting_is_named_when_gs_is_opened(proxy, root, monkeypatch):
    monkeypatch.setenv("REDUNDANCY_STORAGE_TIMEOUT_S", "soon")
    with pytest.raises(ConfigError, match=r"^The environment variable REDUNDANCY_STORAGE_TIMEOUT_S is 'soon'"):
        storage.exists(f"{root}/x")
