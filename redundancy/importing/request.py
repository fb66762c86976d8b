"""The request of the command `import`, and its checks."""

import dataclasses

from redundancy.config import CONTROLS, LAYERS, need_dataset
from redundancy.data import inputs
from redundancy.importing.files import ORDERS
from redundancy.importing.labels import READINGS
from redundancy.runtime.errors import ConfigError, nearest

_COLUMNS = ("embedding", "label", "id")


@dataclasses.dataclass(frozen=True)
class Request:
    """The values of the flags; '' and 0 mean "not given"."""

    embeddings: str  # .npy or Parquet file, or folder or pattern of files of one kind
    labels: str = ""  # .npy, .csv, .txt or Parquet file; without it a column of the Parquet files, or one class
    ids: str = ""  # .txt, .csv, .npy or Parquet file
    columns: str = ""  # "embedding=NAME,label=NAME,id=NAME", any of them
    class_names: str = ""  # text file with one name per line
    layer: str = "end"
    name: str = ""  # name of the data set; by default the base name of the embeddings
    checkpoint: str = ""  # text that identifies the model
    parts: int = 0  # number of files of the store
    order: str = ""  # order of several files of embeddings, one of ORDERS
    labels_are: str = ""  # one of READINGS


def parse_columns(text: str) -> dict[str, str]:
    """Parses "embedding=emb" to {"embedding": "emb"}; raises ConfigError for other forms and keys."""
    columns: dict[str, str] = {}
    for pair in filter(None, text.split(",")):
        key, equals, name = (part.strip() for part in pair.partition("="))
        if key not in _COLUMNS or not equals or not name or key in columns:
            hint = nearest(key, _COLUMNS) if key not in _COLUMNS else " Give it once." if key in columns else ""
            raise ConfigError(
                f"--columns={text}: {pair!r} is not understood.{hint} Wanted: some of embedding=NAME,label=NAME,id=NAME, "
                "each NAME a column of the Parquet or .csv file."
            )
        columns[key] = name
    return columns


def check(request: Request, config) -> None:
    """Raises ConfigError for values and combinations of flags that are not allowed."""
    if request.layer not in LAYERS:
        raise ConfigError(f"--layer is {request.layer!r}; wanted one of {', '.join(LAYERS)}, as in config.layers.")
    if request.parts < 0:
        raise ConfigError(f"--parts is {request.parts}; wanted a number of at least 1.")
    for flag, text in (("--name", request.name), ("--checkpoint", request.checkpoint)):
        if CONTROLS.search(text):
            raise ConfigError(
                f"{flag}={inputs.shown(text)} holds control characters or broken UTF-8; wanted a text of one line."
            )
    for flag, value, known in (
        ("--order", request.order, ORDERS),
        ("--labels-are", request.labels_are, READINGS),
    ):
        if value and value not in known:
            raise ConfigError(f"{flag} is {value!r}; wanted {' or '.join(known)}.")
    if config is None:
        return
    need_dataset(config, "import with --config")
    if request.class_names or request.name:
        flag = "--class-names" if request.class_names else "--name"
        raise ConfigError(f"{flag} is given with --config, whose data set has its own. Leave one of them out.")
