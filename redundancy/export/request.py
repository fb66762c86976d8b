"""The request of the command `export`, and its checks."""

import dataclasses
import errno
import os

from redundancy import methods, storage
from redundancy.config import FIELDS, LAYERS, share_hint
from redundancy.runtime.errors import ConfigError

FORMATS = ("npy", "txt", "csv", "parquet", "folder", "tfds", "groups-csv", "groups-parquet", "projector")
OF_ALL = FORMATS[6:]  # formats that contain all images, kept and dropped
LINKS = ("symlink", "hard", "copy")
PROJECTOR_FILES = ("tensors.tsv", "metadata.tsv", "sprite.png", "projector_config.pbtxt")
IMAGE_IDS = ("auto", "position", "tfds", "none")


@dataclasses.dataclass(frozen=True)
class Request:
    """The values of the flags.

    Attributes:
      fraction: kept share of the subset.
      format: one of FORMATS.
      output: file to write, local or gs://; for folder and projector the folder.
      method: method that chose the subset.
      layer: layer of the embeddings; None is "end", or no layer if the method reads none.
      trial: number of the trial; None if all trials have the same subset.
      dropped: whether to export the dropped images instead of the kept ones.
      overwrite: whether an existing file may be replaced.
      image_ids: one of IMAGE_IDS, the kind of image names, except in tfds and folder; None is "auto".
      limit: largest number of images for the projector; None is 10,000.
      null: whether txt ends each name with a null byte instead of a line break.
      link: one of LINKS, the kind of links in folder; None is "symlink".
      images: for folder, the folder that file names are relative to; None is that of the data set.
    """

    fraction: float
    format: str
    output: str
    method: str = methods.DEFAULT[0]
    layer: str | None = None
    trial: int | None = None
    dropped: bool = False
    overwrite: bool = False
    image_ids: str | None = None
    limit: int | None = None
    null: bool = False
    link: str | None = None
    images: str | None = None

    @property
    def embedding(self) -> str | None:
        """The layer whose embeddings the subset was made from; None if the method reads no layer."""
        return (self.layer or "end") if methods.get(self.method).per_layer else None


def check(request: Request) -> None:
    """Raises ConfigError if the request is invalid, regardless of the workdir."""
    form, method, limit = request.format, request.method, request.limit

    def refuse(problem: str) -> None:
        raise ConfigError(f"--{problem}.")

    if not FIELDS["fractions"].check((request.fraction,)):
        hint = share_hint(FIELDS["report_fraction"], request.fraction).rstrip(".")
        refuse(f"fraction is {request.fraction:g}; wanted a number from 0.0001 to 1, such as 0.9{hint and f'.{hint}'}")
    for field, known in (
        ("format", FORMATS),
        ("layer", LAYERS),
        ("image_ids", IMAGE_IDS),
        ("link", LINKS),
    ):
        given, flag = getattr(request, field), field.replace("_", "-")
        if field == "image_ids" and given is not None and form in ("folder", "tfds"):
            refuse(f"image-ids is not for --format {form}, which has names of its own; leave it out")
        if given is not None and given not in known:
            refuse(f"{flag} is {given!r}; wanted one of {', '.join(known)}")
    known_method = methods.need(method, "--method")
    if not known_method.per_layer and request.layer is not None:
        refuse(f"layer is given, but {method} subsets come from no layer; leave it out")
    if known_method.per_trial and request.trial is None:
        refuse(f"trial is missing: there is a {method} subset for each trial; for example --trial=0")
    if not known_method.per_trial and request.trial is not None:
        refuse(f"trial is given, but there is one {method} subset for all trials; leave it out")
    if request.dropped and form in OF_ALL:
        refuse(f"dropped is given, but --format {form} has all images; leave it out")
    if limit is not None and form != "projector":
        refuse(f"limit is for --format projector, not for {form}; leave it out")
    for field, of in (("null", "txt"), ("link", "folder"), ("images", "folder")):
        if getattr(request, field) and form != of:
            refuse(f"{field} is for --format {of}, not for {form}; leave it out")
    if limit is not None and limit < 1:
        refuse(f"limit is {limit}; wanted a number of images from 1 on")


def check_output(request: Request) -> None:
    """Raises ConfigError if `output` is not a file, or for the projector not a folder, that may be written."""
    path, shown = request.output, f"--output={request.output}"
    if path == "-":
        raise ConfigError(f"{shown}: nothing is written to the standard output; wanted a file, such as ./kept.txt.")
    local = os.path.expanduser(storage.local_path(path)) if storage.is_local(path) else ""
    if request.format == "folder":
        if not local:
            raise ConfigError(f"{shown}: links and copies of files are made on this machine; wanted a local folder.")
        if request.overwrite:
            raise ConfigError("--overwrite is given, but --format folder never writes over files; name another folder.")
        if os.path.lexists(local) and (os.path.islink(local) or not os.path.isdir(local) or os.listdir(local)):
            raise ConfigError(f"{shown} is there already, and is no empty folder. Name a folder that is not there.")
        return
    if request.format == "projector":
        if local and os.path.exists(local) and not os.path.isdir(local):
            raise ConfigError(f"{shown} is a file; wanted a folder, new or empty.")
        there = storage.list_dir(path)
        if others := sorted({*there} - {*PROJECTOR_FILES}):
            raise ConfigError(f"{shown} holds {others[0]}; wanted a folder, new or empty.")
        if there and not request.overwrite:
            raise ConfigError(f"{shown} holds {there[0]} already. Choose another folder, or give --overwrite.")
        return
    if path.endswith("/") or os.path.isdir(local):
        name = f"kept.{request.format.rpartition('-')[2]}"
        raise ConfigError(f"{shown} is a folder; wanted a file, such as {storage.join(path, name)}.")
    if not storage.exists(path):
        return
    if not request.overwrite:
        raise ConfigError(f"{shown} is there already. Choose another file, or give --overwrite.")
    if local and not os.path.isfile(local):
        raise ConfigError(f"{shown} is a pipe, device or socket, which --overwrite does not replace; name a file.")


def write(request: Request, data: bytes) -> None:
    """Writes the file atomically; raises ConfigError, naming --output, if that fails."""
    try:
        # Without --overwrite, a file that another process has written since the check is not replaced.
        if request.overwrite:
            storage.write_bytes(request.output, data)
        elif not storage.create_bytes(request.output, data):
            raise ConfigError(f"--output={request.output} is there already. Choose another file, or give --overwrite.")
    except OSError as error:
        todo = "Choose a file in a folder that you may write to"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            todo = "Free some space, or choose a file elsewhere"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR):
            todo = "A file stands where its folder is wanted: choose a file in another folder"
        raise ConfigError(
            f"--output={request.output} cannot be written ({error.strerror or error}). {todo}; nothing was written."
        ) from error
