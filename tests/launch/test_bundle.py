"""The code as one file: what is in it, that equal code is an equal file, and that no key goes along."""

import os
import pathlib
import subprocess

import pytest

from launch import bundle
from redundancy.runtime.errors import UserError


@pytest.fixture
def git(tmp_path, monkeypatch):
    """Runs git in a fresh repository, tmp_path/code, which has two files that are tracked."""
    for name, value in {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}.items():
        monkeypatch.setenv(name, value)
    root = tmp_path / "code"

    def run(*words, cwd=root):
        who = ("-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "protocol.file.allow=always")
        subprocess.run(["git", *who, *words], cwd=cwd, check=True, capture_output=True)

    files(root, {"a.py": "a = 1\n", "folder/run.sh": "#!/bin/sh\n", ".gitignore": "*.log\n/data/\n"})
    (root / "folder/run.sh").chmod(0o755)
    run("init", "-q")
    run("add", "-A")
    run("commit", "-q", "-m", "first")
    return run


@pytest.fixture
def root(git, tmp_path):
    return tmp_path / "code"


def files(root, contents):
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def unpacked(made, folder):
    """As the hosts unpack it: content or target of each file, and whether it can be executed."""
    folder.mkdir()
    subprocess.run(["tar", "-xzf", "-", "-C", str(folder)], input=made.data, check=True)
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = os.readlink(path)
        elif path.is_file():
            found[str(path.relative_to(folder))] = (path.read_text(), os.access(path, os.X_OK))
    return found


def test_equal_code_is_an_equal_file(root, git, tmp_path):
    first = bundle.make(root)
    os.utime(root / "a.py", (1, 1))
    (root / "a.py").chmod(0o600)
    assert bundle.make(root) == first
    git("clone", "-q", str(root), str(tmp_path / "other"), cwd=tmp_path)
    (tmp_path / "other/a.py").unlink()  # made last, and untracked
    git("rm", "-q", "--cached", "a.py", cwd=tmp_path / "other")
    files(tmp_path / "other", {"a.py": "a = 1\n"})
    assert bundle.make(tmp_path / "other") == first
    files(root, {"a.py": "a = 2\n"})
    assert bundle.make(root).name != first.name
    assert first.name == f"bundles/{first.sha256}.tar.gz"


def test_what_lies_there_now_is_in_it(root, git, tmp_path):
    empty = ("new/file.py", "staged.py", "x.log", "data/set", "folder/gone")
    files(root, {"a.py": "edited\n", **dict.fromkeys(empty, "")})
    git("add", "staged.py", "folder/gone")
    (root / "folder/gone").unlink()
    found = unpacked(bundle.make(root), tmp_path / "there")
    assert set(found) == {".gitignore", "a.py", "folder/run.sh", "new/file.py", "staged.py"}
    assert found["a.py"] == ("edited\n", False)
    assert found["folder/run.sh"] == ("#!/bin/sh\n", True)


def test_names_of_all_kinds(root, tmp_path):
    names = [
        "with blanks.py",
        "ü/日本.py",
        "two\nlines.py",
        "-rf",
        "a'b\"c",
        "x" * 200 + "/" + "y" * 200,
        os.fsdecode(b"\xff.py"),
    ]
    files(root, dict.fromkeys(names, "text"))
    assert set(names) < set(unpacked(bundle.make(root), tmp_path / "there"))


@pytest.mark.parametrize(
    "name",
    [".env", "folder/.env.local", "id_rsa", "keys/id_ed25519", "server.pem", "SERVER.PEM", "tls.key", "my-credentials.json",
     "service_account.json", "sa/service-account-1.json", "project-1a2b3c.json"],
)  # fmt: skip
def test_keys_are_refused(root, git, name):
    files(root, {name: '{"type": "service_account", "private_key": "x"}'})
    with pytest.raises(UserError, match=f"^{name}: looks like a key, .* name it in .gitignore"):
        bundle.make(root)
    files(root, {".gitignore": f"{name}\n"})
    assert name not in bundle.make(root).files


def test_names_that_are_no_keys(root):
    names = ["environment.py", "id_map.py", "keys.py", "data/credentials.md", "results.json", "id_rsa.pub"]
    files(root, dict.fromkeys(names, "{}"))
    (root / ".gitignore").unlink()
    assert set(names) < set(bundle.make(root).files)


def test_too_much_is_told_with_the_largest_files(root, monkeypatch):
    monkeypatch.setattr(bundle, "MAX_BYTES", 3 * 2**20)
    for index in range(5):
        (root / f"array-{index}.npy").write_bytes(bytes(index * 2**19))
    with pytest.raises(
        UserError, match=r"has 5 MiB; wanted at most 3. The largest files are array-4.npy, array-3.npy, arr"
    ):
        bundle.make(root)


def test_no_checkout(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is no git checkout"):
        bundle.make(tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="is no git checkout"):
        bundle.make(tmp_path)


def test_links_within_the_checkout_stay_links(root, tmp_path):
    (root / "link.py").symlink_to("a.py")
    (root / "folder/up").symlink_to("../a.py")
    (root / "there").symlink_to("folder")
    (root / "broken").symlink_to("broken")
    found = unpacked(bundle.make(root), tmp_path / "there")
    links = {name: found[name] for name in ("link.py", "folder/up", "there", "broken")}
    assert links == {"link.py": "a.py", "folder/up": "../a.py", "there": "folder", "broken": "broken"}
    assert (tmp_path / "there/link.py").read_text() == "a = 1\n"


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret"])
def test_links_that_lead_elsewhere_are_refused(root, target, tmp_path):
    (tmp_path / "secret").write_text("")
    (root / "folder/link").symlink_to(target)
    with pytest.raises(UserError, match=rf"link is a link to {target}, out of the checkout"):
        bundle.make(root)


def test_a_submodule_is_left_out(root, git, tmp_path):
    git("clone", "-q", str(root), str(tmp_path / "module"), cwd=tmp_path)
    git("submodule", "add", "-q", str(tmp_path / "module"), "module")
    assert set(bundle.make(root).files) == {".gitignore", ".gitmodules", "a.py", "folder/run.sh"}


def test_this_checkout_has_what_the_hosts_need(repo):
    needed = {
        "launch/worker.py",
        "launch/setup_worker.sh",
        "pyproject.toml",
        "constraints.txt",
        "redundancy/cli/main.py",
    }
    assert needed <= set(bundle.make(pathlib.Path(repo)).files)
