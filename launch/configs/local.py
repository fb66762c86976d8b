"""Processes of this machine, through the same controller.

    python -m launch run --config launch/configs/local.py --config.hosts=2 \\
        -- run --config configs/digits.py:smoke --workdir /tmp/digits

Each process takes all the devices it sees: on a machine with a GPU let one host have it.
"""

import os

from launch.spec import defaults


def get_config():
    config = defaults()
    config.backend = "local"
    config.bucket = os.path.expanduser("~/.cache/redundancy")
    config.poll_s, config.mirror_s = 2.0, 2.0
    return config
