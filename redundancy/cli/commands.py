"""The commands that are not stages, and the flags of single commands."""

import ast
import dataclasses
import functools
import importlib.util
import os
import pathlib
import re
from collections.abc import Callable, Sequence

from absl import flags

from redundancy import config as config_lib
from redundancy.cli.help import HELP as HELP
from redundancy.export.request import FORMATS, IMAGE_IDS, LINKS
from redundancy.runtime import preemption, processes
from redundancy.runtime.errors import ConfigError, nearest
from redundancy.runtime.paths import given_path
from redundancy.workdir import STAGES, Workdir, parts, rounds

_EXAMPLES = {
    "import": "redundancy import --workdir DIR --embeddings E.npy --labels Y.npy",
    "export": "redundancy export --workdir DIR --fraction 0.9 --format npy --output kept.npy",
    "preflight": "redundancy preflight --config imagenet --topology v5e:4x4",
    "status": "redundancy status --workdir DIR",
    "browse": "redundancy browse --workdir DIR",
    "scores": "redundancy scores list --workdir DIR",
}
_OF_FILES, _OF_SCORES = ("number", "text"), ("stored", "class", "names")  # values of --order
_SCHEDULERS = "tcp://HOST:PORT, tls://HOST:PORT, file:PATH (a scheduler file), local or local:WORKERS"

_FLAGS = flags.FLAGS
_COMMANDS: dict[str, tuple[str, ...]] = {}  # flag -> commands that take it


class _Path(flags.ArgumentParser):
    """Parses a path, see `given_path`."""

    def __init__(self, name: str):
        super().__init__()
        self._name = name

    def parse(self, argument: str) -> str:
        return given_path(self._name, argument)


def define_path(name: str, default: str | None, help: str) -> flags.FlagHolder:
    """Defines a flag that holds a path, local or gs://."""
    return flags.DEFINE(_Path(f"--{name.replace('_', '-')}"), name, default, help)


class _Fraction(flags.ArgumentParser):
    """Parses a share of the images."""

    def parse(self, argument: str | float) -> float:
        try:
            return float(argument)
        except ValueError:
            hint = config_lib.share_hint(config_lib.FIELDS["report_fraction"], argument)
            raise ConfigError(
                f"--fraction is {argument!r}; wanted a number from 0.0001 to 1, such as 0.9.{hint}"
            ) from None


def _define_fraction(name: str, default: float | None, help: str) -> flags.FlagHolder:
    return flags.DEFINE(_Fraction(), name, default, help)


class ConfigParser(flags.ArgumentParser):
    """Parses --config, see `config.load`."""

    def parse(self, argument: str):
        config = config_lib.load(argument)
        if hasattr(config, "lock"):
            config.lock()
        return config


def _define(define: Callable, names: str, *commands: str, **given) -> None:
    """Defines flags for some commands; `names` are separated by spaces."""
    shown = {"default": None, "help": f"See redundancy {commands[0]} --help.", **given}
    for name in names.split():
        _COMMANDS[name] = commands
        define(name, **shown)


_define(define_path, "embeddings class_names", "import")
_define(define_path, "labels ids", "import", "scores")
_define(flags.DEFINE_string, "name", "import", "scores")
_define(flags.DEFINE_string, "columns checkpoint", "import")
_define(define_path, "scores", "scores")
_define(flags.DEFINE_string, "key score_column id_column label_column", "scores")
_define(flags.DEFINE_enum, "keep", "scores", enum_values=["high", "low"])
_define(flags.DEFINE_bool, "ranking kept", "scores", default=False)
_define(flags.DEFINE_integer, "parts", "import", lower_bound=1)
_define(flags.DEFINE_enum, "order", "import", "scores", enum_values=[*_OF_FILES, *_OF_SCORES])
_define(flags.DEFINE_enum, "labels_are", "import", enum_values=["names", "indices"])
_define(flags.DEFINE_string, "layer", "import", "export")
_define(_define_fraction, "fraction", "export")
_define(flags.DEFINE_enum, "format", "export", enum_values=[*FORMATS])
_define(define_path, "output", "export", "scores")
_define(flags.DEFINE_string, "method", "export")
_define(flags.DEFINE_integer, "trial", "export", lower_bound=0)
_define(flags.DEFINE_bool, "dropped", "export", default=False)
_define(flags.DEFINE_bool, "overwrite", "export", "scores", default=False)
_define(flags.DEFINE_string, "scheduler", "link", "run", help=f"Dask scheduler for link: {_SCHEDULERS}.")
_define(
    flags.DEFINE_string,
    "coordinator",
    *STAGES,
    "run",
    help="HOST:PORT of process 0, for a run of several processes; or auto, or none.",
)
_define(
    flags.DEFINE_integer, "num_processes", *STAGES, "run", help="Processes of the run, one on each host.", lower_bound=1
)
_define(flags.DEFINE_integer, "process_id", *STAGES, "run", help="Which of them this is, from 0.", lower_bound=0)
_silent = "Seconds after which a process that does not respond counts as lost, which ends the others."
_define(flags.DEFINE_integer, "heartbeat_s", *STAGES, "run", default=100, help=_silent, lower_bound=5)
_define(
    flags.DEFINE_bool, "profile", "train", "sweep", "run", default=False, help="Trace some steps of the first training."
)
_define(
    flags.DEFINE_string,
    "until",
    "run",
    "sweep",
    help="run: the last stage. sweep: the goal at which it ends, see redundancy --help.",
)
_define(flags.DEFINE_integer, "most", "sweep", help="Most trials of sweep --until.", lower_bound=2, upper_bound=10_000)
_define(flags.DEFINE_integer, "looks", "sweep", help="Looks of sweep --until=verdict.", lower_bound=1, upper_bound=10)
_define(flags.DEFINE_string, "part", "sweep", help="I/N: part I, from 0, of a sweep that N machines share.")
_define(define_path, "join", "sweep", help="Another workdir of this experiment, whose results are taken over.")
_define(flags.DEFINE_string, "stop_after", "run", "sweep", help="Time after which to save and end, for example 8m.")
_define(flags.DEFINE_string, "topology", "preflight")
_define(flags.DEFINE_integer, "image_size classes trials", "preflight", lower_bound=1)
_define(flags.DEFINE_bool, "json", "preflight", "status", default=False, help="JSON instead of text.")
_define(flags.DEFINE_enum, "image_ids", "export", enum_values=[*IMAGE_IDS])
_define(flags.DEFINE_enum, "link", "export", enum_values=[*LINKS])
_define(flags.DEFINE_bool, "null", "export", default=False)
_define(define_path, "images", "export")
_define(flags.DEFINE_integer, "limit", "export", lower_bound=1)
_define(flags.DEFINE_float, "watch", "status")
_define(flags.DEFINE_enum, "style", "report", enum_values=["paper"])
_define(flags.DEFINE_integer, "port", "browse", lower_bound=1, upper_bound=65535)
_define(flags.DEFINE_bool, "no_open", "browse", default=False)


def spelled(arg: str) -> str:
    """The argument with the flag's name as defined: --class_names for --class-names."""
    name, equals, value = arg.partition("=")
    known = name.lstrip("-").replace("-", "_")
    return f"--{known}{equals}{value}" if name.startswith("--") and known in _COMMANDS else arg


def check_flags(command: str) -> None:
    """Raises ConfigError if a flag belongs to another command, or if a required flag is missing."""
    for name, commands in _COMMANDS.items():
        if _FLAGS[name].present and command not in commands:
            shown, theirs = name.replace("_", "-"), " and ".join(commands)
            raise ConfigError(f'--{shown} is a flag of {theirs}, not of {command}; see "redundancy --help".')
    if _FLAGS["config"].value and command in ("status", "browse", "configs", "scores"):
        raise ConfigError(f"--config is given, but {command} needs none. Leave it out.")
    needed = {
        "import": ("workdir", "embeddings"),
        "export": ("workdir", "fraction", "format", "output"),
        "preflight": ("config", "topology"),
        "status": ("workdir",),
        "browse": ("workdir",),
        "scores": ("workdir",),
    }
    for name in needed.get(command, ()):
        if _FLAGS[name].value in (None, ""):
            raise ConfigError(f'--{name} is missing; for example "{_EXAMPLES[command]}".')
    order = _FLAGS["order"].value
    fit = {"import": _OF_FILES, "scores": _OF_SCORES}.get(command, ())
    if order is not None and order not in fit:
        raise ConfigError(f"--order={order} does not fit {command}. Give {' or '.join(fit)}.")
    if _FLAGS["scheduler"].value:
        _check_scheduler(_FLAGS["scheduler"].value)
    until = _FLAGS["until"].value
    if command == "run" and until not in (None, *STAGES):
        raise ConfigError(
            f"--until={until} is no stage, and with run it names the last one: {', '.join(STAGES)}. To stop at a width or a "
            'verdict, use "redundancy sweep".'
        )
    goal(command)
    stop_after()
    part()


def _check_scheduler(address: str) -> None:
    # Checked here, because otherwise a run would fail only after hours of training.
    if not re.fullmatch(r"local(:[1-9]\d*)?|(tcp|tls)://.+|file:.+|.+\.json", address):
        raise ConfigError(f"--scheduler={address}: wanted {_SCHEDULERS}; or none, to link on this machine.")
    if importlib.util.find_spec("distributed") is None:
        raise ConfigError(f'--scheduler={address} needs Dask: pip install "redundancy[distributed]".')


@dataclasses.dataclass(frozen=True)
class Processes:
    """Arguments of `processes.start`, with which the processes of a run find each other."""

    coordinator: str
    num_processes: int | None
    process_id: int | None
    heartbeat_s: int


def several() -> Processes | None:
    """How to start a run of several processes, from the flags or JAX's environment variables; None for one process.

    Without flags and variables, JAX finds the other processes on a host of a TPU slice.

    Raises:
      ConfigError: a value is missing, or values contradict each other.
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
        raise ConfigError(f"--coordinator={coordinator}: wanted HOST:PORT, the address of process 0; or auto, or none.")
    if count is None or number is None:
        raise ConfigError(
            "--coordinator is given without the others; wanted --num-processes and each host's own --process-id, too."
        )
    if number >= count:
        raise ConfigError(
            f"--process-id={number}, but there are {count} processes (--num-processes); wanted 0…{count - 1}."
        )
    return Processes(coordinator, count, number, heartbeat_s) if count > 1 else None


def part() -> parts.Part | None:
    """The part of a sweep that --part names.

    Raises:
      ConfigError: the flag is not of the form I/N.
    """
    given = _FLAGS["part"].value
    return None if given is None else parts.parse(given)


def stop_after() -> float | None:
    """The time after which to end, in seconds, from --stop-after; None without the flag.

    Raises:
      ConfigError: the flag is not a time, or the time is too short.
    """
    given = _FLAGS["stop_after"].value
    if given is None:
        return None
    found = re.fullmatch(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", given)
    hours, minutes, seconds = (int(each or 0) for each in found.groups()) if found else (0, 0, 0)
    if (total := 3600 * hours + 60 * minutes + seconds) < preemption.SHORTEST_S:
        raise ConfigError(
            f"--stop-after={given}: wanted a time of {preemption.SHORTEST_S} s or more, for example 90s, 8m or 1h30m."
        )
    return float(total)


def goal(command: str) -> rounds.Goal | None:
    """The goal of a sweep in rounds, from --until; None without the flag, and for other commands.

    Raises:
      ConfigError: the flags contradict each other.
    """
    until, most, looks = (_FLAGS[name].value for name in ("until", "most", "looks"))
    if command != "sweep":
        return None
    if until is None:
        if most or looks:
            raise ConfigError(f"--{'most' if most else 'looks'} works only with --until. Give both, or neither.")
        return None
    if _FLAGS["part"].value is not None:
        raise ConfigError(
            "--until is given with --part: a part of a sweep does not know what the others find. Give one."
        )
    if looks and until != rounds.VERDICT:
        raise ConfigError(f"--looks works only with --until=verdict, and --until is {until}. Leave --looks out.")
    return rounds.parse(until, most, looks or 5)


def engine() -> Callable:
    """The function that runs the tasks of the stage link: on this machine, or on the cluster that --scheduler names."""
    if not _FLAGS["scheduler"].value:
        from redundancy.selection import local

        return local.run
    from redundancy.selection.cluster import distributed

    return functools.partial(distributed.run, scheduler=_FLAGS["scheduler"].value)


def scores(words: Sequence[str], workdir: Workdir) -> None:
    """Runs "redundancy scores import", "export" or "list"; `words` follow the command.

    Raises:
      ConfigError: there is no such action, or a flag is missing or belongs to another action.
    """
    from redundancy.scoring import exchange

    needed = {"import": ("name", "scores"), "export": ("name", "output"), "list": ()}
    if len(words) != 1 or words[0] not in needed:
        raise ConfigError(f"scores: {' '.join(words) or 'no action'}; wanted one of {', '.join(needed)}.")
    action = words[0]
    fields = [field.name for field in dataclasses.fields(exchange.Request)]
    allowed = {"import": fields, "export": ["name", "output", "overwrite"], "list": []}[action]
    for name, commands in _COMMANDS.items():
        if "scores" in commands and _FLAGS[name].present and name not in allowed:
            raise ConfigError(
                f'--{name.replace("_", "-")} is not a flag of scores {action}; see "redundancy scores --help".'
            )
    for name in needed[action]:
        if not _FLAGS[name].value:
            raise ConfigError(f'--{name} is missing; see "redundancy scores --help".')
    if action == "import":
        exchange.import_scores(exchange.Request(**_given(*fields)), workdir)
    elif action == "export":
        exchange.export_scores(workdir, **_given("name", "output", "overwrite"))
    else:
        print(exchange.list_scores(workdir), end="")


def configs(names: Sequence[str]) -> str:
    """The output of `redundancy configs`: a line for each shipped config, or the file of the one that is named.

    Raises:
      ConfigError: there is no config of that name, or several names are given.
    """
    known = config_lib.shipped()
    if not names:
        return "".join(f"{name:15}{_title(path)}\n" for name, path in known.items())
    if len(names) > 1 or names[0] not in known:
        near = nearest(names[0], known)
        raise ConfigError(
            f"configs: {' '.join(names)} is no name of a config.{near} Wanted: one of {', '.join(known)}."
        )
    return known[names[0]].read_text()


def _title(path: pathlib.Path) -> str:
    """The first line of a file's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def _given(*names: str) -> dict:
    """The values of those of these flags that were given."""
    return {name: _FLAGS[name].value for name in names if _FLAGS[name].value is not None}


def run(command: str, workdir: Workdir | None, config=None) -> int:
    """Runs a command of help.HELP with the flags of the command line. Workdir and resolved config are None if not given.

    Returns:
      the exit code.
    """
    if command == "preflight":
        from redundancy.preflight import command as preflight

        names = ("topology", "image_size", "classes", "trials", "json")
        preflight.preflight(preflight.Flags(**_given(*names)), config)
    elif command == "import":
        from redundancy.importing import stage

        names = [field.name for field in dataclasses.fields(stage.Request)]
        stage.import_embeddings(stage.Request(**_given(*names)), workdir, config)
    elif command == "status":
        from redundancy.status import command as status

        return status.status(workdir.root, **_given("json", "watch"))
    elif command == "browse":
        from redundancy.report import serve

        serve.browse(workdir, **_given("port", "no_open"))
    else:
        from redundancy.export import command as export

        names = [field.name for field in dataclasses.fields(export.Request)]
        export.export(export.Request(**_given(*names)), workdir, config)
    return 0
