"""`python -m redundancy`, the same as the command `redundancy`."""

from redundancy.main import command

command()
