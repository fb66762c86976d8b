"""A fake of the gcloud program: the few commands that launch/ uses, against the cloud of cloud.py. Standard library only.

It knows no other flags than those in use, and says what the real one says. Its environment:
  CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU: where the cloud is, as for the real one.
  CLOUDSDK_CORE_PROJECT: what `config get project` prints, as for the real one.
  FAKE_GCLOUD_ACCOUNT: what `auth list` prints.
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


class Parser(argparse.ArgumentParser):
    """Reports what it cannot parse as gcloud does."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.command = command

    def error(self, message: str) -> NoReturn:
        fail(
            self.command,
            f"{message}\n\nTo search the help text of gcloud commands, run:\n  gcloud help -- SEARCH_TERMS",
            2,
        )


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
        raise Failure(f"{error['status']}: {error['message']}{who() if answer.status in (401, 403, 404) else ''}")
    return json.loads(data)


def who() -> str:
    """What gcloud adds to errors that may have to do with the account."""
    if account := os.environ.get("FAKE_GCLOUD_ACCOUNT"):
        return f". This command is authenticated as {account} which is the active account specified by the [core/account] property"
    return ". This command is unauthenticated because the [auth/disable_credentials] property is True"


def show(value: object) -> None:
    print(json.dumps(value, indent=2, sort_keys=True))


def place(parser: Parser) -> None:
    project = os.environ.get("CLOUDSDK_CORE_PROJECT")
    parser.add_argument("--project", default=project, required=project is None)
    parser.add_argument("--zone", required=True)


def location(args: argparse.Namespace) -> str:
    return f"v2/projects/{args.project}/locations/{args.zone}"


def labels(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    for key, equals, value in pairs:
        if (
            not equals
            or not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key)
            or not re.fullmatch(r"[a-z0-9_-]{0,63}", value)
        ):
            raise argparse.ArgumentTypeError(f"Bad label {key}{equals}{value}")
    return {key: value for key, _, value in pairs}


def create(command: list[str], words: list[str]) -> None:
    parser = Parser(command)
    parser.add_argument("name")
    place(parser)
    for flag in ("--accelerator-type", "--runtime-version", "--node-id", "--scopes"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--valid-until-duration", required=True)
    parser.add_argument("--labels", type=labels, required=True)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--spot", action="store_true")
    kind.add_argument("--reserved", action="store_true")
    for flag in ("--service-account", "--network", "--subnetwork", "--metadata-from-file"):
        parser.add_argument(flag)
    for flag in ("--internal-ips", "--async", "--quiet"):
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args(words)
    if not vars(args)["async"]:
        parser.error("the fake gcloud creates with --async only")
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
    parent = f"projects/{args.project}/locations/{args.zone}"
    body: dict[str, Any] = {"queueingPolicy": {"validUntilDuration": args.valid_until_duration}}
    if args.spot:
        body["spot"] = {}
    if args.reserved:
        body["reservationName"] = f"{parent}/reservations/-"
    node = {
        "acceleratorType": args.accelerator_type,
        "labels": args.labels,
        "metadata": metadata,
        "networkConfig": network,
        "runtimeVersion": args.runtime_version,
        "serviceAccount": account,
    }
    body["tpu"] = {"nodeSpec": [{"node": node, "nodeId": args.node_id, "parent": parent}]}
    path = f"{location(args)}/queuedResources?alt=json&queuedResourceId={args.name}"
    operation = request(command, "POST", path, body)["name"]
    print(f"Create request issued for: [{args.name}]\nCheck operation [{operation}] for status.", file=sys.stderr)


def delete(command: list[str], words: list[str]) -> None:
    parser = Parser(command)
    parser.add_argument("name")
    place(parser)
    for flag in ("--force", "--async", "--quiet"):
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args(words)
    if not vars(args)["async"] or not args.quiet:
        parser.error("the fake gcloud deletes with --async and --quiet only")
    path = f"{location(args)}/queuedResources/{args.name}?alt=json&force={args.force}"
    operation = request(command, "DELETE", path)["name"]
    print(f"Delete request issued for: [{args.name}]\nCheck operation [{operation}] for status.", file=sys.stderr)


def describer(collection: str) -> Callable[[list[str], list[str]], None]:
    def describe(command: list[str], words: list[str]) -> None:
        parser = Parser(command)
        parser.add_argument("name")
        place(parser)
        parser.add_argument("--format", choices=["json"], required=True)
        args = parser.parse_args(words)
        show(request(command, "GET", f"{location(args)}/{collection}/{args.name}?alt=json"))

    return describe


def lister(collection: str) -> Callable[[list[str], list[str]], None]:
    def list_(command: list[str], words: list[str]) -> None:
        parser = Parser(command)
        place(parser)
        parser.add_argument("--format", choices=["json"], required=True)
        args = parser.parse_args(words)
        try:
            answer = request(command, "GET", f"{location(args)}/{collection}?alt=json")
        except Failure:
            print("[]")  # so does the real one
            raise
        show(answer.get(collection, []))

    return list_


def ssh(command: list[str], words: list[str]) -> None:
    parser = Parser(command)
    parser.add_argument("name")
    place(parser)
    parser.add_argument("--node", choices=["all"], required=True)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--batch-size", choices=["all"], required=True)
    parser.add_argument("--quiet", action="store_true", required=True)
    parser.add_argument("--tunnel-through-iap", action="store_true")
    parser.add_argument("--ssh-flag", action="append")
    parser.add_argument("--command", required=True)
    args = parser.parse_args(words)
    start = time.time()
    queued = request(command, "GET", f"{location(args)}/queuedResources/{args.name}?alt=json")
    [spec] = queued["tpu"]["nodeSpec"]
    workers: list[int] = []
    nodes = 1
    try:
        node = request(command, "GET", f"{location(args)}/nodes/{spec['nodeId']}?alt=json")
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
    if len(workers) == 1 and codes[0]:
        if codes[0] == 255:
            fail(command, "[/usr/bin/ssh] exited with return code [255].", 255)
        sys.exit(codes[0])
    # The real one keeps a list with a place for each worker asked for, and puts a status at the worker's own number:
    # that of worker 3 of the workers 1 and 3 is lost, and with it the failure.
    statuses = [0] * len(workers)
    for worker, code in zip(workers, codes, strict=True):
        if code and worker < len(statuses):
            statuses[worker] = code
        elif code:
            text = "Exception in thread Thread-2:\nTraceback (most recent call last):\n  ...\nIndexError"
            print(f"{text}: list assignment index out of range", file=sys.stderr)
    for code in statuses:
        if code:
            sys.exit(code)
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
    parser = Parser(command)
    parser.add_argument("uris", nargs="+")
    args = parser.parse_args(words)
    contents, missing = [], []
    with generations(pathlib.Path(os.environ["FAKE_GCLOUD_BUCKETS"])) as held:
        buckets = Buckets(held)
        for uri in args.uris:
            found = buckets.matching(uri)
            contents += [buckets.path(name).read_bytes() for name in found]
            missing += [] if found else [uri]
    sys.stdout.buffer.write(b"".join(contents))
    sys.stdout.flush()
    if missing:
        raise Failure("\n".join([OBJECTS_NOT_FOUND, *missing]))


def cp(command: list[str], words: list[str]) -> None:
    parser = Parser(command)
    parser.add_argument("--if-generation-match", type=int)
    parser.add_argument("source")
    parser.add_argument("target")
    args = parser.parse_args(words)
    upload = args.target.startswith("gs://")
    if args.source == "-":
        content = sys.stdin.buffer.read()
    elif upload:
        if not pathlib.Path(args.source).is_file():
            raise Failure(f"{OBJECTS_NOT_FOUND}\n{args.source}")
        content = pathlib.Path(args.source).read_bytes()
    with generations(pathlib.Path(os.environ["FAKE_GCLOUD_BUCKETS"])) as held:
        buckets = Buckets(held)
        if upload:
            if args.if_generation_match not in (None, buckets.generation(args.target)):
                raise Failure("HTTPError 412: At least one of the pre-conditions you specified did not hold.")
            buckets.write(args.target, content)
            return
        if not buckets.matching(args.source):
            raise Failure(f"{OBJECTS_NOT_FOUND}\n{args.source}")
        target = pathlib.Path(args.target)
        if target.is_dir():
            target /= args.source.rpartition("/")[2]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(buckets.path(args.source), target)


def ls(command: list[str], words: list[str]) -> None:
    parser = Parser(command)
    parser.add_argument("uri")
    args = parser.parse_args(words)
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
    parser = Parser(command)
    parser.add_argument("uri")
    parser.add_argument("--format", choices=["value(generation)"], required=True)
    args = parser.parse_args(words)
    with generations(pathlib.Path(os.environ["FAKE_GCLOUD_BUCKETS"])) as held:
        generation = Buckets(held).generation(args.uri)
    if not generation:
        bucket, _, name = args.uri.removeprefix("gs://").partition("/")
        raise Failure(f"gs://{bucket}/{urllib.parse.quote(name, safe='')} not found: 404.")
    print(generation)


def buckets_describe(command: list[str], words: list[str]) -> None:
    parser = Parser(command)
    parser.add_argument("uri")
    parser.add_argument("--format", choices=["value(location)"], required=True)
    Buckets({}).path(parser.parse_args(words).uri)
    print("US-CENTRAL1")


# --- The rest ----------------------------------------------------------------------------------------------------------


def config_get(command: list[str], words: list[str]) -> None:
    parser = Parser(command)
    parser.add_argument("property", choices=["project"])
    parser.parse_args(words)
    if project := os.environ.get("CLOUDSDK_CORE_PROJECT"):
        print(project)
    else:
        print("(unset)", file=sys.stderr)


def auth_list(command: list[str], words: list[str]) -> None:
    parser = Parser(command)
    parser.add_argument("--filter", choices=["status:ACTIVE"], required=True)
    parser.add_argument("--format", choices=["value(account)"], required=True)
    parser.parse_args(words)
    if account := os.environ.get("FAKE_GCLOUD_ACCOUNT"):
        print(account)
    else:
        print("WARNING: The following filter keys were not present in any resource : status", file=sys.stderr)


COMMANDS: dict[str, Callable[[list[str], list[str]], None]] = {
    "auth list": auth_list,
    "compute tpus accelerator-types list": lister("acceleratorTypes"),
    "compute tpus queued-resources create": create,
    "compute tpus queued-resources delete": delete,
    "compute tpus queued-resources describe": describer("queuedResources"),
    "compute tpus queued-resources list": lister("queuedResources"),
    "compute tpus queued-resources ssh": ssh,
    "compute tpus tpu-vm describe": describer("nodes"),
    "compute tpus tpu-vm versions list": lister("runtimeVersions"),
    "config get": config_get,
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
