"""`python -m redundancy`, the same as the command `redundancy`."""

from redundancy.cli.main import command

command()
