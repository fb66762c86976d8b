"""One slice of 16 v6e chips on demand, four hosts.

    python -m launch run --config launch/configs/v6e.py --config.bucket=gs://BUCKET --config.budget_chip_hours=200 \\
        -- run --config imagenet --workdir gs://BUCKET/imagenet
"""

from launch.spec import defaults


def get_config():
    config = defaults()
    config.zones = ("us-east5-b", "europe-west4-a")
    config.accelerator_type = "v6e-16"
    config.spot = False
    return config
