"""What works without the packages of an extra, and what is said where they are missing."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest

from redundancy.cli.explain import verdict
from redundancy.runtime import extras
from redundancy.runtime.errors import ConfigError

# Starts the command line in a Python that cannot import the modules of the extras.
WITHOUT = """
import sys
from redundancy.runtime import extras
for module in [module for modules in extras.EXTRAS.values() for module in modules]:
    sys.modules[module] = None
sys.argv[0] = "redundancy"
from redundancy.cli.main import command
command()
"""


@pytest.fixture
def small(tmp_path, repo, child_env):
    """Runs a command line in an installation without extras, in tmp_path."""
    env = {**child_env, "PYTHONPATH": str(repo)}

    def run(*args):
        argv = [sys.executable, "-c", WITHOUT, *args]
        return subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False)

    return run


def test_the_modules_are_those_of_the_packages(repo):
    listed = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = importlib.metadata.packages_distributions()
    for extra, modules in extras.EXTRAS.items():
        wanted = {re.match(r"[\w-]+", each)[0].lower().replace("_", "-") for each in listed[extra]}
        if extra in ("gpu", "preflight"):  # which need not be installed here
            continue
        given = [{name.lower().replace("_", "-") for name in packages[module]} for module in modules]
        assert all(names & wanted for names in given), extra
        assert wanted <= set().union(*given), extra


@pytest.mark.soak
def test_clustering_needs_no_extra(small, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "E.npy", rng.normal(size=(60, 6)).astype(np.float32))
    np.save(tmp_path / "Y.npy", rng.permutation(np.arange(60) % 3))
    for line in (
        "import --workdir w --embeddings E.npy --labels Y.npy",
        "link --config embeddings --workdir w",
        "select --config embeddings --workdir w",
        "export --workdir w --fraction 0.9 --format npy --output kept.npy",
        "export --workdir w --fraction 0.9 --format projector --output projector",
        "status --workdir w",
    ):
        done = small(*line.split())
        assert done.returncode == 0, done.stderr
    assert len(np.load(tmp_path / "kept.npy")) == 54


@pytest.mark.parametrize(
    "line",
    [
        "run --config digits --workdir w",
        "report --config digits --workdir w",
        "preflight --config imagenet --topology v5e:4x4",
        "import --config digits --workdir w --embeddings E.npy --labels Y.npy",
        "report --compare w w",
    ],
)
def test_a_command_that_needs_an_extra_names_it(small, tmp_path, line):
    np.save(tmp_path / "E.npy", np.ones((4, 2), np.float32))
    np.save(tmp_path / "Y.npy", np.zeros(4, int))
    done = small(*line.split())
    assert done.returncode in (1, 2)
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        r'redundancy: error: .* needs \w+, which is not installed: pip install "redundancy\[train\]"\.', last
    )
    assert line.startswith("import") or not (tmp_path / "w").exists()  # told before anything is made


def test_other_modules_are_not_of_an_extra():
    assert extras.hint("nothing.else") is None
    assert 'redundancy[train]"' in extras.hint("tensorflow.python")
    extras.need("train", "this")
    assert "a bug" in verdict(ModuleNotFoundError("No module named 'x'", name="x"))[1]


def test_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(
        ConfigError, match=r'^train needs optax, which is not installed: pip install "redundancy\[train\]"\.$'
    ):
        extras.need("train", "train")
