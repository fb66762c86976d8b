"""One slice of 16 v6e chips on demand, four hosts: launch/configs/v6e.py."""

from launch.spec import defaults


def get_config():
    config = defaults()
    config.zones = ("us-east5-b", "europe-west4-a")
    config.accelerator_type = "v6e-16"
    config.spot = False
    return config
