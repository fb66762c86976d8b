"""The command line: flags, help, and the commands behind them."""

from redundancy.runtime import streams

streams.open_closed()  # before the libraries open files
