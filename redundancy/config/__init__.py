"""The fields of a config, their types and defaults, and the checks of a given config."""

from redundancy.config.compare import dataset_name as dataset_name
from redundancy.config.compare import differing as differing
from redundancy.config.compare import identity as identity
from redundancy.config.compare import known_as as known_as
from redundancy.config.compare import left_out as left_out
from redundancy.config.compare import to_json as to_json
from redundancy.config.convert import check_variant as check_variant
from redundancy.config.convert import defaults as defaults
from redundancy.config.convert import describe as describe
from redundancy.config.convert import need_dataset as need_dataset
from redundancy.config.convert import resolve as resolve
from redundancy.config.data import AUGMENTATIONS as AUGMENTATIONS
from redundancy.config.experiment import LAYERS as LAYERS
from redundancy.config.experiment import RULES as RULES
from redundancy.config.field import CONTROLS as CONTROLS
from redundancy.config.field import Affects as Affects
from redundancy.config.field import Field as Field
from redundancy.config.field import fraction_name as fraction_name
from redundancy.config.field import same_fraction as same_fraction
from redundancy.config.field import share_hint as share_hint
from redundancy.config.loading import evaluate as evaluate
from redundancy.config.loading import find as find
from redundancy.config.loading import load as load
from redundancy.config.loading import shipped as shipped
from redundancy.config.sections import FIELDS as FIELDS
