"""The command line: parses flags, starts the processes, and runs the command."""

import atexit
import dataclasses
import os
import re
import shlex
import signal
import sys
import threading
from typing import NoReturn

# TensorFlow and Orbax's path library read these variables at import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("EPATH_USE_TF", "false")

from absl import flags
from ml_collections import config_flags

from redundancy import config as config_lib
from redundancy import methods, storage
from redundancy.cli import commands
from redundancy.cli.explain import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, start_logging, verdict
from redundancy.cli.help import REPORT_HELP, USAGE
from redundancy.cli.stages import run_import, run_scores, run_stages
from redundancy.runtime import extras, preemption, processes, streams, supervisor
from redundancy.runtime.errors import ConfigError, Preempted, UserError, nearest
from redundancy.storage import compiled_programs
from redundancy.workdir import STAGES, Workdir, last_error

_FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file("config", None, "Config, by name or file, with its argument after a colon.")
_FLAGS["config"].parser = commands.ConfigParser()  # which also accepts names of configs
_WORKDIR = commands.define_path("workdir", None, "Folder of this experiment's artifacts, local or gs://.")
_DEBUG = flags.DEFINE_bool("debug", False, "Show stack traces.")


# Flags that must not be repeated: absl would silently use the last one, although the user may mean all.
_ONCE = ("workdir", "embeddings", "labels", "ids", "class_names", "scores", "output")
_NEED_DATASET = ("train", "embed", "score", "sweep", "report", "run")
_COMPILE = ("train", "embed", "score", "link", "sweep", "run")
_NEED_TRAIN = (*_NEED_DATASET, "preflight")  # commands that need the extra `train`


def _check_fields(argv: list[str]) -> None:
    """Raises ConfigError for unknown fields in --config.FIELD flags, since ml_collections' own errors are unclear."""
    seen = set()
    for arg in argv:
        name = arg.lstrip("-").partition("=")[0]
        if arg.startswith("-") and name.startswith("config."):
            field = name.removeprefix("config.")
            if field not in config_lib.FIELDS and field.removeprefix("no") not in config_lib.FIELDS:
                raise ConfigError(f"--config.{field}: there is no such field.{nearest(field, config_lib.FIELDS, 3)}")
            name = f"config.{field}"
        elif not arg.startswith("--") or name not in _ONCE:
            continue
        if name in seen:
            more = ' Several files are a quoted pattern: "part-*.npy".' if name == "embeddings" else ""
            raise ConfigError(f"--{name.replace('_', '-')} is given twice; give it once.{more}")
        seen.add(name)


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags and returns the remaining arguments; raises UserError for mistakes."""
    _check_fields(argv[1:])
    try:
        return _FLAGS(argv)
    except UserError:
        raise
    except flags.Error as error:
        if isinstance(error.__context__, UserError):  # from a flag's own parser; absl wraps every ValueError
            raise error.__context__ from None
        text = str(error).splitlines()[0]
        named = re.search(r"--config\.(\w+)", text)
        field = config_lib.FIELDS.get(named[1]) if named else None
        if field:
            value = text.partition(f"{named[0]}=")[2].partition(":")[0]
            text += f". Wanted: {field.wanted or type(field.default).__name__} ({field.doc}).{config_lib.share_hint(field, value)}"
        raise ConfigError(text) from error
    except Exception as error:
        raise ConfigError(f"the config cannot be used: {type(error).__name__}: {error}") from error


def _resolved_config():
    given = _CONFIG.value
    if not hasattr(given, "items"):
        raise ConfigError(f"get_config returned {type(given).__name__}; wanted an ml_collections.ConfigDict.")
    return config_lib.resolve(given)


def _command(argv: list[str]) -> str:
    """Checks the command and its flags; returns the command's name."""
    known = (*STAGES, "run", *commands.HELP)
    there = [arg for arg in argv[2:] if arg not in known and os.path.exists(arg)]
    if there and argv[1] in known and argv[1] not in ("configs", "scores"):
        more = f" and {len(there) - 1} more" if there[1:] else ""
        raise ConfigError(
            f"{there[0]}{more} stands without a flag before it. If the shell expanded a pattern, quote the pattern: "
            '--embeddings "part-*.parquet". Otherwise write the flag before it.'
        )
    if argv[1:2] not in (["configs"], ["scores"]) and len(argv) != 2:
        raise ConfigError(f"wanted one stage, got {argv[1:]}; stages: {', '.join(known)}." if argv[1:] else USAGE)
    name = argv[1]
    if name not in known:
        raise ConfigError(f"{name!r} is not a stage.{nearest(name, known)} Stages: {', '.join(known)}.")
    commands.check_flags(name)
    return name


def _config_of(name: str):
    """The resolved config of a stage."""
    for flag, value in (("--config", _CONFIG.value), ("--workdir", _WORKDIR.value)):
        if not value:
            raise ConfigError(f'{flag} is missing; for example "redundancy {name} --config digits --workdir DIR".')
    config = _resolved_config()
    if name in _NEED_DATASET:
        config_lib.need_dataset(config, name)
    return config


def check(argv: list[str]) -> int:
    """Checks a command line and its config without running the command; returns the exit code."""
    sys.argv = argv = [commands.spelled(arg) for arg in argv]
    try:
        name = _command(_parse(argv))
        if name not in commands.HELP:
            _config_of(name)
    except UserError as error:
        print(f"redundancy: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return 0


def check_apart(dataset: str, workdir: str) -> None:
    """Raises ConfigError if a new workdir would lie in the folder of images, where it would become a class."""
    if not dataset or not storage.is_local(workdir):
        return
    root, given = os.path.realpath(dataset), os.path.realpath(storage.local_path(workdir))
    if os.path.isdir(root) and given.startswith(f"{root}/") and not os.path.exists(given):
        from redundancy.data.sources import is_builder

        if dataset.isidentifier() and is_builder(dataset):
            return  # a TFDS data set, even if a folder here has the same name
        raise ConfigError(
            f"--workdir={workdir} lies in the data set's folder, {root}, whose folders are classes. Choose one elsewhere."
        )


def _main(argv: list[str]) -> int:
    name = _command(argv)
    if name == "configs":
        print(commands.configs(argv[2:]), end="")
        return 0
    if name == "scores":
        return run_scores(argv[2:], Workdir(_WORKDIR.value))
    if name in _NEED_TRAIN:
        extras.need("train", name)
    if name in commands.HELP:
        config = _resolved_config() if _CONFIG.value else None
        if name == "import" and config is not None and _WORKDIR.value:
            check_apart(config.dataset, _WORKDIR.value)
        workdir = Workdir(_WORKDIR.value) if _WORKDIR.value else None
        return run_import(workdir, config) if name == "import" else commands.run(name, workdir, config)
    config = _config_of(name)
    check_apart(config.dataset, _WORKDIR.value)
    if name in _COMPILE:
        compiled_programs.remember()
    workdir = Workdir(_WORKDIR.value)
    names = STAGES[: STAGES.index(_FLAGS.until or STAGES[-1]) + 1] if name == "run" else (name,)
    if name == "run" and not methods.scores(config):
        names = tuple(each for each in names if each != "score")
    several = commands.several()
    if several is None:
        run_stages(names, config, workdir)
    elif not supervisor.is_child():
        code = supervisor.run(sys.argv)
        if code == supervisor.LOST:  # the child was aborted before it could record the error
            last_error.record(workdir.root, name, code, "another process of this run was lost; see its own log")
        return code
    else:
        supervisor.follow_parent()
        processes.start(**dataclasses.asdict(several))
        storage.network_is_there()
        try:
            run_stages(names, config, workdir)
        except Preempted:
            processes.leave()
            raise
    if processes.is_first():
        if names[-1] == "report":
            print(f"report: {workdir.report}/index.html")
            if _FLAGS.style:
                print(f"{_FLAGS.style}: {workdir.report}/{_FLAGS.style}/")
        if name == "run" and STAGES.index(names[-1]) >= STAGES.index("select"):
            print(f"kept images: {export_command(workdir, config)}")
    processes.leave()
    return 0


def export_command(workdir: Workdir, config) -> str:
    """The command that exports the list of kept images, at the fraction that the report shows."""
    from redundancy.report.stage import report_fraction, report_layer

    fraction, layer = float(config_lib.fraction_name(report_fraction(config))), report_layer(config)
    method = methods.chosen(config)[0]
    given = [f"--workdir={workdir.root}", f"--fraction={fraction:g}", f"--method={method.name}"]
    if method.per_layer and layer != "end":
        given.append(f"--layer={layer}")
    if method.per_trial:
        given.append("--trial=0")
    return shlex.join(["redundancy", "export", *given, "--format=txt", "--output=kept.txt"])


def _compare(arguments: list[str]) -> int:
    """Runs `redundancy report --compare DIR DIR ...`, which has its own flags."""
    from redundancy.report import compare

    if "--help" in arguments:
        print(compare.HELP, end="")
        return 0
    start_logging()
    print(f"report: {compare.run(arguments)}")
    return 0


def entry(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    argv = [commands.spelled(arg) for arg in (sys.argv if argv is None else argv)]
    comparing = argv[1:2] == ["report"] and any(arg.partition("=")[0] == "--compare" for arg in argv)
    sys.argv = argv  # ml_collections looks for --config.FIELD here
    if len(argv) < 2 or argv[1] == "help" or {"-h", "--help", "-help"} & set(argv[1:]):
        if comparing:
            return _compare(["--help"])
        texts = {**commands.HELP, "report": REPORT_HELP}
        of_command = next((texts[arg] for arg in argv[1:2] if arg in texts), USAGE)
        print(of_command, end="")
        return 0 if len(argv) >= 2 else EXIT_USAGE
    if "--helpfull" in argv:
        print(USAGE + config_lib.describe(), end="")
        return 0
    debug = "--debug" in argv
    try:
        with preemption.handling_sigterm():
            if comparing:
                return _compare(argv[2:])
            rest = _parse(argv)
            debug = _DEBUG.value
            start_logging(debug)
            if not debug:
                # Threads and event loops of libraries print traces of errors that are also raised in this thread.
                sys.unraisablehook = threading.excepthook = lambda _: None
            return _main(rest)
    except KeyboardInterrupt:
        print("redundancy: interrupted; give the same command again to continue.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Preempted as preempted:
        print(preemption.message(), file=sys.stderr)
        return preempted.code
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            raise
        code, message = verdict(error)
    print(f"redundancy: error: {message}", file=sys.stderr)
    return code


def command() -> NoReturn:
    """Runs the command line and ends the process."""
    try:
        code = entry()
        # JAX's exit handlers would wait for the other processes of a run, which may no longer exist.
        if code not in (Preempted().code, EXIT_INTERRUPTED) and processes.count() == 1:
            atexit._run_exitfuncs()
        streams.flush()
    except BrokenPipeError:  # the reader of the standard output has ended, as with "| head"
        code = 128 + signal.SIGPIPE
    except OSError as error:
        if "--debug" in sys.argv:
            raise
        print(f"redundancy: error: the standard output cannot be written: {error.strerror}.", file=sys.stderr)
        code = EXIT_ERROR
    # Skips Python's own shutdown, during which running threads of libraries may abort the process.
    os._exit(code)


if __name__ == "__main__":
    command()
