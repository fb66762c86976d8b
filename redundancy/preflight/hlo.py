"""Reads a compiled program's text (HLO): collectives with their bytes and groups, and bytes that cross the HBM.

Knows shapes and operands alone; what they cost on a chip is in model.py.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

_ITEM_BYTES = {"pred": 1, "c64": 8, "c128": 16, "s4": 0.5, "u4": 0.5}
_ARRAY = re.compile(r"\b(pred|token|bf16|[fsuc]\d+\w*)\[([\d,]*)\](\{[^{}]*\})?")
# "%name = shape opcode(operands), attributes"; a shape is one array or a parenthesised tuple.
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Nothing moves for these, or what moves is counted at another instruction.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "after-all"}


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape: its bytes, and whether it lies in HBM rather than in memory on the chip."""

    bytes: float
    in_hbm: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name, opcode: its own.
      shape: arrays of the result.
      operands: names of the instructions that it takes.
      literal: what stands between the parentheses, a constant's value.
      rest: attributes.
    """

    name: str
    opcode: str
    shape: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str
    rest: str


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
      kind: all-reduce, all-gather, ...
      bytes: a device's whole array: what goes in of an all-reduce, what comes out of an all-gather.
      groups: devices that exchange, by their number in the mesh; pairs (from, to) of a collective-permute. Empty where
        all devices are one group.
      op_name: JAX's name of the operation, of one of those that were combined.
    """

    kind: str
    bytes: float
    groups: tuple[tuple[int, ...], ...]
    op_name: str


def _item_bytes(name: str) -> float:
    if name == "token":
        return 0
    return _ITEM_BYTES.get(name) or int(re.search(r"\d+", name)[0]) / 8


def arrays(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape in HLO's notation; a layout's S(n), n above 0, is memory on the chip (or a semaphore)."""
    return tuple(
        Array(_item_bytes(name) * math.prod(int(size) for size in sizes.split(",") if size), "S(" not in layout)
        for name, sizes, layout in _ARRAY.findall(shape)
    )


def _split_operands(text: str) -> tuple[str, str]:
    """'%a, %b), rest' -> ('%a, %b', 'rest')."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            return text[:index], text[index + 1 :]
    return text, ""


def computations(text: str) -> dict[str, list[Instruction]]:
    """Every computation of a module by name; the entry's name is "ENTRY"."""
    found, current = {}, None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = found.setdefault("ENTRY" if header[1] else header[2], [])
        elif current is not None and (match := _INSTRUCTION.match(line)):
            name, shape, opcode, tail = match.groups()
            inside, rest = _split_operands(tail)
            operands = tuple(re.findall(r"%([\w.\-]+)", inside))
            current.append(Instruction(name, opcode, arrays(shape), operands, inside, rest))
    return found


def replica_groups(rest: str) -> tuple[tuple[int, ...], ...]:
    """Of `replica_groups={{0,1},{2,3}}`, `replica_groups=[2,2]<=[2,2]T(1,0)` or `source_target_pairs={{0,1},{1,0}}`."""
    if listed := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}\s]*\})\}", rest):
        return tuple(tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,\s]+)\}", listed[1]))
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        shape, source = ([int(size) for size in part.split(",")] for part in iota.group(1, 2))
        order = [int(axis) for axis in iota[3].split(",")] if iota[3] else range(len(source))
        devices = np.arange(math.prod(source)).reshape(source).transpose(order).reshape(shape)
        return tuple(tuple(group) for group in devices.reshape(-1, shape[-1]).tolist())
    return ()


def collectives(text: str) -> list[Collective]:
    """Every exchange between devices, once: of a pair "…-start", "…-done" the start counts.

    What lies in a loop's body is counted for one turn.
    """
    found = []
    for body in computations(text).values():
        shapes = {instruction.name: instruction.shape for instruction in body}
        for instruction in body:
            kind = instruction.opcode.removesuffix("-start")
            if kind not in _COLLECTIVES:
                continue
            given = sum(array.bytes for name in instruction.operands for array in shapes.get(name, ()))
            made = sum(array.bytes for array in instruction.shape)
            if kind != instruction.opcode and kind != "all-reduce":
                made -= given  # the result of a start names the operands too
            op_name = re.search(r'op_name="([^"]*)"', instruction.rest)
            found.append(
                Collective(
                    kind,
                    made if kind == "all-gather" else given,
                    replica_groups(instruction.rest),
                    op_name[1] if op_name else "",
                )
            )
    return found


def _moved(instruction: Instruction, shapes: dict[str, tuple[Array, ...]], gathered: float = 0) -> float:
    """Bytes that one instruction reads from and writes to HBM; see hbm_bytes."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0
    if opcode == "copy-start":  # (to, from, semaphore)
        return sum(array.bytes for array in instruction.shape[:2] if array.in_hbm)
    if opcode in ("slice-start", "dynamic-slice-start"):  # ((from), to, semaphore): as much as the slice holds
        source, target = instruction.shape[0], instruction.shape[1]
        return target.bytes * (source.in_hbm + target.in_hbm)
    taken = [array for name in instruction.operands for array in shapes.get(name, ()) if array.in_hbm]
    read = sum(array.bytes for array in taken if opcode != "fusion" or array.bytes != gathered)
    written = sum(array.bytes for array in instruction.shape if array.in_hbm)
    if opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * written
    if opcode == "all-reduce-start":
        return 2 * written
    return read + written


def _turns(loop: Instruction, found: dict[str, list[Instruction]]) -> int:
    """How often a loop's body runs: what the compiler wrote, or the greatest number in its condition; 1 if neither."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    numbers = [
        int(instruction.literal)
        for instruction in found.get(condition[1] if condition else "", [])
        if instruction.opcode == "constant" and instruction.literal.isdigit()
    ]
    return max(numbers, default=1)


def _with_turns(found: dict[str, list[Instruction]]) -> Iterator[tuple[list[Instruction], int]]:
    """The entry and the bodies of its loops, each with how often it runs."""
    waiting = [("ENTRY", 1)]
    while waiting:
        name, turns = waiting.pop()
        yield found[name], turns
        for instruction in found[name]:
            body = re.search(r"body=%?([\w.\-]+)", instruction.rest)
            if instruction.opcode == "while" and body:
                waiting.append((body[1], turns * _turns(instruction, found)))


def hbm_bytes(text: str, gathered: float = 0) -> float:
    """Bytes that a program reads from and writes to HBM: operands and results of its kernels that lie there.

    XLA's own "bytes accessed" counts operands and results wherever they lie, and each copy between HBM and the memory
    on the chip several times. Padding of layouts is counted by neither.

    Args:
      text: of a compiled program.
      gathered: bytes of a resident set's images, of which fusions read single rows, written and so counted after; other
        kernels that take all of it count.
    """
    total = 0.0
    for body, turns in _with_turns(computations(text)):
        shapes = {instruction.name: instruction.shape for instruction in body}
        total += turns * sum(_moved(instruction, shapes, gathered) for instruction in body)
    return total


def loop_factors(text: str) -> tuple[float, float]:
    """What XLA's FLOPs and bytes of a program are to be multiplied by, since it counts a loop's body for one turn.

    Returns:
      by what all convolutions and products together, each taken as the same work, are more than once each; and the same
      of bytes that instructions take and give.
    """
    found = computations(text)

    def products(name: str) -> int:
        called = [of for line in found.get(name, ()) for of in re.findall(r"calls=%?([\w.\-]+)", line.rest)]
        own = sum(line.opcode in ("convolution", "dot") for line in found.get(name, ()))
        return own + sum(map(products, called))

    names = {id(body): name for name, body in found.items()}
    flops, num_bytes = [], []
    for body, turns in _with_turns(found):
        shapes = {line.name: line.shape for line in body}
        given = sum(
            sum(array.bytes for array in line.shape)
            + sum(array.bytes for name in line.operands for array in shapes.get(name, ()))
            for line in body
            if line.opcode not in _FREE
        )
        flops.append((products(names[id(body)]), turns))
        num_bytes.append((given, turns))

    def factor(parts):
        once = sum(part for part, _ in parts)
        return sum(part * turns for part, turns in parts) / once if once else 1.0

    return factor(flops), factor(num_bytes)
