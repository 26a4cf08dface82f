"""Parses the text (HLO) of a compiled TPU program: operations, collectives, cycle estimates."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:calls|body|to_apply|branch_computations|true_computation|false_computation)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_COLLECTIVES = (
    "all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute",
    "collective-broadcast", "ragged-all-to-all",
)  # fmt: skip
_HOST = ("infeed", "outfeed", "send", "recv")
# Operations without a cost of their own.
_FREE = (
    "parameter constant tuple get-tuple-element bitcast copy-start copy-done slice-start slice-done"
).split()


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction of a computation.

    Attributes:
      name: its name.
      shape: the result's shape, as printed.
      opcode: the operation.
      operands: names of the operands.
      attributes: all that is printed after the operands.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def bytes(self) -> int:
        """Bytes of the result, including all parts of a tuple, without padding of the layout."""
        arrays = _ARRAY.findall(self.shape)
        return math.ceil(sum(_item_bytes(kind) * math.prod(_sizes(size)) for kind, size in arrays))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the result's axes, or of its first part's."""
        return _sizes(_ARRAY.findall(self.shape)[0][1])

    def number(self, key: str) -> int:
        """Returns the number that the compiler stores under `key`, or 0."""
        found = re.search(rf'"{key}":(?:\{{"n":)?"?(\d+)', self.attributes)
        return int(found[1]) if found else 0


@dataclasses.dataclass(frozen=True)
class Collective:
    """Communication between devices.

    Attributes:
      opcode: the operation, such as "all-reduce".
      bytes: size of one device's operands.
      overlaps: whether it overlaps with other operations.
    """

    opcode: str
    bytes: int
    overlaps: bool


@dataclasses.dataclass(frozen=True)
class Product:
    """A convolution or matrix product, as the matrix units compute it.

    It multiplies [rows, depth] with [depth, columns]. A kernel's taps are part of the depth.
    """

    rows: int
    depth: int
    columns: int

    @property
    def flops(self) -> int:
        """FLOPs, two per multiply-add."""
        return 2 * self.rows * self.depth * self.columns

    def padded_flops(self, tile: int) -> int:
        """Returns the FLOPs with depth and columns padded to `tile`, and rows padded to 8."""
        rows, depth, columns = -(-self.rows // 8), -(-self.depth // tile), -(-self.columns // tile)
        return 2 * rows * depth * columns * 8 * tile**2


class Program:
    """A compiled program.

    Attributes:
      computations: the instructions of each computation, by its name.
      step: the name of the computation of a single step.
    """

    def __init__(self, text: str, *, looped: bool):
        """Parses `compiled.as_text()`.

        Args:
          text: the text.
          looped: whether the program runs its steps in a loop.
        """
        self.computations: dict[str, list[Instruction]] = {}
        current: list[Instruction] = []
        for line in text.splitlines():
            if heading := _COMPUTATION.match(line):
                current = self.computations[heading[2]] = []
                if heading[1]:
                    self.step = heading[2]
            elif found := _INSTRUCTION.match(line):
                name, shape, opcode, rest = found.groups()
                end = _closing(rest)
                operands = tuple(re.findall(r"%([\w.\-]+)", rest[:end]))
                current.append(Instruction(name, shape, opcode, operands, rest[end:] + ","))
        if looped:
            loops = [line for line in self.computations[self.step] if line.opcode == "while"]
            bodies = [name for line in loops for name in _called(line)]
            self.step = max(bodies, key=lambda name: len(self.computations[name]))

    def scheduled(self, name: str | None = None) -> Iterator[tuple[Instruction, int]]:
        """Yields the instructions of a step in order, with the number of times each one runs.

        All branches of a conditional are included. A fusion is one instruction.
        """
        for line in self.computations[name or self.step]:
            yield line, 1
            if line.opcode in ("while", "conditional", "call"):
                times = line.number("known_trip_count") or 1
                for called in _called(line):
                    yield from ((inner, times * n) for inner, n in self.scheduled(called))

    def collectives(self) -> list[Collective]:
        """Returns the collectives of a step."""
        found = []
        for line, times in self.scheduled():
            opcode = line.opcode.removesuffix("-start")
            if opcode in _COLLECTIVES:
                size = sum(self._by_name[name].bytes for name in line.operands)
                found += times * [Collective(opcode, size, opcode != line.opcode)]
        return found

    def host_transfers(self) -> list[str]:
        """Returns the operations of the whole program that wait for the host."""
        return [
            f"{line.opcode} {line.name}"
            for lines in self.computations.values()
            for line in lines
            if line.opcode.removesuffix("-done") in _HOST or _calls_host(line)
        ]

    def products(self) -> list[Product]:
        """Returns the matrix products of a step, including those inside fusions."""
        return [
            product
            for line, times in self.scheduled()
            for product in times * self._products_of(line)
        ]

    def cycles(self) -> int:
        """Returns the compiler's estimate of a step in cycles, without `not_estimated`."""
        return sum(times * line.number("estimated_cycles") for line, times in self.scheduled())

    def not_estimated(self) -> dict[str, int]:
        """Returns the number of operations of a step without an estimate, by name.

        Excludes collectives and asynchronous copies.
        """
        counts: dict[str, int] = {}
        for line, times in self.scheduled():
            done = line.opcode.removesuffix("-start").removesuffix("-done")
            if line.number("estimated_cycles") or line.opcode in _FREE or done in _COLLECTIVES:
                continue
            if line.opcode in ("fusion", "gather", "scatter", "sort", "convolution"):
                found = re.search(r'op_name="(?:[^"]*/)?([^"/]*)"', line.attributes)
                word = found[1] if found else line.opcode
                counts[word] = counts.get(word, 0) + times
        return counts

    @functools.cached_property
    def _by_name(self) -> dict[str, Instruction]:
        return {line.name: line for lines in self.computations.values() for line in lines}

    def _products_of(self, line: Instruction) -> list[Product]:
        if line.opcode == "fusion":
            inside = (inner for name in _called(line) for inner in self.computations[name])
            return [product for inner in inside for product in self._products_of(inner)]
        if line.opcode != "convolution":
            return []
        labels = re.findall(r"dim_labels=(\w+)_(\w+)->(\w+)", line.attributes)[0]
        kernel = dict(zip(labels[1], self._by_name[line.operands[1]].sizes, strict=True))
        output = dict(zip(labels[2], line.sizes, strict=True))
        columns = kernel.pop("o")
        return [
            Product(math.prod(output.values()) // output["f"], math.prod(kernel.values()), columns)
        ]


def _calls_host(line: Instruction) -> bool:
    target = re.search(r'custom_call_target="[^"]*(callback|host)', line.attributes, re.IGNORECASE)
    return bool(target) or "S(5)" in line.shape  # host memory


def _called(line: Instruction) -> list[str]:
    return [
        name
        for group in _CALLED.findall(line.attributes)
        for name in re.findall(r"[\w.\-]+", group)
    ]


def _closing(text: str) -> int:
    """Returns the position of the parenthesis that closes one opened before `text`."""
    depth = 1
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if not depth:
            return position
    return len(text)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(",") if size)


def _item_bytes(kind: str) -> float:
    """Returns the bytes of a number of an HLO type such as "f32", "bf16" or "pred"."""
    if kind in ("pred", "token"):
        return kind == "pred"
    return int(re.findall(r"\d+", kind)[0]) / 8
