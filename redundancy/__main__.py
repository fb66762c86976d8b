"""`python -m redundancy`, the same as the command `redundancy`."""

import sys

from redundancy.main import entry

sys.exit(entry())
