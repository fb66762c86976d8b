"""One spot slice of 16 v4 chips, four hosts: the slices that the TPU Research Cloud often lends.

    python -m launch run --config launch/configs/v4_spot.py --config.bucket=gs://BUCKET --config.budget_chip_hours=200 \\
        -- run --config imagenet --workdir gs://BUCKET/imagenet
"""

from launch.spec import defaults


def get_config():
    config = defaults()
    config.zones = ("us-central2-b",)
    config.accelerator_type = "v4-32"
    return config
