"""Bundles the code, tracked and new files, into one file, so that hosts run the code exactly as it is in this checkout."""

import dataclasses
import gzip
import hashlib
import io
import os
import pathlib
import re
import subprocess
import tarfile

from redundancy.runtime.errors import UserError

MAX_BYTES = 100 * 2**20
_SECRET = re.compile(
    r"(?i)(^|/)(\.env(\..*)?|id_[a-z0-9]+|.*\.(pem|key|p12|pfx)|.*(credential|service[-_]account).*\.json)$"
)


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A gzipped tar file. It depends only on the files, not on the user or the time."""

    files: tuple[str, ...]
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def name(self) -> str:
        return f"bundles/{self.sha256}.tar.gz"


def make(root: pathlib.Path) -> Bundle:
    """The bundle of a git checkout: tracked files in their present state, and untracked ones that git does not ignore."""
    argv = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = os.fsdecode(subprocess.run(argv, capture_output=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"{root} is no git checkout; the code that goes to the hosts is what git lists.") from error
    names = sorted({*listed.split("\0")} - {""})
    files = [name for name in names if (root / name).is_file() or (root / name).is_symlink()]
    sizes = {name: (root / name).lstat().st_size for name in files}
    if (total := sum(sizes.values())) > MAX_BYTES:
        what = f"the code has {total / 2**20:.0f} MiB; wanted at most {MAX_BYTES / 2**20:.0f}. The largest files are "
        largest = ", ".join(sorted(files, key=lambda name: -sizes[name])[:3])
        raise UserError(f"{what}{largest}: name what is not needed in .gitignore.")
    if secret := [name for name in files if _is_secret(root, name)]:
        what = f"{', '.join(secret)}: looks like a key, and would go to the bucket and to every host."
        raise UserError(f"{what} Move it out of the checkout, or name it in .gitignore.")
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="", compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in files:
            archive.addfile(*_entry(root, name))
    return Bundle(tuple(files), packed.getvalue())


def _is_secret(root: pathlib.Path, name: str) -> bool:
    """Whether a file is secret, according to its name, or because it is the JSON key of a service account."""
    is_json = name.endswith(".json") and (root / name).is_file()
    return bool(_SECRET.search(name)) or (is_json and b'"private_key"' in (root / name).read_bytes())


def _entry(root: pathlib.Path, name: str) -> tuple[tarfile.TarInfo, io.BytesIO | None]:
    """The entry of a file, or of a link to a target within the checkout."""
    path, entry = root / name, tarfile.TarInfo(name)
    if path.is_symlink():
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
        within = pathlib.Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
        if os.path.isabs(entry.linkname) or not within:
            raise UserError(f"{name} is a link to {entry.linkname}, out of the checkout; the hosts will not have that.")
        return entry, None
    content = path.read_bytes()
    entry.size, entry.mode = len(content), 0o755 if path.stat().st_mode & 0o100 else 0o644
    return entry, io.BytesIO(content)
