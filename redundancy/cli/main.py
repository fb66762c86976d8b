"""The command line: flags, process start-up, call the stage."""

import atexit
import dataclasses
import errno
import functools
import logging as std_logging
import os
import pathlib
import re
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

# Read by TensorFlow and by Orbax's path library when they are first imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("EPATH_USE_TF", "false")

from absl import flags, logging
from ml_collections import config_flags

from redundancy import config as config_lib
from redundancy.cli import commands
from redundancy.cli.help import USAGE
from redundancy.runtime import preemption, processes, supervisor
from redundancy.runtime.errors import ConfigError, Preempted, UserError, WorkdirError, nearest
from redundancy.workdir import STAGES, Workdir, last_error
from redundancy.workdir.lease import Lease, is_held

_FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with its argument after a colon.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this experiment's artifacts, local or gs://.")
_DEBUG = flags.DEFINE_bool("debug", False, "Show stack traces.")

_EXIT_ERROR = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130


_NEED_DATASET = ("train", "embed", "sweep", "report", "run")


def _stage(name: str, lease: Lease):
    """The stage's function; imported late, so that a mistake in the command line is reported at once."""
    match name:
        case "train":
            from redundancy.training.pretrain import train

            stage = functools.partial(train, profile=_FLAGS.profile)
        case "embed":
            from redundancy.embedding.extract import embed as stage
        case "link":
            from redundancy.selection.stages import link

            stage = functools.partial(link, engine=commands.engine())
        case "select":
            from redundancy.selection.stages import select as stage
        case "sweep":
            from redundancy.experiment.sweep import sweep

            stage = functools.partial(sweep, profile=_FLAGS.profile, part=commands.part(), agree=lease.agree)
        case "report":
            from redundancy.report.stage import report

            def stage(config, workdir):
                processes.first(lambda: report(config, workdir))

    return stage


def _check_fields(argv: list[str]) -> None:
    """Reports unknown fields in --config.FIELD flags before ml_collections stumbles over them."""
    seen = set()
    for arg in argv:
        name = arg.lstrip("-").partition("=")[0]
        if arg.startswith("-") and name.startswith("config."):
            field = name.removeprefix("config.")
            if field not in config_lib.FIELDS and field.removeprefix("no") not in config_lib.FIELDS:
                raise ConfigError(f"--config.{field}: there is no such field.{nearest(field, config_lib.FIELDS)}")
            if field in seen:
                raise ConfigError(f"--config.{field} is given twice; give it once.")
            seen.add(field)


def _parse(argv: list[str]) -> list[str]:
    """Flags and what is left of the command line; mistakes are UserErrors."""
    _check_fields(argv[1:])
    for index, arg in enumerate(argv[1:], 1):
        if arg in ("--config", "-config") and index + 1 < len(argv):
            _check_config_file(argv[index + 1])
        elif arg.startswith(("--config=", "-config=")):
            _check_config_file(arg.split("=", 1)[1])
    try:
        return _FLAGS(argv)
    except UserError:
        raise
    except flags.Error as error:
        text = str(error).splitlines()[0]
        named = re.search(r"--config\.(\w+)", text)
        field = config_lib.FIELDS.get(named[1]) if named else None
        wanted = f". Wanted: {field.wanted or type(field.default).__name__} ({field.doc})." if field else ""
        raise ConfigError(text + wanted) from error
    except Exception as error:
        raise ConfigError(f"the config file cannot be read: {type(error).__name__}: {error}") from error


def _check_config_file(value: str) -> None:
    path = value.split(":", 1)[0]
    if not os.path.isfile(path):
        raise ConfigError(f"--config={value}: there is no file {path}. Wanted: a Python file with get_config(arg).")


def _resolved_config():
    given = _CONFIG.value
    if not hasattr(given, "items"):
        raise ConfigError(f"get_config returned {type(given).__name__}; wanted an ml_collections.ConfigDict.")
    return config_lib.resolve(given)


def _acquire(lease: Lease) -> str:
    lease.acquire()
    return lease.token


def _check_estimates(names: Sequence[str], config, workdir: Workdir) -> None:
    from redundancy import estimates
    from redundancy.data import shared_dataset
    from redundancy.workdir.finished import is_finished

    left = [name for name in names if not is_finished(config, workdir, name)]
    dataset = shared_dataset(config) if {"train", "embed", "sweep"} & {*left} else None
    cluster = bool(_FLAGS.scheduler) and not _FLAGS.scheduler.startswith("local")
    estimates.check(config, workdir, dataset, left, cluster)


def _run_stages(names: Sequence[str], config, workdir: Workdir) -> None:
    """The stages in order, in this process or, on several hosts, together with the others; one command, or parts of one."""
    lease = Lease(workdir.root, commands.part())
    watch = processes.Watch(before_end=lease.release)
    watch.start()
    with preemption.before_end(lease.release):
        _work(names, config, workdir, lease, watch)


def _work(names: Sequence[str], config, workdir: Workdir, lease: Lease, watch: processes.Watch) -> None:
    at = None  # the stage at work, once the workdir is this config's
    command = "run" if len(names) > 1 else names[0]
    try:
        token = processes.first(lambda: _acquire(lease))
        if not processes.is_first() and not is_held(workdir.root, token, commands.part()):
            raise WorkdirError(
                f"--workdir {workdir.root} is not the folder that process 0 works in: on several hosts it must be storage "
                "that all of them share, for example gs://bucket/path."
            )
        workdir.claim(config)
        at = command
        _check_estimates(names, config, workdir)
        for at in names:
            logging.info("stage %s", at)
            _stage(at, lease)(config, workdir)
            processes.barrier()
        if processes.is_first():
            last_error.forget(workdir.root, command, commands.part())
    except (Exception, KeyboardInterrupt) as error:
        code, message = _told(error)
        processes.await_verdict(error)
        if at is not None and isinstance(error, Exception):
            last_error.record(workdir.root, command, code, message, at, commands.part())
        processes.fail(code, message)
        raise
    finally:
        watch.stop()
        lease.release()


def _import(workdir: Workdir, config) -> int:
    with Lease(workdir.root):
        try:
            code = commands.run("import", workdir, config)
        except Exception as error:
            last_error.record(workdir.root, "import", *_told(error))
            raise
        last_error.forget(workdir.root, "import")
    return code


def _command(argv: list[str]) -> str:
    """The command, checked as far as its name and its flags go."""
    known = (*STAGES, "run", *commands.HELP)
    if len(argv) != 2:
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
            raise ConfigError(
                f'{flag} is missing; for example "redundancy {name} --config configs/digits.py --workdir DIR".'
            )
    config = _resolved_config()
    if name in _NEED_DATASET:
        config_lib.need_dataset(config, name)
    return config


def check(argv: list[str]) -> int:
    """Reports what is wrong with a command line and its config, without doing anything; returns the exit code."""
    sys.argv = argv = [commands.spelled(arg) for arg in argv]
    try:
        name = _command(_parse(argv))
        if name not in commands.HELP:
            _config_of(name)
    except UserError as error:
        print(f"redundancy: error: {error}", file=sys.stderr)
        return _EXIT_USAGE
    return 0


def _main(argv: list[str]) -> int:
    name = _command(argv)
    if name in commands.HELP:
        config = _resolved_config() if _CONFIG.value else None
        workdir = Workdir(_WORKDIR.value) if _WORKDIR.value else None
        return _import(workdir, config) if name == "import" else commands.run(name, workdir, config)
    config = _config_of(name)
    workdir = Workdir(_WORKDIR.value)
    names = STAGES[: STAGES.index(_FLAGS.until or STAGES[-1]) + 1] if name == "run" else (name,)
    several = commands.several()
    if several is None:
        _run_stages(names, config, workdir)
    elif not supervisor.is_child():
        code = supervisor.run(sys.argv)
        if code == supervisor.LOST:  # the child was aborted, and could record nothing
            last_error.record(workdir.root, name, code, "another process of this run was lost; its own log tells why")
        return code
    else:
        supervisor.follow_parent()
        processes.start(**dataclasses.asdict(several))
        try:
            _run_stages(names, config, workdir)
        except Preempted:
            processes.leave()
            raise
    if processes.is_first() and names[-1] == "report":
        print(f"report: {workdir.report}/index.html")
    processes.leave()
    return 0


class _OwnLines(std_logging.Filter):
    """Lets through this package's lines, and of the libraries' only warnings and errors."""

    def filter(self, record):
        own = str(pathlib.Path(__file__).parents[1]) in record.pathname
        # TFDS warns of its own use of a deprecated attribute at every split it opens.
        noise = "FeatureConnector.dtype" in record.getMessage()
        # Of Orbax: that a save takes its time, and that it looks for a file which it need not have. Of google-auth: that
        # this machine is none of Google's, before it looks elsewhere.
        noise = noise or record.getMessage().startswith(
            ("Waiting for previous save", "Metadata file does not exist", "Authentication failed using Compute Engine")
        )
        # What a library logs with its stack trace also reaches us as an exception, which is shown in one line.
        noise = noise or bool(record.exc_info) or record.name == "asyncio"
        return own or (record.levelno >= std_logging.WARNING and not noise)


def _start_logging() -> None:
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.set_stderrthreshold(logging.INFO)
    handler = logging.get_absl_handler()
    handler.setFormatter(std_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_OwnLines())


def _explain(error: BaseException) -> str:
    """One message for an exception that is no UserError."""
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        hint = {
            errno.ENOSPC: " Free some space and give the same command again; finished work is kept.",
            errno.EDQUOT: " Free some space and give the same command again; finished work is kept.",
            errno.EACCES: " Choose a --workdir that you may write to.",
            errno.EROFS: " Choose a --workdir that you may write to.",
            errno.EPERM: " Choose a --workdir that you may write to.",
            errno.ENOTDIR: " A file stands where a folder is wanted: remove it or choose another --workdir.",
            errno.EEXIST: " A file stands where a folder is wanted: remove it or choose another --workdir.",
            errno.ENOENT: " It was removed; give the command of the stage that writes it again.",
        }.get(error.errno, "")
        return f"{where}{error.strerror}.{hint}"
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {first} (a bug, or a fault of this machine; --debug shows where)"


def _told(error: BaseException) -> tuple[int, str]:
    """Exit code and message of an error."""
    if isinstance(error, KeyboardInterrupt):
        return _EXIT_INTERRUPTED, "interrupted"
    if isinstance(error, UserError):
        return _EXIT_USAGE if isinstance(error, ConfigError) else _EXIT_ERROR, str(error)
    return _EXIT_ERROR, _explain(error)


def _compare(arguments: list[str]) -> int:
    """`redundancy report --compare DIR DIR ...`, whose flags are its own."""
    from redundancy.report import compare

    if "--help" in arguments:
        print(compare.HELP, end="")
        return 0
    _start_logging()
    print(f"report: {compare.run(arguments)}")
    return 0


def entry(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    argv = [commands.spelled(arg) for arg in (sys.argv if argv is None else argv)]
    comparing = argv[1:2] == ["report"] and any(arg.partition("=")[0] == "--compare" for arg in argv)
    sys.argv = argv  # where ml_collections looks for --config.FIELD
    if len(argv) < 2 or argv[1] == "help" or {"-h", "--help", "-help"} & set(argv[1:]):
        if comparing:
            return _compare(["--help"])
        of_command = next((commands.HELP[arg] for arg in argv[1:2] if arg in commands.HELP), USAGE)
        print(of_command, end="")
        return 0 if len(argv) >= 2 else _EXIT_USAGE
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
            _start_logging()
            if not debug:
                # Threads and event loops of the libraries print traces of what also reaches this one as an exception.
                sys.unraisablehook = threading.excepthook = lambda _: None
            return _main(rest)
    except KeyboardInterrupt:
        print("redundancy: interrupted; give the same command again to continue.", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except Preempted as preempted:
        print(preemption.MESSAGE, file=sys.stderr)
        return preempted.code
    except Exception as error:
        if debug:
            raise
        code, message = _told(error)
    print(f"redundancy: error: {message}", file=sys.stderr)
    return code


def command() -> NoReturn:
    """The command line as a whole process."""
    code = entry()
    # Those of JAX would wait for the other processes of a run, which may be gone.
    if code not in (Preempted().code, _EXIT_INTERRUPTED) and processes.count() == 1:
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing is left to do. Threads of the libraries may still work, and be aborted while Python takes itself down.
    os._exit(code)


if __name__ == "__main__":
    command()
