"""Compiles a config's programs for a TPU slice or a GPU in a child process, on a machine that has neither."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from redundancy import config as config_lib
from redundancy.preflight import gpus
from redundancy.preflight.generations import Topology
from redundancy.preflight.shapes import Shapes
from redundancy.runtime.errors import ConfigError, UserError

PROGRAMS = ("train", "embed")
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is opened, so other processes may use libtpu too
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class CompileError(UserError):
    """The programs cannot be compiled here."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What to compile.

    Attributes:
      config: resolved config.
      topology: the slice or GPU.
      shapes: shapes of the data set.
      trials: number of simultaneous trainings; 1 as in the stage train.
      programs: names from PROGRAMS.
    """

    config: object
    topology: Topology
    shapes: Shapes
    trials: int = 1
    programs: tuple[str, ...] = PROGRAMS


def need_compiler(topology: Topology) -> None:
    """Raises CompileError if the compiler for a topology is not installed."""
    if topology.gpu:
        if importlib.util.find_spec("jax_cuda13_plugin") is None:
            raise CompileError(
                "preflight compiles for GPUs with XLA's CUDA plugin, which is not installed and needs no GPU (4.6 GB): "
                'pip install "redundancy[train,cuda]", and with the extra gpu for formulation packed.'
            )
    elif importlib.util.find_spec("libtpu") is None:
        raise CompileError(
            "preflight compiles with libtpu, TPU's compiler, which is not installed and needs no TPU: "
            'pip install "redundancy[train,tpu]", or pip install libtpu.'
        )


def check(request: Request) -> None:
    """Raises ConfigError if the config's batch cannot be divided among the chips."""
    config, chips = request.config, request.topology.chips
    if config.data_parallel and chips % config.data_parallel:
        raise ConfigError(
            f"config.data_parallel is {config.data_parallel}, which does not divide the {chips} chips of "
            f"{request.topology.name}; choose a divisor, or 0 to spread the batch over all."
        )


def run(request: Request, module: str = "redundancy.preflight.child") -> dict:
    """Compiles the programs; returns memory, FLOPs, bytes and collectives of each program, per chip.

    Args:
      request: what to compile.
      module: module to run as the child process.

    Returns:
      mesh (trials, chips per batch), parameters, parameter_bytes, and programs: name -> fits, images_per_chip, and either
      hbm_used, flops, bytes_accessed, collectives, or needed (bytes, 0 if unknown) and message.

    Raises:
      ConfigError: the batch cannot be divided among the chips.
      CompileError: the compiler is not installed, or the compilation failed.
    """
    check(request)
    need_compiler(request.topology)
    shapes = request.shapes
    given = {
        "config": config_lib.to_json(request.config),
        "topology": request.topology.name,
        "image": shapes.image,
        "classes": shapes.classes,
        "images": shapes.images,
        "resident": shapes.resident,
        "trials": request.trials,
        "programs": request.programs,
    }
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    root = str(pathlib.Path(__file__).resolve().parents[2])
    if request.topology.gpu:
        environment["LD_LIBRARY_PATH"] = gpus.library_path()
    environment["PYTHONPATH"] = os.pathsep.join(part for part in (root, environment.get("PYTHONPATH")) if part)
    with tempfile.TemporaryDirectory() as folder:
        request_path, result_path = os.path.join(folder, "request.json"), os.path.join(folder, "result.json")
        with open(request_path, "w") as file:
            json.dump(given, file)
        done = subprocess.run(
            [sys.executable, "-m", module, request_path, result_path],
            env={**environment, **ENVIRONMENT},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode or not os.path.exists(result_path):
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CompileError(f"compiling for {request.topology.name} failed (exit code {done.returncode}): {last}")
        with open(result_path) as file:
            return json.load(file)
