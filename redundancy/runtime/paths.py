"""Paths given by users: ~ is expanded, and a URL with a missing slash is refused."""

import os
import re

from redundancy.runtime.errors import ConfigError

_ONE_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/(?!/)|(gs|gcs|s3|https?):(?!//)")


def given_path(name: str, path: str) -> str:
    """The path that a flag or a field holds, with ~ expanded.

    Args:
      name: the flag or field, for messages: "--workdir".
      path: local or a URL, as given.

    Raises:
      ConfigError: the path is a URL with only one slash, or ~NAME is not a user.
    """
    if _ONE_SLASH.match(path):
        scheme, _, rest = path.partition(":")
        wanted = f"{scheme}://{'/' if scheme == 'file' else ''}{rest.lstrip('/')}"
        raise ConfigError(
            f"{name}={path}: a URL has two slashes. Wanted: {wanted} (pathlib.Path drops one: give a "
            f"text); for a local folder named {scheme!r}: write ./{path}."
        )
    scheme = "file://" if path.startswith("file://") else ""
    local = path.removeprefix(scheme)
    expanded = os.path.expanduser(local)
    if local.startswith("~") and expanded == local:
        raise ConfigError(
            f"{name}={path}: {local.split('/')[0]} is the home folder of nobody on this machine. Wanted: a path; for a folder "
            f"of that name: ./{local}."
        )
    return scheme + expanded
