"""A run's metrics: lines of JSON, and the same numbers as TensorBoard events. Imports no TensorFlow.

If there are several processes, only process 0 writes.
"""

import io
import json
import time

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from redundancy import storage
from redundancy.runtime import processes


def _event_bytes(event: Event) -> bytes:
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()


def read(folder: str) -> list[dict]:
    """The lines of metrics in a run's folder, in order; an incomplete last line is left out."""
    path = storage.join(folder, "metrics.jsonl")
    return storage.json_lines(storage.read_bytes(path), "step", "time") if storage.exists(path) else []


class MetricsWriter:
    """Appends to metrics.jsonl and tensorboard/events.out.tfevents.* of a run's folder.

    Args:
      folder: the run's folder.
      step: step of the run's newest checkpoint. Lines after it are removed. Lines up to it stay, and are not written again if
        the pack repeats those steps.
    """

    def __init__(self, folder: str, step: int = 0):
        self._step = 0  # of the last line that is kept
        self._paths = {
            "jsonl": storage.join(folder, "metrics.jsonl"),
            "events": storage.join(folder, "tensorboard", "events.out.tfevents.0000000000.redundancy"),
        }
        self._data = {"jsonl": b"", "events": _event_bytes(Event(wall_time=0.0, file_version="brain.Event:2"))}
        for line in read(folder):
            if line["step"] <= step:
                self._add(line)
                self._step = line["step"]
        if processes.is_first():
            for kind, path in self._paths.items():
                storage.write_bytes(path, self._data[kind])
        self._written = {kind: len(data) for kind, data in self._data.items()}

    def _add(self, line: dict) -> None:
        self._data["jsonl"] += (json.dumps(line) + "\n").encode()
        values = [Summary.Value(tag=name, simple_value=line[name]) for name in line if name not in ("step", "time")]
        event = Event(wall_time=line["time"], step=line["step"], summary=Summary(value=values))
        self._data["events"] += _event_bytes(event)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one line: `step`, the time, and the values."""
        if not processes.is_first() or step <= self._step:
            return
        self._add({"step": step, "time": round(time.time(), 3), **values})
        for kind, path in self._paths.items():
            if storage.is_local(path):
                with open(path, "ab") as file:
                    file.write(self._data[kind][self._written[kind] :])
                self._written[kind] = len(self._data[kind])

    def flush(self) -> None:
        """On storage that cannot append, uploads the lines written so far."""
        for kind, path in self._paths.items():
            if not storage.is_local(path) and self._written[kind] < len(self._data[kind]):
                storage.write_bytes(path, self._data[kind])
                self._written[kind] = len(self._data[kind])
