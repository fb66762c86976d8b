"""What goes into the wheel. .ci/wheel builds, installs and uses it."""

import fnmatch
import runpy
import subprocess
import tomllib

import pytest


@pytest.fixture
def packaging(repo, monkeypatch):
    """What setup.py gives to setuptools, and package-data of pyproject.toml."""
    given = {}
    monkeypatch.setattr("setuptools.setup", lambda **arguments: given.update(arguments))
    monkeypatch.chdir(repo)
    runpy.run_path("setup.py")
    data = tomllib.loads((repo / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    return given["packages"], given["package_dir"], data["redundancy"]


def test_every_file_of_the_program_is_in_it(repo, packaging):
    packages, _, data = packaging
    listed = subprocess.run(["git", "ls-files", "redundancy"], cwd=repo, capture_output=True, text=True, check=False)
    files = listed.stdout.split() or pytest.skip("no git checkout")
    for file in files:
        folder, _, name = file.rpartition("/")
        if name.endswith(".py"):
            assert folder.replace("/", ".") in packages, file
        else:
            assert any(fnmatch.fnmatch(file.removeprefix("redundancy/"), pattern) for pattern in data), file


def test_the_configs_are_and_nothing_else(packaging):
    packages, folders, _ = packaging
    assert folders == {"redundancy.configs": "configs"}
    assert "redundancy.configs" in packages
    assert all(package.split(".")[0] == "redundancy" for package in packages)
