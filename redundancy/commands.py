"""The commands that are no stages, `import`, `export` and `preflight`, and the flags that only some commands have."""

import dataclasses
import functools
import importlib.util
import os
import re
from collections.abc import Callable

from absl import flags

from redundancy import parts, processes
from redundancy.errors import ConfigError
from redundancy.workdir import STAGES, Workdir

IMPORT_HELP = """\
redundancy import: brings embeddings that any model made, with their labels, into a workdir; then link and select them.

  redundancy import --workdir DIR --embeddings E.npy --labels Y.npy [--ids I.txt]
  redundancy import --workdir DIR --embeddings "part-*.parquet" --columns embedding=emb,label=cls,id=path
  redundancy link   --config configs/embeddings.py --workdir DIR
  redundancy select --config configs/embeddings.py --workdir DIR

  --embeddings   .npy [N, d] of float16, float32 or float64, read part by part; or a Parquet file, or a folder or
                 quoted pattern of them in the order of their names, with a column of lists of d numbers. Rows of
                 float64 beyond float32 are scaled by a power of two: another length, the same cosines
  --labels       .npy or .txt with a whole number or a name for each embedding, or .csv; not needed if the Parquet
                 files have a column of labels. Numbers 0 to K-1 stay; others are numbered in their sorted order
  --ids          .txt with an id a line, or .csv: what "export --format txt" writes (optional)
  --columns      KEY=NAME,... where KEY is embedding (default: embedding), label (default: label) or id: columns of the
                 Parquet files, or label and id of a .csv with a header
  --class-names  .txt with a name a line, for the labels 0, 1, ... (optional)
  --layer        start, middle or end (default): the name of the store, embeddings/LAYER/
  --name         of the data set (default: the name of the embeddings' file)
  --checkpoint   free text: which model made them
  --parts        files of the store (default: as many as make 256 MB each)
  --config       the config of a data set, with its --config.FIELD=VALUE: the embeddings are those of its training
                 images in stored order, the labels are compared, and "sweep" can train on the subsets later

Without --config the position of an embedding is its row, counted from 0. Nothing is unpickled, nothing overwritten; an
interrupted import continues when the same command is given again.
"""

EXPORT_HELP = """\
redundancy export: writes what a subset keeps to a file for other tools.

  redundancy export --workdir DIR --fraction 0.9 --format npy --output kept.npy

  --fraction   of the subset, exactly one that was selected, up to 1
  --format     npy      positions, int64, ascending
               txt      a line for each image: its id, where ids were imported, else its position; the log says which
               parquet  a row for each image: position, label, class, id (where imported), group, kept, and
                        dissimilarity to the kept image of its group
               tfds     a line for each image: TFDS's own id, as tfds.ReadConfig(add_tfds_id=True) gives it
  --output     file to write, local or gs://; no folder, pipe or device
  --method     semantic (default) or random
  --layer      start, middle or end (default): of a semantic subset
  --trial      0, 1, ...: of a random subset
  --dropped    the images left out, instead of those kept
  --overwrite  replaces a file that is there

No --config is needed.
"""

PREFLIGHT_HELP = """\
redundancy preflight: compiles a config's training and embedding step for a TPU slice, on a machine that has none, and
tells for each chip: HBM used, FLOPs, bytes, the least time of a step by either, collectives, and bounds of images/s and
of scaling. Nothing runs, no data set is opened; a batch that does not fit is told with one that would.

  redundancy preflight --config configs/imagenet.py --topology v5e:4x4

  --topology    GENERATION:AxB of v5e and v6e, GENERATION:AxBxC of v4 and v5p: chips along each axis
  --config      as for training, with its --config.FIELD=VALUE; batch_size is that of the whole slice
  --image-size  side of the images in pixels (default: config.image_size, or the data set's)
  --classes     number of classes (default: the data set's, where its name is known)
  --trials      trainings at once (default: 1, as in the stage train), spread over the chips as sweep does
  --json        all numbers as JSON

Needs libtpu: pip install "redundancy[tpu]". ResNet-101 takes about ten minutes on two cores.
"""

HELP = {"import": IMPORT_HELP, "export": EXPORT_HELP, "preflight": PREFLIGHT_HELP}
_EXAMPLES = {
    "import": "redundancy import --workdir DIR --embeddings E.npy --labels Y.npy",
    "export": "redundancy export --workdir DIR --fraction 0.9 --format npy --output kept.npy",
    "preflight": "redundancy preflight --config configs/imagenet.py --topology v5e:4x4",
}
_SCHEDULERS = "tcp://HOST:PORT, tls://HOST:PORT, file:PATH (a scheduler file), local or local:WORKERS"

_FLAGS = flags.FLAGS
# Commands that take each flag.
_COMMANDS = {
    "embeddings": ("import",),
    "labels": ("import",),
    "ids": ("import",),
    "columns": ("import",),
    "class_names": ("import",),
    "name": ("import",),
    "checkpoint": ("import",),
    "parts": ("import",),
    "layer": ("import", "export"),
    "fraction": ("export",),
    "format": ("export",),
    "output": ("export",),
    "method": ("export",),
    "trial": ("export",),
    "dropped": ("export",),
    "overwrite": ("export",),
    "scheduler": ("link", "run"),
    "coordinator": (*STAGES, "run"),
    "num_processes": (*STAGES, "run"),
    "process_id": (*STAGES, "run"),
    "heartbeat_s": (*STAGES, "run"),
    "profile": ("train", "sweep", "run"),
    "part": ("sweep",),
    "topology": ("preflight",),
    "image_size": ("preflight",),
    "classes": ("preflight",),
    "trials": ("preflight",),
    "json": ("preflight",),
}
for _name in ("embeddings", "labels", "ids", "columns", "class_names", "name", "checkpoint", "layer"):
    flags.DEFINE_string(_name, None, "See redundancy import --help.")
flags.DEFINE_integer("parts", None, "See redundancy import --help.", lower_bound=1)
flags.DEFINE_float("fraction", None, "See redundancy export --help.")
flags.DEFINE_enum("format", None, ["npy", "txt", "parquet", "tfds"], "See redundancy export --help.")
flags.DEFINE_string("output", None, "See redundancy export --help.")
flags.DEFINE_enum("method", None, ["semantic", "random"], "See redundancy export --help.")
flags.DEFINE_integer("trial", None, "See redundancy export --help.", lower_bound=0)
flags.DEFINE_bool("dropped", False, "See redundancy export --help.")
flags.DEFINE_bool("profile", False, "Trace some steps of the first training.")
flags.DEFINE_string("part", None, "I/N: part I, from 0, of a sweep that N machines share.")
flags.DEFINE_bool("overwrite", False, "See redundancy export --help.")
flags.DEFINE_string("topology", None, "See redundancy preflight --help.")
for _name in ("image_size", "classes", "trials"):
    flags.DEFINE_integer(_name, None, "See redundancy preflight --help.", lower_bound=1)
flags.DEFINE_bool("json", False, "See redundancy preflight --help.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of a run of several; auto, or none.")
flags.DEFINE_integer("num_processes", None, "Processes of the run, one on each host.", lower_bound=1)
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)
flags.DEFINE_integer(
    "heartbeat_s", 100, "Seconds after which a silent process counts as lost, which ends the others.", lower_bound=5
)
flags.DEFINE_string("scheduler", None, f"Dask scheduler for link: {_SCHEDULERS}.")


def spelled(arg: str) -> str:
    """A flag of the command line as it is defined: --class-names for --class_names."""
    name, equals, value = arg.partition("=")
    known = name.lstrip("-").replace("-", "_")
    return f"--{known}{equals}{value}" if name.startswith("--") and known in _COMMANDS else arg


def check_flags(command: str) -> None:
    """Raises ConfigError where a flag of another command is given, or one that the command needs is not."""
    for name, commands in _COMMANDS.items():
        if _FLAGS[name].present and command not in commands:
            shown, theirs = name.replace("_", "-"), " and ".join(commands)
            raise ConfigError(f'--{shown} is a flag of {theirs}, not of {command}; see "redundancy --help".')
    if command == "export" and _FLAGS["config"].value:
        raise ConfigError("--config is given, but export needs none: the subsets tell what they are. Leave it out.")
    needed = {
        "import": ("workdir", "embeddings"),
        "export": ("workdir", "fraction", "format", "output"),
        "preflight": ("config", "topology"),
    }
    for name in needed.get(command, ()):
        if _FLAGS[name].value in (None, ""):
            raise ConfigError(f'--{name} is missing; for example "{_EXAMPLES[command]}".')
    if _FLAGS["scheduler"].value:
        _check_scheduler(_FLAGS["scheduler"].value)
    part()


def _check_scheduler(address: str) -> None:
    # A whole run would otherwise come to know it after hours of training.
    if not re.fullmatch(r"local(:[1-9]\d*)?|(tcp|tls)://.+|file:.+|.+\.json", address):
        raise ConfigError(f"--scheduler={address}: wanted {_SCHEDULERS}; or none, to link on this machine.")
    if importlib.util.find_spec("distributed") is None:
        raise ConfigError(f'--scheduler={address} needs Dask: pip install "redundancy[distributed]".')


@dataclasses.dataclass(frozen=True)
class Processes:
    """Where the processes of a run of several find each other; arguments of `processes.start`."""

    coordinator: str
    num_processes: int | None
    process_id: int | None
    heartbeat_s: int


def several() -> Processes | None:
    """What the flags, or the variables of JAX's own names, say of a run of several processes; None where it has one.

    Where they say nothing, JAX finds the others on a host of a TPU slice.

    Raises:
      ConfigError: something is missing, or does not fit.
    """
    coordinator = _FLAGS["coordinator"].value or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if coordinator == processes.ALONE:
        return None
    numbers = {}
    for name, variable in (("num_processes", "JAX_NUM_PROCESSES"), ("process_id", "JAX_PROCESS_ID")):
        numbers[name] = _FLAGS[name].value
        if numbers[name] is None and (text := os.environ.get(variable)) is not None:
            if not text.isdecimal():
                raise ConfigError(f"{variable} is {text!r}; wanted a whole number, as for --{name.replace('_', '-')}.")
            numbers[name] = int(text)
    count, number = numbers["num_processes"], numbers["process_id"]
    if coordinator is None:
        if count is None and number is None:
            alone = not processes.on_cloud_tpu()
            return None if alone else Processes(processes.AUTO, None, None, _FLAGS["heartbeat_s"].value)
        raise ConfigError(
            "--num-processes or --process-id is given without --coordinator=HOST:PORT, process 0's address."
        )
    heartbeat_s = _FLAGS["heartbeat_s"].value
    if coordinator == processes.AUTO:
        return Processes(coordinator, None, None, heartbeat_s)
    if not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise ConfigError(
            f"--coordinator={coordinator}: wanted HOST:PORT, where process 0 can be reached, auto or none."
        )
    if count is None or number is None:
        raise ConfigError(
            "--coordinator is given; wanted --num-processes and, on each host its own, --process-id, too."
        )
    if number >= count:
        raise ConfigError(
            f"--process-id={number}, but there are {count} processes (--num-processes); wanted 0…{count - 1}."
        )
    return Processes(coordinator, count, number, heartbeat_s) if count > 1 else None


def part() -> parts.Part | None:
    """The part of a sweep that --part names.

    Raises:
      ConfigError: it names none.
    """
    given = _FLAGS["part"].value
    return None if given is None else parts.parse(given)


def engine() -> Callable:
    """What runs the tasks of the stage link: this machine, or the cluster that --scheduler names."""
    if not _FLAGS["scheduler"].value:
        from redundancy.selection import local

        return local.run
    from redundancy.selection import distributed

    return functools.partial(distributed.run, scheduler=_FLAGS["scheduler"].value)


def _given(*names: str) -> dict:
    """Values of the flags that were given."""
    return {name: _FLAGS[name].value for name in names if _FLAGS[name].value is not None}


def run(command: str, workdir: Workdir | None, config=None) -> None:
    """Runs a command of HELP with the flags of the command line; workdir and config (resolved) None where not given."""
    if command == "preflight":
        from redundancy.preflight import command as preflight

        names = ("topology", "image_size", "classes", "trials", "json")
        preflight.preflight(preflight.Flags(**_given(*names)), config)
    elif command == "import":
        from redundancy.embedding import importing

        names = ("embeddings", "labels", "ids", "columns", "class_names", "layer", "name", "checkpoint", "parts")
        importing.import_embeddings(importing.Request(**_given(*names)), workdir, config)
    else:
        from redundancy.selection import export

        names = ("fraction", "format", "output", "method", "layer", "trial", "dropped", "overwrite")
        export.export(export.Request(**_given(*names)), workdir)
