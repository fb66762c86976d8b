"""Configs by name and by path, and what a config may import: the same for every way to start the program."""

import contextlib
import os
import pathlib
import runpy
import subprocess
import sys
import textwrap

import pytest

from redundancy import config as config_lib
from redundancy.config import evaluate, find, load
from redundancy.runtime.errors import ConfigError

BASE = "from redundancy.config import defaults\n\n\ndef get_config(arg=''):\n    config = defaults()\n"
STEPS = BASE + "    config.steps = {steps}\n    return config\n"
IMPORTS = "import {base} as base\n\n\ndef get_config(arg=''):\n    return base.get_config(arg)\n"


def write(path: pathlib.Path, text: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture(autouse=True)
def nothing_stays():
    before, names = sys.path[:], {*sys.modules}
    yield
    assert sys.path == before
    assert {
        name for name in {*sys.modules} - names if name.startswith(("base", "configs", "config of", "mine"))
    } == set()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own that the test works in."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


# Names and paths.


@pytest.mark.parametrize("name", config_lib.shipped())
def test_a_shipped_config_is_found_by_name_and_works_as_a_copy(name, elsewhere, repo):
    argument = ":images" if name == "folder" else ""
    by_name = load(name + argument)
    assert find(name).samefile(repo / "configs" / f"{name}.py")
    copy = write(elsewhere / "mine.py", find(name).read_text())
    assert load(f"mine.py{argument}") == load(f"{copy}{argument}") == by_name
    assert load(f"{repo}/configs/{name}.py{argument}") == by_name
    config_lib.resolve(by_name)


def test_arguments():
    assert load("digits:quick").steps == 200
    assert load("digits:") == load("digits")
    assert load("cifar100:smoke").dataset == "cifar100"
    assert load("cifar100:smoke").steps == load("cifar10:smoke").steps
    assert load("folder:/a:b:smoke").dataset == "/a:b"


def test_a_path_has_a_slash_or_ends_in_py(elsewhere, monkeypatch):
    monkeypatch.setenv("HOME", str(elsewhere))
    for name in ("mine.py", "mine", "digits2"):
        write(elsewhere / name, STEPS.format(steps=7))
    for given in ("mine.py", "./mine.py", "./mine", f"{elsewhere}/mine", "~/mine.py"):
        assert load(given).steps == 7, given
    with pytest.raises(ConfigError, match=r"no config of this name\. For the file here: --config=\./mine\."):
        load("mine")
    with pytest.raises(ConfigError, match=r"no config of this name\. For the file here: --config=\./digits2\."):
        load("digits2")


def test_what_is_not_there_names_what_is(elsewhere):
    with pytest.raises(
        ConfigError, match=r'no config of this name\. Did you mean "cifar10"\? .*\(cifar10, .*, imagenet\)'
    ):
        load("cifar1")
    with pytest.raises(ConfigError, match=r'no file configs/cifar10\.py\. .* Did you mean "cifar10"\?'):
        load("configs/cifar10.py:quick")
    with pytest.raises(ConfigError, match="no config of this name"):
        load("")
    with pytest.raises(ConfigError, match=r"no file \./cifar10"):
        load("./cifar10")


def test_a_name_that_may_be_a_file_here_is_refused(elsewhere, monkeypatch):
    (elsewhere / "digits").mkdir()  # a workdir is no file
    assert load("digits").dataset == "digits"
    write(elsewhere / "digits.py", STEPS.format(steps=7))
    with pytest.raises(
        ConfigError, match=r"--config=digits may be the file digits\.py .*Wanted: \./digits\.py or (.*)\.$"
    ) as caught:
        load("digits:smoke")
    assert load("./digits.py").steps == 7
    assert load(str(caught.value).rpartition(" or ")[2].removesuffix(".")).dataset == "digits"
    monkeypatch.chdir(find("cifar10").parent)  # where they are edited
    assert load("digits").dataset == "digits"


def test_configs_of_an_installed_package_come_first(tmp_path, monkeypatch):
    write(tmp_path / "site/redundancy/configs/only.py", STEPS.format(steps=7))
    write(tmp_path / "site/configs/foreign.py", STEPS.format(steps=8))
    monkeypatch.setattr("redundancy.config.loading._PACKAGE", tmp_path / "site/redundancy")
    assert [*config_lib.shipped()] == ["only"]
    assert load("only").steps == 7


# What a config may import.


def test_what_lies_beside_it(elsewhere, tmp_path):
    write(tmp_path / "a/configs/base.py", STEPS.format(steps=7))
    ways = ("import base", "from configs import base", "from . import base", "import configs.base as base")
    for way in ways:
        mine = write(tmp_path / "a/configs/mine.py", f"{way}\n\n\ndef get_config():\n    return base.get_config()\n")
        assert load(str(mine)).steps == 7, way
        late = write(tmp_path / "a/configs/late.py", f"def get_config():\n    {way}\n    return base.get_config()\n")
        if way != "from . import base":
            assert load(str(late)).steps == 7, way
    package = write(tmp_path / "a/configs/__init__.py", "").parent
    assert load(f"{package}/mine.py").steps == 7


def test_the_same_names_in_two_folders(tmp_path):
    for folder, steps in (("a", 7), ("b", 8)):
        write(tmp_path / folder / "configs/base.py", STEPS.format(steps=steps))
        for name, way in (("mine", "import base"), ("ours", "from configs import base")):
            write(tmp_path / folder / f"configs/{name}.py", f"{way}\nget_config = base.get_config\n")
    for _ in range(2):
        for name in ("mine", "ours"):
            assert load(f"{tmp_path}/a/configs/{name}.py").steps == 7
            assert load(f"{tmp_path}/b/configs/{name}.py").steps == 8
    # One that starts from the other, and imports its own afterwards.
    both = f"""
        import base
        from redundancy.config import load

        def get_config(arg=""):
            other = load("{tmp_path}/b/configs/mine.py")
            import base as again
            from configs import base as third
            config = base.get_config()
            config.trials, config.seed = other.steps, again.get_config().steps + third.get_config().steps
            return config
    """
    config = load(str(write(tmp_path / "a/configs/both.py", both)))
    assert (config.steps, config.trials, config.seed) == (7, 8, 14)


def test_modules_of_the_caller_step_aside_and_come_back(tmp_path, monkeypatch):
    write(tmp_path / "caller/base/__init__.py", "STEPS = 1\n")
    write(tmp_path / "caller/base/deep.py", "")
    write(tmp_path / "caller/configs/base.py", "STEPS = 2\n")
    monkeypatch.syspath_prepend(tmp_path / "caller")
    with own_modules("base", "base.deep", "configs", "configs.base"):
        import base
        import base.deep
        import configs.base

        write(tmp_path / "a/configs/base.py", STEPS.format(steps=7))
        for way in ("import base", "from configs import base"):
            mine = write(tmp_path / "a/configs/mine.py", f"{way}\nget_config = base.get_config\n")
            assert load(str(mine)).steps == 7
        assert (sys.modules["base"], sys.modules["base.deep"]) == (base, base.deep)
        assert sys.modules["configs.base"] is configs.base
        # Where the config's folder has none of that name, the caller's is meant.
        other = write(
            tmp_path / "b/mine.py", BASE + "    import base\n    config.steps = base.STEPS\n    return config\n"
        )
        assert load(str(other)).steps == 1


@contextlib.contextmanager
def own_modules(*names):
    kept = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(kept)


def test_installed_packages_are_not_loaded_again(tmp_path):
    """Folders that happen to have their names, as a folder of experiments with JAX may."""
    import jax
    import numpy

    write(tmp_path / "jax/numpy/notes.txt", "")
    write(tmp_path / "jax/json.py", "raise ValueError")
    write(tmp_path / "jax/redundancy/__init__.py", "raise ValueError")
    text = BASE + "    import json, jax, numpy\n    config.steps = id(jax) + id(numpy)\n    return config\n"
    mine = write(tmp_path / "jax/mine.py", text)
    assert load(str(mine)).steps == id(jax) + id(numpy)
    assert sys.modules["jax"] is jax


def test_what_a_config_imports_from_elsewhere_stays(tmp_path, monkeypatch):
    write(tmp_path / "site/base_of_site.py", "")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with own_modules("base_of_site"):
        load(str(write(tmp_path / "site/mine.py", "import base_of_site\n" + STEPS.format(steps=7))))
        assert "base_of_site" in sys.modules
        del sys.modules["base_of_site"]


def test_a_dataclass_in_a_config(tmp_path):
    text = """
        from __future__ import annotations
        import dataclasses
        from redundancy.config import defaults

        @dataclasses.dataclass
        class Recipe:
            steps: int = 7

        def get_config():
            config = defaults()
            config.steps = Recipe().steps
            return config
    """
    assert evaluate(write(tmp_path / "mine.py", text)).steps == 7
    assert os.listdir(tmp_path) == ["mine.py"]


def test_a_config_that_fails_is_named(tmp_path):
    for text, said in {
        "import base": r"mine\.py cannot be read: ModuleNotFoundError: No module named 'base'",
        "def get_config(:": r"mine\.py cannot be read: SyntaxError: .*line 1",
        "def get_config():\n    return 1 / 0": "ZeroDivisionError: division by zero",
        "def get_config(a, b):\n    return 1": "TypeError: get_config",
        "get_configs = 3": r"mine\.py has no function get_config\(arg\)",
        "\0": "cannot be read: ",
    }.items():
        with pytest.raises(ConfigError, match=said):
            evaluate(write(tmp_path / "mine.py", text))


@pytest.mark.soak
def test_the_console_script_and_python_m_read_the_same(tmp_path, repo, child_env):
    """From a folder from which only one of them would find the modules by itself."""
    write(tmp_path / "a/configs/base.py", STEPS.format(steps=0))
    write(tmp_path / "top.py", STEPS.format(steps=0))
    script = "import sys; sys.path[0] = '/nowhere'; sys.argv[0] = 'redundancy'; from redundancy.cli.main import command; command()"
    env = {**child_env, "PYTHONPATH": str(repo)}
    for way in ("import base", "from configs import base", "import top as base", "from a.configs import base"):
        write(tmp_path / "a/configs/mine.py", f"{way}\nget_config = base.get_config\n")
        for start in (["-c", script], ["-m", "redundancy"]):
            argv = [sys.executable, *start, "train", "--config=a/configs/mine.py", "--workdir=w"]
            done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False)
            assert "config.steps is 0" in done.stderr, (way, start, done.stderr)


def test_no_shipped_config_needs_its_folder(repo):
    """`redundancy configs NAME > mine.py` is whole: nothing is read beside the file."""
    for path in (repo / "configs").glob("*.py"):
        assert runpy.run_path(str(path))["get_config"]
        assert "__file__" not in path.read_text()
