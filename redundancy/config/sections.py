"""All fields of a config, in the order in which they are listed."""

from redundancy.config import data, experiment, model, training
from redundancy.config.field import Field

FIELDS: dict[str, Field] = data.FIELDS | model.FIELDS | training.FIELDS | experiment.FIELDS
