"""Shared fixtures. The environment is set before JAX or TensorFlow is imported anywhere."""

import gc
import os
import pathlib
import signal
from collections.abc import Iterator
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("EPATH_USE_TF", "false")
# Most tests wait for compilations of tiny networks. Those in faults/test_survival.py run the programs as they come.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    # From 0.11 on it is unknown, which ends the process.
    + (" --xla_cpu_use_fusion_emitters=false" if version("jax").startswith("0.10.") else ""),
)

import jax
import numpy as np
import pytest
from hypothesis import settings
from sklearn.datasets import load_digits

import tests.models.interpreter  # imports Triton, which from 3.7 on crashes if it comes after TensorFlow
import tests.tiers  # noqa: F401  (registers the profiles)
from tests.command_server import Server

pytest_plugins = ["pytester", "tests.leaves_no_trace"]
settings.load_profile("test")  # --hypothesis-profile=soak comes later
REPO = pathlib.Path(__file__).resolve().parents[1]


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """What Matplotlib and Keras write when they are imported, which collecting does, lies with the session's files.

    A shell starts what ends with & with SIGINT ignored, and children would inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = config._tmp_path_factory.getbasetemp()
    os.environ |= {"MPLCONFIGDIR": str(folder / "matplotlib"), "KERAS_HOME": str(folder / "keras")}


def pytest_collection_finish():
    """What was imported for all tests stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory) -> Iterator[pathlib.Path]:
    """A cache folder and a home for this session and its child processes, which so leave the user's alone.

    What one of them compiles is there for all, those of the session's other workers too; each worker has its own home.
    """
    folder = tmp_path_factory.getbasetemp()
    home = folder / "home"
    home.mkdir()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        yield folder


@pytest.fixture(scope="session")
def repo() -> pathlib.Path:
    return REPO


@pytest.fixture(scope="session")
def digits_npz(tmp_path_factory) -> pathlib.Path:
    """The bundled digits as an .npz file: 1,347 for training, 450 for testing."""
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(
        path,
        train_images=images[:1347],
        train_labels=digits.target[:1347],
        test_images=images[1347:],
        test_labels=digits.target[1347:],
    )
    return path


@pytest.fixture(scope="session")
def child_env(cache_home) -> dict[str, str]:
    """Environment of child processes: CPU, one device, programs compiled quickly."""
    return {**os.environ, "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="session")
def command_server(child_env, tmp_path_factory) -> Iterator[Server]:
    """A process that runs command lines as `redundancy` does, without the imports of each."""
    started = Server(child_env, tmp_path_factory.mktemp("commands"))
    yield started
    started.close()


@pytest.fixture
def redundancy(child_env, command_server):
    """Runs the command line in a process of its own: redundancy("run", "--config=…") -> CompletedProcess."""

    def run(*args, timeout=300):
        done, _ = command_server.run(args, env=child_env, seconds=timeout)
        assert done.returncode != -9, f"not done in {timeout} s: {done.stderr[-3000:]}"
        return done

    return run
