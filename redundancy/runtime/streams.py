"""The standard streams of a process that was started without some of them, as by `2>&-` or by a service."""

import os
import sys


def open_closed() -> None:
    """Opens the null device for each standard stream that is closed.

    Else Python has None for it, and the next file that is opened gets its number: what a library then prints goes into that file.
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
    """Flushes what was printed.

    Raises:
      OSError: it could not be written, for example to a full disk. A reader that has gone, as of `| head`, is no error.
    """
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BrokenPipeError:
        pass
