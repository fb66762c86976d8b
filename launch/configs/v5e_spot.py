"""One spot slice of 16 v5e chips, four hosts.

    python -m launch run --config launch/configs/v5e_spot.py --config.bucket=gs://BUCKET --config.budget_chip_hours=200 \\
        -- run --config imagenet --workdir gs://BUCKET/imagenet
"""

from launch.spec import defaults


def get_config():
    config = defaults()
    config.zones = ("us-west4-a", "us-central1-a", "europe-west4-b")
    config.accelerator_type = "v5litepod-16"
    return config
