"""Finds the collectives and kernels in the text (HLO) of a compiled program, with their bytes and groups of devices."""

import dataclasses
import math
import re

import numpy as np

_ITEM_BYTES = {"pred": 1, "token": 0, "c64": 8, "c128": 16, "s4": 0.5, "u4": 0.5}
_ARRAY = re.compile(r"\b(pred|token|bf16|[fsuc]\d+\w*)\[([\d,]*)\]")
# "%name = shape opcode(operands), attributes"; a shape is one array or a parenthesised tuple.
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation.

    Attributes:
      kind: all-reduce, all-gather, ...
      bytes: bytes of the whole array on a device: the input of an all-reduce, the output of an all-gather.
      groups: groups of devices, by number in the mesh; for a collective-permute, pairs (from, to). Empty if all devices are
        one group.
      op_name: JAX's name of the operation, or of one of several combined operations.
    """

    kind: str
    bytes: float
    groups: tuple[tuple[int, ...], ...]
    op_name: str


def num_bytes(shape: str) -> float:
    total = 0
    for name, sizes in _ARRAY.findall(shape):
        item = _ITEM_BYTES[name] if name in _ITEM_BYTES else int(re.search(r"\d+", name)[0]) / 8
        total += item * math.prod(int(size) for size in sizes.split(",") if size)
    return total


def replica_groups(rest: str) -> tuple[tuple[int, ...], ...]:
    """Parses `replica_groups={{0,1},{2,3}}`, `replica_groups=[2,2]<=[2,2]T(1,0)` or `source_target_pairs={{0,1},{1,0}}`."""
    if listed := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}\s]*\})\}", rest):
        return tuple(tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,\s]+)\}", listed[1]))
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        shape, source = ([int(size) for size in part.split(",")] for part in iota.group(1, 2))
        order = [int(axis) for axis in iota[3].split(",")] if iota[3] else range(len(source))
        devices = np.arange(math.prod(source)).reshape(source).transpose(order).reshape(shape)
        return tuple(tuple(group) for group in devices.reshape(-1, shape[-1]).tolist())
    return ()


# Operations that do not become separate kernels.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "opt-barrier",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel of a program for a GPU.

    Attributes:
      kind: fusion, copy, ..., or the target of a custom call, such as __cudnn$convForward.
      bytes: bytes of its operands and results.
    """

    kind: str
    bytes: float


def kernels(text: str, stored: float = 0) -> list[Kernel]:
    """The kernels of a program for a GPU. A kernel in the body of a loop is listed once.

    Args:
      text: text of the compiled program.
      stored: bytes of the resident set. A kernel that has it as an operand reads only a small part of it.
    """
    bodies, inner, body = [], set(), None
    for line in text.splitlines():
        if line[:1] not in ("", " ", "}") and line.rstrip().endswith("{"):
            body = (line.removeprefix("ENTRY ").split()[0].lstrip("%"), [])
            bodies.append(body)
        elif body and (found := _INSTRUCTION.match(line)):
            body[1].append(found.groups())
            if found[3] not in ("while", "conditional", "call"):
                inner.update(re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line))
    made = []
    for name, instructions in bodies:
        sizes: dict[str, float] = {}
        for result, shape, opcode, tail in instructions if name not in inner else ():
            sizes[result] = num_bytes(shape)
            if opcode in _FREE:
                continue
            read = [sizes.get(operand, 0) for operand in re.findall(r"%([\w.\-]+)", tail.split("), ")[0])]
            target = re.search(r'custom_call_target="([^"]+)"', tail)
            moved = sizes[result] + sum(size for size in read if not stored or size != stored)
            made.append(Kernel(target[1] if target else opcode, moved))
    return made


def collectives(text: str) -> list[Collective]:
    """Every collective, listed once; of a pair "…-start", "…-done" only the start.

    A collective in the body of a loop is listed once, not for every iteration.
    """
    found, sizes = [], {}
    for match in map(_INSTRUCTION.match, text.splitlines()):
        if not match:
            continue
        name, shape, opcode, tail = match.groups()
        sizes[name] = made = num_bytes(shape)
        kind = opcode.removesuffix("-start")
        if kind not in _COLLECTIVES:
            continue
        given = sum(sizes.get(operand, 0) for operand in re.findall(r"%([\w.\-]+)", tail.split("), ")[0]))
        if kind != opcode and kind != "all-reduce":
            made -= given  # the result of a start includes the operands
        op_name = re.search(r'op_name="([^"]*)"', tail)
        size = made if kind == "all-gather" else given
        found.append(Collective(kind, size, replica_groups(tail), op_name[1] if op_name else ""))
    return found
