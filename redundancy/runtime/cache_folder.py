"""Where files lie that make a later start faster: they are the user's own, and nothing depends on them."""

import os


def cache_folder() -> str | None:
    """The folder, whether it is there or not; None if the user has none."""
    # A relative XDG_CACHE_HOME is invalid and to be ignored (XDG base directory specification).
    roots = (os.environ.get("XDG_CACHE_HOME", ""), os.path.join(os.path.expanduser("~"), ".cache"))
    root = next((root for root in roots if os.path.isabs(root)), None)
    return root and os.path.join(root, "redundancy")
