"""A fake of the gcloud program: the few commands that launch/ uses, against the cloud of cloud.py. Standard library only.

It knows no other flags than those in use, and says what the real one says. Its environment:
  CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU: where the cloud is, as for the real one.
  CLOUDSDK_CORE_PROJECT: as for the real one.
  FAKE_GCLOUD_BUCKETS: the folder that holds gs://, one folder for each bucket. While it has a file ".down", storage fails;
    a byte is added to it each time.
  FAKE_GCLOUD_HOSTS: the folder of the machines' homes, NAME/worker-I.
  FAKE_GCLOUD_HOST_ENV: more environment variables for the machines, as JSON.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

SSH_ATTEMPTS = 3  # the real one: 10, every 5 seconds
OBJECTS_NOT_FOUND = "The following URLs matched no objects or files:"


class Failure(Exception):
    """An error that ends the command with exit status 1."""


def fail(command: list[str], message: str, code: int) -> NoReturn:
    print(f"ERROR: ({'.'.join(['gcloud', *command])}) {message}", file=sys.stderr)
    sys.exit(code)


def parsed(words: list[str], *known: str) -> argparse.Namespace:
    """The arguments of a command that takes these: a flag that ends in = has a value, what is no flag has a place."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in known:
        if name.startswith("--") and not name.endswith("="):
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name.rstrip("="), **({"action": "append"} if name == "--ssh-flag=" else {}))
    return parser.parse_args(words)


# --- Cloud TPU ---------------------------------------------------------------------------------------------------------


def request(command: list[str], method: str, path: str, body: object = None) -> Any:
    """Sends one request to the cloud. The real gcloud repeats it after an answer of 5xx, for half a minute."""
    sys.modules["ssl"] = None  # type: ignore[assignment]  # not needed, and half of the time that a command takes
    import http.client

    base = urllib.parse.urlsplit(os.environ["CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU"])
    connection = http.client.HTTPConnection(base.netloc, timeout=30)
    # It is what the real one calls itself, and what the cloud reads the command from.
    headers = {"User-Agent": f"google-cloud-sdk gcloud/fake command/gcloud.{'.'.join(command)} x"}
    try:
        connection.request(method, base.path + path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        data = answer.read().decode()
    except OSError as error:
        raise Failure(f"gcloud crashed (ConnectionError): {error}") from error
    finally:
        connection.close()
    if answer.status >= 500:
        raise Failure(
            f"HttpError accessing <{base.scheme}://{base.netloc}{base.path}{path}>: response: "
            f"<{{'content-type': 'application/json; charset=UTF-8', 'status': {answer.status}}}>, content <{data}>\n"
            "This may be due to network connectivity issues. Please check your network settings, and the status of the "
            "service you are trying to reach."
        )
    if answer.status >= 400:
        error = json.loads(data)["error"]
        raise Failure(f"{error['status']}: {error['message']}{WHO if answer.status in (401, 403, 404) else ''}")
    return json.loads(data)


# What gcloud adds to errors that may have to do with the account.
WHO = ". This command is unauthenticated because the [auth/disable_credentials] property is True"


def show(value: object) -> None:
    print(json.dumps(value, indent=2, sort_keys=True))


PLACE = ("name", "--project=", "--zone=")


def location(args: argparse.Namespace) -> str:
    return f"projects/{args.project or os.environ['CLOUDSDK_CORE_PROJECT']}/locations/{args.zone}"


def create(command: list[str], words: list[str]) -> None:
    args = parsed(
        words, *PLACE, "--accelerator-type=", "--runtime-version=", "--node-id=", "--scopes=", "--valid-until-duration=",
        "--labels=", "--spot", "--reserved", "--service-account=", "--network=", "--subnetwork=", "--metadata-from-file=",
        "--internal-ips", "--async", "--quiet",
    )  # fmt: skip
    metadata = {}
    if args.metadata_from_file:
        key, _, path = args.metadata_from_file.partition("=")
        metadata[key] = pathlib.Path(path).read_text()
    network = {"enableExternalIps": not args.internal_ips, "network": args.network or "default"}
    account = {"scope": args.scopes.split(",")}
    if args.subnetwork:
        network["subnetwork"] = args.subnetwork
    if args.service_account:
        account["email"] = args.service_account
    parent = location(args)
    body: dict[str, Any] = {"queueingPolicy": {"validUntilDuration": args.valid_until_duration}}
    if args.spot:
        body["spot"] = {}
    if args.reserved:
        body["reservationName"] = f"{parent}/reservations/-"
    node = {
        "acceleratorType": args.accelerator_type,
        "labels": dict(pair.split("=") for pair in args.labels.split(",")),
        "metadata": metadata,
        "networkConfig": network,
        "runtimeVersion": args.runtime_version,
        "serviceAccount": account,
    }
    body["tpu"] = {"nodeSpec": [{"node": node, "nodeId": args.node_id, "parent": parent}]}
    path = f"v2/{parent}/queuedResources?alt=json&queuedResourceId={args.name}"
    operation = request(command, "POST", path, body)["name"]
    print(f"Create request issued for: [{args.name}]\nCheck operation [{operation}] for status.", file=sys.stderr)


def delete(command: list[str], words: list[str]) -> None:
    args = parsed(words, *PLACE, "--force", "--async", "--quiet")
    path = f"v2/{location(args)}/queuedResources/{args.name}?alt=json&force={args.force}"
    operation = request(command, "DELETE", path)["name"]
    print(f"Delete request issued for: [{args.name}]\nCheck operation [{operation}] for status.", file=sys.stderr)


def describe(command: list[str], words: list[str]) -> None:
    args = parsed(words, *PLACE, "--format=")
    collection = "nodes" if "tpu-vm" in command else "queuedResources"
    show(request(command, "GET", f"v2/{location(args)}/{collection}/{args.name}?alt=json"))


def list_(command: list[str], words: list[str]) -> None:
    args = parsed(words, *PLACE[1:], "--format=")
    show(request(command, "GET", f"v2/{location(args)}/queuedResources?alt=json").get("queuedResources", []))


def ssh(command: list[str], words: list[str]) -> None:
    args = parsed(
        words,
        *PLACE,
        "--node=",
        "--worker=",
        "--batch-size=",
        "--quiet",
        "--tunnel-through-iap",
        "--ssh-flag=",
        "--command=",
    )
    start = time.time()
    queued = request(command, "GET", f"v2/{location(args)}/queuedResources/{args.name}?alt=json")
    [spec] = queued["tpu"]["nodeSpec"]
    workers: list[int] = []
    nodes = 1
    try:
        node = request(command, "GET", f"v2/{location(args)}/nodes/{spec['nodeId']}?alt=json")
        workers = reachable(node, args.worker)
    except Failure as error:
        # The real one looks at each node in a thread, whose exceptions nobody hears of.
        print(f"Exception in thread Thread-1:\nTraceback (most recent call last):\n  ...\n{error}", file=sys.stderr)
        print("WARNING: Could not prepare all 1 nodes, attempting to ssh into the rest.", file=sys.stderr)
        nodes = 0
    else:
        print(f"Finished preparing node {spec['nodeId']}.", file=sys.stderr)
    print(
        f"Using ssh batch size of 64. Attempting to SSH into {nodes} nodes with a total of {len(workers)} workers.",
        file=sys.stderr,
    )
    quirks = request(command, "POST", f"fake/ssh/{args.zone}/{args.name}")
    codes = [0] * len(workers)

    def connect(place: int) -> None:
        codes[place] = on_worker(args, workers[place], quirks)

    threads = [threading.Thread(target=connect, args=(place,)) for place in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if any(codes):
        sys.exit(next(filter(None, codes)))
    print(f"Completed execution in {time.time() - start} seconds", file=sys.stderr)


def reachable(node: dict[str, Any], wanted: str) -> list[int]:
    """The workers that gcloud would try to connect to."""
    if node["state"] in ("STOPPED", "STOPPING", "DELETING", "HIDDEN"):
        raise Failure(f'This TPU has state "{node["state"]}", so it cannot be currently connected to.')
    if node["state"] in ("PREEMPTED", "TERMINATED"):
        raise Failure(f'This TPU has terminal state "{node["state"]}", so it cannot be used anymore.')
    count = len(node.get("networkEndpoints", []))
    workers = list(range(count)) if wanted == "all" else sorted({int(number) for number in wanted.split(",")})
    if not workers or max(workers) >= count:
        raise Failure(f"Invalid value for [--worker]: {wanted} of {count} workers")
    return workers


def on_worker(args: argparse.Namespace, worker: int, quirks: dict[str, list[int]]) -> int:
    """Runs the command on one worker, again where the connection seems to have failed; returns the exit status."""
    code = 255
    for attempt in range(SSH_ATTEMPTS):
        print(f"SSH: Attempting to connect to worker {worker}...", file=sys.stderr)
        if attempt:
            lost = request(["compute", "tpus", "queued-resources", "ssh"], "GET", f"fake/ssh/{args.zone}/{args.name}")
        if worker in quirks["unreachable"] or (attempt and worker in lost["unreachable"]):
            print(f"ssh: connect to host 127.0.0.{10 + worker} port 22: Connection timed out", file=sys.stderr)
        else:
            done = run_on_host(args.name, worker, args.command)
            if worker in quirks["dropped"] and attempt == 0:
                print(f"client_loop: send disconnect: Broken pipe (worker {worker})", file=sys.stderr)
            else:
                os.write(1, done.stdout)
                os.write(2, done.stderr)
                # ssh has no exit status where a signal ended the command.
                code = done.returncode if done.returncode >= 0 else 255
        if code != 255:
            break
        print("Retrying: SSH command error: [/usr/bin/ssh] exited with return code [255].", file=sys.stderr)
        time.sleep(0.05)
    if code:
        text = f"##### Command execution on worker {worker} failed with exit status {code}. Continuing."
        print(text, file=sys.stderr)
    return code


def run_on_host(name: str, worker: int, command: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a command in a worker's home, with the environment of a machine and not with that of the caller."""
    home = pathlib.Path(os.environ["FAKE_GCLOUD_HOSTS"]) / name / f"worker-{worker}"
    home.mkdir(parents=True, exist_ok=True)
    kept = ("CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU", "FAKE_GCLOUD_BUCKETS", "FAKE_GCLOUD_HOSTS", "FAKE_GCLOUD_HOST_ENV")
    env = {key: os.environ[key] for key in kept if key in os.environ}
    here = os.environ["FAKE_GCLOUD_BIN"]
    env |= {
        "PATH": f"{here}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(home),
        "TPU_WORKER_ID": str(worker),
        "FAKE_GCLOUD_HOST": f"{home}/",  # by which the cloud knows the processes of this machine
        **json.loads(os.environ.get("FAKE_GCLOUD_HOST_ENV", "{}")),
    }
    return subprocess.run(
        ["bash", "-c", command],
        cwd=home,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
    )


# --- Cloud Storage -----------------------------------------------------------------------------------------------------


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


COMMANDS: dict[str, Callable[[list[str], list[str]], None]] = {
    "compute tpus queued-resources create": create,
    "compute tpus queued-resources delete": delete,
    "compute tpus queued-resources describe": describe,
    "compute tpus queued-resources list": list_,
    "compute tpus queued-resources ssh": ssh,
    "compute tpus tpu-vm describe": describe,
    "storage buckets describe": buckets_describe,
    "storage cat": cat,
    "storage cp": cp,
    "storage ls": ls,
    "storage objects describe": objects_describe,
}


def main(words: list[str]) -> None:
    for length in range(len(words), 0, -1):
        if run := COMMANDS.get(" ".join(words[:length])):
            command = words[:length]
            try:
                run(command, words[length:])
            except Failure as error:
                fail(command, str(error), 1)
            return
    fail([], f"Invalid choice: '{' '.join(words[:4])}'.", 2)


if __name__ == "__main__":
    main(sys.argv[1:])
