"""One spot slice of 16 v4 chips, four hosts, as the TPU Research Cloud often lends them: launch/configs/v4_spot.py."""

from launch.spec import defaults


def get_config():
    config = defaults()
    config.zones = ("us-central2-b",)
    config.accelerator_type = "v4-32"
    return config
