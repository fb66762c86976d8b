"""Handles processes that are started without some standard streams, as by `2>&-` or by a service."""

import os
import sys


def open_closed() -> None:
    """Opens the null device for each standard stream that is closed.

    Otherwise Python has None for it, and the next opened file gets its number, so that output of libraries goes into that file.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:
                os.set_inheritable(opened, True)
            else:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def flush() -> None:
    """Flushes the standard output.

    Raises:
      OSError: it could not be written, for example to a full disk. A closed pipe, as with `| head`, is not an error.
    """
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BrokenPipeError:
        pass
