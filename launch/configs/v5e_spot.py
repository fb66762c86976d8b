"""One spot slice of 16 v5e chips, four hosts: launch/configs/v5e_spot.py."""

from launch.spec import defaults


def get_config():
    config = defaults()
    config.zones = ("us-west4-a", "us-central1-a", "europe-west4-b")
    config.accelerator_type = "v5litepod-16"
    return config
