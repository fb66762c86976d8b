"""A fake of the Cloud TPU API on 127.0.0.1: queued resources, their nodes and the machines of those, in memory.

Both the real gcloud and the fake one of fake_gcloud.py talk to it. No clock drives it: a queued resource moves on by
one step each time that somebody describes it, as its `Scenario` says.
"""

import dataclasses
import json
import os
import pathlib
import re
import signal
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.launch.scenario import UNAVAILABLE, Error, Queued, Request, Resource, Scenario

Json = dict[str, Any]


class FakeCloud:
    """The fake API; a context manager that serves while it is open.

    Attributes:
      url: of the API, with a final slash.
      hosts: how many workers a slice has.
      log: every request.
      violations: what no launcher may do, in words.
    """

    def __init__(self, hosts: int = 2, homes: pathlib.Path | None = None) -> None:
        """Starts to listen.

        Args:
          homes: the folder of the machines' homes, NAME/worker-I. Processes that came from there are killed when the slice
            is lost, and those homes set aside as NAME.K for its successor.
        """
        self.hosts = hosts
        self.homes = homes
        self.log: list[Request] = []
        self.violations: list[str] = []
        self._scenarios: dict[str, list[Scenario]] = {}
        self._all: dict[tuple[str, str], Queued] = {}
        self._made: dict[str, int] = {}
        self._operations: list[str] = []
        self._lock = threading.RLock()
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                command = re.search(r"command/gcloud\.(?:compute\.tpus\.)?(\S+)", self.headers.get("User-Agent", ""))
                code, answer, after = cloud._answer(
                    self.command, self.path, json.loads(body) if body else {}, command[1] if command else ""
                )
                data = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json; charset=UTF-8")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()
                # A machine that deletes its own slice gets an answer before it dies.
                if after is not None:
                    cloud.kill(after.name, notice=after.scenario.notice)

            do_GET = do_POST = do_DELETE = do_PATCH = _serve

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> "FakeCloud":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for name in list(self._made):
            self.kill(name)

    def script(self, name: str, *scenarios: Scenario) -> None:
        """Sets what the creates of `name` from now on lead to, one after another; the last holds for all that follow.

        The name "*" stands for every name without a script of its own. Without any, `Scenario()` holds.
        """
        with self._lock:
            self._scenarios[name] = list(scenarios)

    def resources(self) -> list[Resource]:
        """What exists, being deleted or lost included: all that somebody would pay for or that holds quota."""
        with self._lock:
            return [Resource(q.zone, q.name, q.state, q.node) for q in self._all.values()]

    def creations(self, name: str) -> int:
        """How many queued resources were made under `name` so far."""
        return self._made.get(name, 0)

    def preempt(self, name: str) -> None:
        """Takes the slice away now."""
        self._preempt(self._find(name), node_only=False)
        self.kill(name)

    def change(self, name: str, **states: str) -> None:
        """Sets `state` of the queued resource, `node` or `health` of its node; they stay so until it is deleted."""
        with self._lock:
            queued = self._find(name)
            for key, value in states.items():
                assert key in ("state", "node", "health"), key
                setattr(queued, key, value)

    def kill(self, name: str, notice: float = 0.0) -> None:
        """Kills all processes of the slice; they have `notice` seconds between SIGTERM and SIGKILL."""
        if self.homes is None:
            return
        folder = self.homes / name
        if notice:
            _signal(_processes(folder), signal.SIGTERM)
            deadline = time.monotonic() + notice
            while _processes(folder) and time.monotonic() < deadline:
                time.sleep(0.02)
        deadline = time.monotonic() + 120
        # Until none is left: one may have begun another in the meantime.
        while left := _processes(folder):
            _signal(left, signal.SIGKILL)
            assert time.monotonic() < deadline, f"processes {left} do not die"
            time.sleep(0.01)

    def processes(self, name: str, worker: int) -> list[int]:
        """The ids of the processes that now run on a worker."""
        return [] if self.homes is None else _processes(self.homes / name / f"worker-{worker}")

    def _find(self, name: str) -> Queued:
        with self._lock:
            found = [queued for queued in self._all.values() if queued.name == name]
            assert len(found) == 1, f"{name} exists {len(found)} times"
            return found[0]

    def _answer(self, method: str, target: str, body: Json, command: str) -> tuple[int, Json, Queued | None]:
        """Answers one request: the code, the answer, and the slice whose machines are to be stopped after it."""
        path, _, query = target.partition("?")
        arguments = dict(urllib.parse.parse_qsl(query))
        with self._lock:
            lost = {key for key, queued in self._all.items() if _machines_lost(queued)}
            zone, name, result = "", "", None
            if path.startswith("/compute/"):
                result = {"name": path.rsplit("/", 1)[1], "commonInstanceMetadata": {"items": []}}
            elif match := re.fullmatch(r"/(?:v1|v2|v2alpha1)/projects/([^/]+)/locations/([^/]+)/(\w+)(?:/(.+))?", path):
                project, zone, kind, name = match.groups()
                name = name or arguments.get("queuedResourceId", "")
                result = self._tpu(method, project, zone, kind, name, arguments, body, command)
            elif match := re.fullmatch(r"/fake/ssh/([^/]+)/([^/]+)", path):
                zone, name = match[1], match[2]
                result = self._quirks(zone, name, counts=method == "POST")
            if result is None:
                result = Error(501, "UNIMPLEMENTED", f"the fake cloud has no {method} {target}")
            code = result.code if isinstance(result, Error) else 200
            answer = {"error": dataclasses.asdict(result)} if isinstance(result, Error) else result
            self.log.append(Request(command, method, zone, name, code))
            after = [q for key, q in self._all.items() if _machines_lost(q) and key not in lost]
            return code, answer, after[0] if after else None

    def _tpu(
        self, method: str, project: str, zone: str, kind: str, name: str, arguments: Json, body: Json, command: str
    ) -> Json | Error | None:
        match method, kind, bool(name):
            case "POST", "queuedResources", True:
                return self._create(project, zone, name, body)
            case "GET", "queuedResources", False:
                shown = [queued for queued in self._all.values() if zone in ("-", queued.zone)]
                for queued in shown:
                    queued.known, queued.doubtful = True, False
                return {"queuedResources": [self._queued_json(queued) for queued in shown]} if shown else {}
            case "GET", "queuedResources", True:
                return self._describe(project, zone, name, poll=not command.endswith(("ssh", "scp")))
            case "DELETE", "queuedResources", True:
                return self._delete(project, zone, name, force=arguments.get("force", "").lower() == "true")
            case "GET", "operations", True:
                path = f"projects/{project}/locations/{zone}/operations/{name}"
                target = self._operations[int(name.rpartition("-")[2]) - 1]
                response = {"@type": "type.googleapis.com/google.cloud.tpu.v2.Node", "name": target}
                return {"name": path, "done": True, "response": response}
            case "GET", ("acceleratorTypes" | "runtimeVersions"), False:
                prefix = f"projects/{project}/locations/{zone}/{kind}"
                known = ("v5litepod-16", "v4-32") if kind == "acceleratorTypes" else ("v2-alpha-tpuv5-lite",)
                return {kind: [{"name": f"{prefix}/{each}"} for each in known]}
            case _, "nodes", True:
                return self._node(method, project, zone, name, body)
        return None

    def _create(self, project: str, zone: str, name: str, body: Json) -> Json | Error:
        path = f"projects/{project}/locations/{zone}/queuedResources/{name}"
        if existing := self._all.get((zone, name)):
            if existing.known:
                self.violations.append(f"create of {name} in {zone}, where it is known to exist, {existing.state}")
            return Error(409, "ALREADY_EXISTS", f"Resource '{path}' already exists")
        left = self._scenarios.get(name) or self._scenarios.get("*") or [Scenario()]
        scenario = left.pop(0) if len(left) > 1 else left[0]
        if scenario.create_error is not None and not scenario.made:
            return scenario.create_error
        if other := next((queued for queued in self._all.values() if queued.name == name), None):
            self.violations.append(f"create of {name} in {zone} while it exists in {other.zone}, {other.state}")
        number = self._made[name] = self._made.get(name, 0) + 1
        self._set_homes_aside(name, number)
        taken = {queued.subnet for queued in self._all.values()}
        queued = self._all[zone, name] = Queued(project, zone, name, body, scenario, number)
        queued.subnet = next(subnet for subnet in range(256) if subnet not in taken)
        queued.known = scenario.create_error is None
        queued.doubtful = scenario.create_error is not None and scenario.create_error.code >= 500
        queued.unreachable, queued.dropped = dict(scenario.unreachable), dict(scenario.dropped)
        return scenario.create_error or self._operation(project, zone, path)

    def _describe(self, project: str, zone: str, name: str, poll: bool) -> Json | Error:
        queued = self._all.get((zone, name))
        if queued is not None and poll:
            self._advance(queued)
            if queued.polls in queued.scenario.errors:
                queued.doubtful = True
                return UNAVAILABLE
            queued = self._all.get((zone, name))
        if queued is None:
            return _not_found(f"projects/{project}/locations/{zone}/queuedResources/{name}")
        queued.known, queued.doubtful = True, False
        return self._queued_json(queued)

    def _advance(self, queued: Queued) -> None:
        """One poll's worth of time."""
        queued.polls += 1
        scenario = queued.scenario
        if queued.deleting_polls is not None:
            queued.deleting_polls += 1
            if queued.deleting_polls > scenario.deleting:
                del self._all[queued.zone, queued.name]
        elif queued.state in ("CREATING", "WAITING_FOR_RESOURCES", "PROVISIONING"):
            provisioned_after = scenario.creating + scenario.waiting
            if queued.polls <= scenario.creating:
                queued.state = "CREATING"
            elif queued.polls <= provisioned_after:
                queued.state = "WAITING_FOR_RESOURCES"
            elif queued.polls <= provisioned_after + scenario.provisioning:
                queued.state, queued.node = "PROVISIONING", "CREATING"
            elif scenario.failed is not None:
                queued.state, queued.node = "FAILED", ""
            else:
                queued.state, queued.node, queued.health = "ACTIVE", "READY", "HEALTHY"
        elif queued.state == "ACTIVE" and queued.node == "READY" and scenario.preempted is not None:
            queued.active_polls += 1
            if queued.active_polls == scenario.preempted:
                self._preempt(queued, scenario.node_only)

    def _preempt(self, queued: Queued, node_only: bool) -> None:
        with self._lock:
            if not node_only:
                queued.state = "SUSPENDED"
            queued.node, queued.health = "PREEMPTED", ""

    def _delete(self, project: str, zone: str, name: str, force: bool) -> Json | Error:
        queued = self._all.get((zone, name))
        if queued is None:
            return _not_found(f"projects/{project}/locations/{zone}/queuedResources/{name}")
        if queued.doubtful:
            self.violations.append(f"delete of {name} in {zone} on an error of the server, without another look")
        if queued.node and not force:
            return Error(400, "FAILED_PRECONDITION", f"{queued.path} has nodes; use force to delete them too")
        if queued.deleting_polls is None:
            queued.deleting_polls = 0
            queued.state, queued.initiator, queued.health = "DELETING", "USER", ""
            queued.node = "DELETING" if queued.node else ""
        return self._operation(project, zone, queued.path)

    def _node(self, method: str, project: str, zone: str, name: str, body: Json) -> Json | Error | None:
        name, _, verb = name.partition(":")
        queued = self._all.get((zone, name))
        if queued is None or not queued.node:
            return _not_found(f"projects/{project}/locations/{zone}/nodes/{name}")
        if method == "PATCH":
            if queued.node != "READY":
                text = f"Cloud TPU received a bad request. update is not supported while in state {queued.node}"
                return Error(400, "INVALID_ARGUMENT", text)
            queued.metadata.update(body.get("metadata", {}))
            return self._operation(project, zone, f"projects/{project}/locations/{zone}/nodes/{name}")
        if verb == "getGuestAttributes":
            asked = [int(worker) for worker in body.get("workerIds", []) if worker]
            workers = asked or range(self.hosts)
            items = [[{"namespace": "hostkeys", "key": "hostname", "value": f"t1v-n-{name}-w-{i}"}] for i in workers]
            return {"guestAttributes": [{"queryPath": "/", "queryValue": {"items": item}} for item in items]}
        return self._node_json(queued) if method == "GET" and not verb else None

    def _quirks(self, zone: str, name: str, counts: bool) -> Json:
        """Workers for which the ssh command that asks goes wrong; it `counts` at its beginning, not where it tries again."""
        queued = self._all.get((zone, name))
        if queued is None or queued.node != "READY":
            return {"unreachable": list(range(self.hosts)), "dropped": []}
        answer: Json = {"unreachable": [], "dropped": []}
        for kind, left in (("unreachable", queued.unreachable), ("dropped", queued.dropped)):
            for worker, times in left.items():
                if times > 0 and counts:
                    left[worker] -= 1
                    answer[kind].append(worker)
        return answer

    def _operation(self, project: str, zone: str, on: str) -> Json:
        """An operation that has begun on what has this name."""
        self._operations.append(on)
        name = f"projects/{project}/locations/{zone}/operations/operation-{len(self._operations)}"
        return {"name": name, "metadata": {"@type": "type.googleapis.com/google.cloud.tpu.v2.OperationMetadata"}}

    def _queued_json(self, queued: Queued) -> Json:
        state: Json = {"state": queued.state, "stateInitiator": queued.initiator}
        if queued.state == "FAILED" and queued.scenario.failed is not None:
            code = {"RESOURCE_EXHAUSTED": 8, "FAILED_PRECONDITION": 9, "INVALID_ARGUMENT": 3}
            error = queued.scenario.failed
            state["failedData"] = {"error": {"code": code.get(error.status, 13), "message": error.message}}
        return {"name": queued.path, "createTime": "2026-01-01T00:00:00.000000Z", "state": state, **queued.body}

    def _node_json(self, queued: Queued) -> Json:
        [spec] = queued.body["tpu"]["nodeSpec"]
        addresses = [f"127.0.{queued.subnet}.{10 + worker}" for worker in range(self.hosts)]
        external = queued.body["tpu"]["nodeSpec"][0]["node"].get("networkConfig", {}).get("enableExternalIps")
        node = {
            **spec["node"],
            "name": f"projects/{queued.project}/locations/{queued.zone}/nodes/{spec['nodeId']}",
            "id": str(1000 + queued.number),
            "apiVersion": "V2",
            "state": queued.node,
            "createTime": "2026-01-01T00:00:00.000000Z",
            "queuedResource": queued.path,
            "metadata": queued.metadata,
        }
        if queued.health:
            node["health"] = queued.health
        if queued.node != "CREATING":
            node["networkEndpoints"] = [
                {"ipAddress": address, "port": 8470, **({"accessConfig": {"externalIp": address}} if external else {})}
                for address in addresses
            ]
        return node

    def _set_homes_aside(self, name: str, number: int) -> None:
        if self.homes is None or not (self.homes / name).exists():
            return
        self.kill(name)
        (self.homes / name).rename(self.homes / f"{name}.{number - 1}")


def _machines_lost(queued: Queued) -> bool:
    return queued.node in ("PREEMPTED", "DELETING", "TERMINATED") or queued.state in ("SUSPENDED", "DELETING", "FAILED")


def _not_found(path: str) -> Error:
    return Error(404, "NOT_FOUND", f"Resource '{path}' was not found")


def _processes(folder: pathlib.Path) -> list[int]:
    """The processes whose environment names a path in `folder`, or that work there. fake_gcloud.py sees to the first."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            inside = f"{folder}/".encode() in (process / "environ").read_bytes()
            if not inside:
                inside = f"{os.readlink(process / 'cwd')}/".startswith(f"{folder}/")
            alive = inside and (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if alive and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found


def _signal(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue
