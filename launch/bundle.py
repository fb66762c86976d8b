"""The code as one file: what git tracks and what is new beside it, so that a host runs what lies here now."""

import dataclasses
import gzip
import hashlib
import io
import pathlib
import re
import subprocess
import tarfile

from redundancy.errors import UserError

MAX_BYTES = 50 * 2**20
_SECRET = re.compile(
    r"(^|/)(\.env(\..*)?|id_[a-z0-9]+|.*\.(pem|key|p12|pfx)|.*(credential|service[-_]account).*\.json)$"
)


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A gzipped tar file: equal for equal files, whoever makes it, and when."""

    files: tuple[str, ...]
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def name(self) -> str:
        return f"bundles/{self.sha256}.tar.gz"


def make(root: pathlib.Path) -> Bundle:
    """The bundle of a git checkout: tracked files as they lie there, and untracked ones that git does not ignore.

    Raises:
      UserError: no git checkout, too large, or a file that looks like a key.
    """
    argv = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(argv, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"{root} is no git checkout; the code that goes to the hosts is what git lists.") from error
    files = sorted(name for name in set(listed.split("\0")) if name and (root / name).is_file())
    if secret := [name for name in files if _SECRET.search(name)]:
        raise UserError(
            f"{', '.join(secret)}: looks like a key, and would be copied to the bucket and to every host. Move it out of "
            "the checkout, or name it in .gitignore."
        )
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="", compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in files:
            content = (root / name).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if (root / name).stat().st_mode & 0o100 else 0o644
            archive.addfile(entry, io.BytesIO(content))
    data = packed.getvalue()
    if len(data) > MAX_BYTES:
        largest = sorted(files, key=lambda name: -(root / name).stat().st_size)[:3]
        raise UserError(
            f"the code makes a bundle of {len(data) / 2**20:.0f} MiB; wanted at most {MAX_BYTES / 2**20:.0f}. The largest "
            f"files are {', '.join(largest)}: name what is not needed in .gitignore."
        )
    return Bundle(tuple(files), data)
