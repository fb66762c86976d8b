"""Processes of this machine, through the same controller.

    python -m launch run --config launch/configs/local.py --config.hosts=2 \\
        -- run --config digits:smoke --workdir /tmp/digits

Each process uses all devices that it sees, so on a machine with a GPU only one host should have it.
"""

import os

from launch.spec import defaults
from redundancy.storage.cache_folder import cache_folder


def get_config():
    config = defaults()
    config.backend = "local"
    config.bucket = cache_folder() or os.path.abspath(".launch")
    config.poll_s, config.mirror_s = 2.0, 2.0
    return config
