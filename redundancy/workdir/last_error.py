"""A small file in a workdir that records the last command that failed there; the next success removes it.

Failures to write or remove it are ignored, so that they cannot hide the error itself.
"""

import contextlib
import datetime
import re
import socket

from redundancy import storage
from redundancy.workdir.parts import Part, suffix

_MOST = 2000  # largest number of characters of a message
_NAME = re.compile(r"last_error(-part-\d+-of-\d+)?\.json")
# Text that looks like a password, a key or a token, in URLs and in answers of services.
_SECRETS = (
    (re.compile(r"://[^/\s:@]+:[^/\s@]+@"), "://…@"),
    (
        re.compile(
            r"(?i)\b((?:[\w.-]*(?:token|secret|password|passwd|signature|credential|api[_-]?key|access[_-]?key)[\w.-]*)"
            r"[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;]+"
        ),
        r"\1…",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), r"\1 …"),
    (re.compile(r"\bya29\.[\w.-]+"), "…"),
    (re.compile(r"\bAIza[\w-]{20,}|\bAKIA[A-Z0-9]{12,}|\bgh[pousr]_\w{20,}|\bhf_\w{20,}"), "…"),
)


def is_name(name: str) -> bool:
    """Whether a file in a workdir, given its name, is an error file."""
    return _NAME.fullmatch(name) is not None


def without_secrets(text: str) -> str:
    """The message without any text that looks like a password, a key or a token."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"


def record(root: str, command: str, code: int, message: str, stage: str = "", part: Part | None = None) -> None:
    """Records that a command failed, if the folder is already a workdir.

    Args:
      root: path of the workdir, local or gs://.
      command: name of the stage, "run" or "import".
      code: exit code of the process.
      message: text of the error.
      stage: the stage that failed, if the command has several.
      part: the part of a sweep, if the command runs one.
    """
    with contextlib.suppress(Exception):
        if not storage.exists(storage.join(root, "config.json")):
            return
        error = {
            "command": command if part is None else f"{command} --part={part}",
            "stage": stage or command,
            "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "code": code,
            "message": without_secrets(message),
        }
        storage.write_json(storage.join(root, f"last_error{suffix(part)}.json"), error)


def forget(root: str, command: str, part: Part | None = None) -> None:
    """Removes the recorded errors of a command that has succeeded.

    "run" removes all errors. A stage also removes errors of "run" in that stage, and the whole sweep those of its parts.
    """
    with contextlib.suppress(Exception):
        for name in filter(is_name, storage.list_dir(root)):
            if part is not None:
                over = name == f"last_error{suffix(part)}.json"
            else:
                error = storage.read_json(storage.join(root, name))
                over = command == "run" or command in (error.get("command"), error.get("stage"))
            if over:
                storage.remove(storage.join(root, name))
