"""The report served at an address of this machine: its files and nothing else, and only under this address."""

import contextlib
import http.client
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import gcs_emulator
import pytest

from redundancy import storage
from redundancy.report import serve
from redundancy.runtime.errors import ConfigError, WorkdirError
from redundancy.workdir import Workdir
from tests.ports import free_port
from tests.waiting import ending

PAGE = b"<!doctype html><title>report</title>"


@contextlib.contextmanager
def serving(workdir):
    server = serve.make_server(workdir, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(port, path, method="GET", host=None, headers=()):
    """Sends the path as it is: status, header fields, body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest(method, path, skip_host=True)
    for name in [f"127.0.0.1:{port}"] if host is None else host:
        connection.putheader("Host", name)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def fill(root):
    for name, data in (
        ("report/index.html", PAGE),
        ("report/figures/figure2.svg", b"<svg/>"),
        ("report/figures/figure2.pdf", b"%PDF"),
        ("report/classes/00003.js", b"x()"),
        ("report/.hidden.txt", b"hidden"),
        ("config.json", b"secret"),
    ):
        storage.write_bytes(storage.join(root, name), data)
    return Workdir(root)


@pytest.fixture
def workdir(tmp_path):
    return fill(str(tmp_path / "w"))


def test_the_files_of_the_report(workdir):
    with serving(workdir) as port:
        for path, data, kind in (
            ("/", PAGE, "text/html; charset=utf-8"),
            ("/index.html?x=../config.json", PAGE, "text/html; charset=utf-8"),
            ("/figures/figure2.svg", b"<svg/>", "image/svg+xml"),
            ("/figures/figure2.pdf", b"%PDF", "application/pdf"),
            ("/classes/00003.js", b"x()", "text/javascript; charset=utf-8"),
        ):
            status, fields, body = ask(port, path)
            assert (status, fields["Content-Type"], body) == (200, kind, data)
            assert fields["Cache-Control"] == "no-store"
            assert fields["X-Content-Type-Options"] == "nosniff"
            assert ask(port, path, "HEAD")[::2] == (200, b"")
            assert ask(port, path, "HEAD")[1]["Content-Length"] == str(len(data))
        storage.write_bytes(workdir.path("report/index.html"), b"again")
        assert ask(port, "/")[2] == b"again"


def test_nothing_else(workdir, tmp_path):
    (tmp_path / "outside.txt").write_text("secret")
    report = pathlib.Path(workdir.report)
    (report / "link.txt").symlink_to(tmp_path / "outside.txt")
    (report / "folder").symlink_to(tmp_path)
    (report / "inside.html").symlink_to("index.html")
    os.mkfifo(report / "pipe.txt")
    (report / "dir.txt").mkdir()
    with serving(workdir) as port:
        for path in (
            "/../config.json", "/%2e%2e/config.json", "/%2e%2e%2fconfig.json", "/figures/../../config.json",
            "/..%5cconfig.json", "/..\\config.json", "//config.json", "/./config.json", "/config.json", "/%252e%252e/x.json",
            "/link.txt", "/folder/outside.txt", "/folder/w/config.json", "/pipe.txt", "/dir.txt", "/figures/", "/figures",
            "/.hidden.txt", "/%00.txt", "/index.html%00.js", "/%ff.html", f"/{workdir.root}/config.json", "/" + "a" * 5000,
            "/" + "a" * 300 + ".txt", "*", "config.json", f"http://127.0.0.1:{port}/../config.json", "/C:/x.txt", "/index.html/",
        ):  # fmt: skip
            status, _, body = ask(port, path)
            assert status == 404, path
            assert b"secret" not in body
            assert b"hidden" not in body
        assert ask(port, "/inside.html")[::2] == (200, PAGE)
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            assert ask(port, "/", method)[0] in (405, 501)


def test_who_asks_for_another_address_gets_nothing(workdir):
    with serving(workdir) as port:
        for host in (
            ["evil.example"], [f"evil.example:{port}"], ["127.0.0.1"], ["localhost"], [f"localhost:{port + 1}"], [],
            [f"127.0.0.1:{port}", "evil.example"], [f"127.0.0.1:{port}.evil.example"], [""], [f"0.0.0.0:{port}"],
        ):  # fmt: skip
            assert ask(port, "/", host=host)[0] == 421, host
        for host in (f"localhost:{port}", f"LocalHost:{port}"):
            assert ask(port, "/", host=[host])[::2] == (200, PAGE)
        with pytest.raises(OSError), socket.create_connection((socket.gethostbyname(socket.gethostname()), port), 2):  # noqa: PT011, PT012
            if socket.gethostbyname(socket.gethostname()).startswith("127."):
                raise OSError("this machine has no other address")


def test_what_is_missing_and_a_port_that_is_taken(workdir, tmp_path):
    with pytest.raises(WorkdirError, match=r'"redundancy report --config FILE --workdir .*" writes it'):
        serve.make_server(Workdir(str(tmp_path / "none")), 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port={port}: the port is taken .* --port={port + 1}"):
            serve.make_server(workdir, port)


def test_it_serves_in_any_thread(workdir, monkeypatch):
    server = serve.make_server(workdir, 0)
    monkeypatch.setattr(serve, "make_server", lambda *_: server)
    thread = threading.Thread(target=serve.browse, args=(workdir, None, True))
    thread.start()
    assert ask(server.server_address[1], "/")[::2] == (200, PAGE)
    server.shutdown()
    thread.join()


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_the_command_tells_the_address_and_ends_in_silence(workdir, repo, child_env, ended_by):
    port = free_port()
    command = [sys.executable, "-m", "redundancy", "browse", f"--workdir={workdir.root}", f"--port={port}", "--no-open"]
    child = subprocess.Popen(
        command, cwd=repo, env=child_env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with ending([child]):
        assert f"http://127.0.0.1:{port}/ serves {workdir.report}" in child.stdout.readline()
        assert ask(port, "/")[::2] == (200, PAGE)
        child.send_signal(ended_by)
        said, errors = child.communicate(timeout=120)
        assert (errors, "saved" in said) == ("", False)
        assert child.returncode == 0


def test_of_a_bucket(child_env, repo, tmp_path):
    with gcs_emulator.running() as url:
        code = """
import sys
sys.path[:0] = ["tests", "tests/report"]
import test_browse as t
workdir = t.fill("gs://bucket/w")
with t.serving(workdir) as port:
    print([t.ask(port, path)[::2] for path in ("/", "/classes/00003.js", "/../config.json", "/none.txt")])
"""
        env = {**child_env, **gcs_emulator.environ(url), "PYTHONPATH": f"{repo}"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=repo, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        found = eval(done.stdout.splitlines()[-1])
        assert found[:2] == [(200, PAGE), (200, b"x()")]
        assert [status for status, _ in found[2:]] == [404, 404]
