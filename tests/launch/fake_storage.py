"""The storage commands of fake_gcloud.py: gs:// is a folder, see there. Standard library only."""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import sys
import time
import urllib.parse
from collections.abc import Iterator

OBJECTS_NOT_FOUND = "The following URLs matched no objects or files:"


class Failure(Exception):
    """An error that ends the command with exit status 1."""


def parsed(words: list[str], *known: str) -> argparse.Namespace:
    """The arguments of a command that takes these: a flag that ends in = has a value, what is no flag has a place."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in known:
        if name.startswith("--") and not name.endswith("="):
            parser.add_argument(name, action="store_true", required=name in ("--async", "--quiet"))
        else:
            parser.add_argument(name.rstrip("="), **({"action": "append"} if name == "--ssh-flag=" else {}))
    return parser.parse_args(words)


@contextlib.contextmanager
def generations(root: pathlib.Path) -> Iterator[dict[str, int]]:
    """The objects' generations by URI, saved at the end. One process at a time is in here, and so in the buckets."""
    with contextlib.suppress(FileNotFoundError):
        down = os.open(root / ".down", os.O_WRONLY | os.O_APPEND)
        os.write(down, b".")
        os.close(down)
        raise Failure("HTTPError 503: Service Unavailable")
    with open(root / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = root / ".generations.json"
        held = json.loads(file.read_text()) if file.exists() else {}
        yield held
        file.with_suffix(".tmp").write_text(json.dumps(held))
        file.with_suffix(".tmp").replace(file)


class Buckets:
    """gs:// in a folder. A file that a test puts there is an object as well."""

    def __init__(self, held: dict[str, int]) -> None:
        self.root = pathlib.Path(os.environ["FAKE_GCLOUD_BUCKETS"])
        self.held = held

    def path(self, uri: str) -> pathlib.Path:
        if not uri.startswith("gs://"):
            raise Failure(f"the fake gcloud takes gs:// here, not {uri}")
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        if not (self.root / bucket).is_dir() or bucket.startswith("."):
            raise Failure(f"gs://{bucket} not found: 404.")
        return self.root / bucket / name

    def uris(self, bucket_uri: str) -> list[str]:
        """All objects of the bucket that `bucket_uri` is in."""
        bucket = bucket_uri.removeprefix("gs://").partition("/")[0]
        folder = self.path(f"gs://{bucket}")
        return sorted(f"gs://{bucket}/{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file())

    def matching(self, uri: str) -> list[str]:
        if not re.search(r"[*?\[]", uri):
            return [uri] if self.path(uri).is_file() else []
        parts = re.split(r"(\*\*|\*|\?|\[[^]]*\])", uri)
        known = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
        pattern = "".join(known.get(part) or (part if part.startswith("[") else re.escape(part)) for part in parts)
        return [found for found in self.uris(uri) if re.fullmatch(pattern, found)]

    def generation(self, uri: str) -> int:
        """0 where there is no such object."""
        if not self.path(uri).is_file():
            return 0
        if uri not in self.held:
            self.held[uri] = self._next()
        return self.held[uri]

    def write(self, uri: str, content: bytes) -> None:
        path = self.path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.root / ".partial"
        partial.write_bytes(content)
        partial.replace(path)
        self.held[uri] = self._next()

    def _next(self) -> int:
        self.held[""] = max(self.held.get("", 0) + 1, time.time_ns() // 1000)
        return self.held[""]


def cat(command: list[str], words: list[str]) -> None:
    [uri] = words
    with generations(pathlib.Path(os.environ["FAKE_GCLOUD_BUCKETS"])) as held:
        buckets = Buckets(held)
        contents = [buckets.path(name).read_bytes() for name in buckets.matching(uri)]
    if not contents:
        raise Failure(f"{OBJECTS_NOT_FOUND}\n{uri}")
    sys.stdout.buffer.write(b"".join(contents))


def cp(command: list[str], words: list[str]) -> None:
    args = parsed(words, "--if-generation-match=", "source", "target")
    upload = args.target.startswith("gs://")
    if args.source == "-":
        content = sys.stdin.buffer.read()
    elif upload:
        content = pathlib.Path(args.source).read_bytes()
    with generations(pathlib.Path(os.environ["FAKE_GCLOUD_BUCKETS"])) as held:
        buckets = Buckets(held)
        if upload:
            if args.if_generation_match not in (None, str(buckets.generation(args.target))):
                raise Failure("HTTPError 412: At least one of the pre-conditions you specified did not hold.")
            buckets.write(args.target, content)
            return
        if not buckets.matching(args.source):
            raise Failure(f"{OBJECTS_NOT_FOUND}\n{args.source}")
        shutil.copyfile(buckets.path(args.source), args.target)


def ls(command: list[str], words: list[str]) -> None:
    args = parsed(words, "uri")
    with generations(pathlib.Path(os.environ["FAKE_GCLOUD_BUCKETS"])) as held:
        buckets = Buckets(held)
        found = buckets.matching(args.uri) if buckets.path(args.uri) else []
        if not found:
            prefix = args.uri if args.uri.endswith("/") else args.uri + "/"
            under = [uri.removeprefix(prefix) for uri in buckets.uris(args.uri) if uri.startswith(prefix)]
            # A folder once, by its first part and a slash.
            found = sorted({prefix + "".join(rest.partition("/")[:2]) for rest in under})
    if not found:
        raise Failure("One or more URLs matched no objects.")
    print("\n".join(found))


def objects_describe(command: list[str], words: list[str]) -> None:
    args = parsed(words, "uri", "--format=")
    with generations(pathlib.Path(os.environ["FAKE_GCLOUD_BUCKETS"])) as held:
        generation = Buckets(held).generation(args.uri)
    if not generation:
        bucket, _, name = args.uri.removeprefix("gs://").partition("/")
        raise Failure(f"gs://{bucket}/{urllib.parse.quote(name, safe='')} not found: 404.")
    print(generation)


def buckets_describe(command: list[str], words: list[str]) -> None:
    Buckets({}).path(parsed(words, "uri", "--format=").uri)
    print("US-CENTRAL1")
