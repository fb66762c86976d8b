"""The folder of one experiment: paths of its artifacts, its config, its finished stages, and the right to write there."""

from redundancy.workdir.layout import STAGES as STAGES
from redundancy.workdir.layout import run_name as run_name
from redundancy.workdir.layout import subset_name as subset_name
from redundancy.workdir.manifest import need_fields as need_fields
from redundancy.workdir.manifest import need_manifest as need_manifest
from redundancy.workdir.manifest import need_results as need_results
from redundancy.workdir.manifest import read_manifest as read_manifest
from redundancy.workdir.manifest import write_manifest as write_manifest
from redundancy.workdir.workdir import Workdir as Workdir
from redundancy.workdir.workdir import versions as versions
