"""Decides which lines of the log the command line shows, and the exit code and message of an error."""

import errno
import logging as std_logging
import os
import pathlib

from absl import logging

from redundancy.runtime import extras
from redundancy.runtime.errors import ConfigError, UserError

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class _OwnLines(std_logging.Filter):
    """Passes all lines of this package, but only warnings and errors of libraries."""

    def filter(self, record):
        own = str(pathlib.Path(__file__).parents[1]) in record.pathname
        # TFDS warns about its own use of a deprecated attribute whenever it opens a split.
        noise = "FeatureConnector.dtype" in record.getMessage()
        # Orbax warns that a save takes time and that an optional file is missing. google-auth warns that this is not a
        # Google machine before it looks for other credentials.
        noise = noise or record.getMessage().startswith(
            ("Waiting for previous save", "Metadata file does not exist", "Authentication failed using Compute Engine")
        )
        # An error that a library logs with a stack trace is also raised as an exception, which is shown in one line.
        noise = noise or bool(record.exc_info) or record.name == "asyncio"
        return own or (record.levelno >= std_logging.WARNING and not noise)


def start_logging(debug: bool = False) -> None:
    level = logging.DEBUG if debug else logging.INFO
    logging.use_absl_handler()
    logging.set_verbosity(level)
    logging.set_stderrthreshold(level)
    handler = logging.get_absl_handler()
    handler.setFormatter(std_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_OwnLines())


def _explain(error: BaseException) -> str:
    """The message for an exception that is not a UserError."""
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
    if isinstance(error, ModuleNotFoundError) and (hint := extras.hint(error.name or "")):
        return hint
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    if first.startswith("Unable to initialize backend"):
        asked = os.environ.get("JAX_PLATFORMS", "")
        return (
            f"JAX cannot use the devices that it is asked for: {first.removesuffix('.')}. The environment variable JAX_PLATFORMS is "
            f"{asked!r}; wanted cpu, cuda or tpu, as this machine has and the installed JAX knows, or nothing, to take the best."
        )
    return f"{type(error).__name__}: {first} (a bug, or a fault of this machine; --debug shows where)"


def verdict(error: BaseException) -> tuple[int, str]:
    """Exit code and message of an error."""
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED, "interrupted"
    if isinstance(error, UserError):
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_ERROR, str(error)
    return EXIT_ERROR, _explain(error)
