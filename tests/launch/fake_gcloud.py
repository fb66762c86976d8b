"""A fake of the gcloud program: the few commands that launch/ uses, against the cloud of cloud.py. Standard library only.

It knows no other flags than those in use, and says what the real one says. Its environment:
  CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU: where the cloud is, as for the real one.
  CLOUDSDK_CORE_PROJECT: as for the real one. No account is logged in.
  FAKE_GCLOUD_BUCKETS: the folder that holds gs://, one folder for each bucket. While it has a file ".down", storage fails;
    a byte is added to it each time.
  FAKE_GCLOUD_HOSTS: the folder of the machines' homes, NAME/worker-I.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, NoReturn

from tests.launch.fake_storage import Failure, buckets_describe, cat, cp, ls, objects_describe, parsed

SSH_ATTEMPTS = 3  # the real one: 10, every 5 seconds


def fail(command: list[str], message: str, code: int) -> NoReturn:
    print(f"ERROR: ({'.'.join(['gcloud', *command])}) {message}", file=sys.stderr)
    sys.exit(code)


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
    kinds = {
        "queued-resources": "queuedResources",
        "accelerator-types": "acceleratorTypes",
        "tpu-vm": "runtimeVersions",
    }
    collection = kinds[command[2]]
    show(request(command, "GET", f"v2/{location(args)}/{collection}?alt=json").get(collection, []))


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
    kept = ("CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU", "FAKE_GCLOUD_BUCKETS", "FAKE_GCLOUD_HOSTS")
    env = {key: os.environ[key] for key in kept if key in os.environ}
    here = os.environ["FAKE_GCLOUD_BIN"]
    env |= {
        "PATH": f"{here}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(home),
        "TPU_WORKER_ID": str(worker),
        "FAKE_GCLOUD_HOST": f"{home}/",  # by which the cloud knows the processes of this machine
    }
    return subprocess.run(
        ["bash", "-c", command],
        cwd=home,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
    )


def config_get(command: list[str], words: list[str]) -> None:
    print(os.environ["CLOUDSDK_CORE_PROJECT"])


def auth_list(command: list[str], words: list[str]) -> None:
    parsed(words, "--filter=", "--format=")


COMMANDS: dict[str, Callable[[list[str], list[str]], None]] = {
    "auth list": auth_list,
    "compute tpus accelerator-types list": list_,
    "compute tpus queued-resources create": create,
    "compute tpus queued-resources delete": delete,
    "compute tpus queued-resources describe": describe,
    "compute tpus queued-resources list": list_,
    "compute tpus queued-resources ssh": ssh,
    "compute tpus tpu-vm describe": describe,
    "compute tpus tpu-vm versions list": list_,
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
