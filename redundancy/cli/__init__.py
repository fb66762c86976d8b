"""The command line: flags, help, and the commands behind them."""
