"""What a compiled TPU program says about itself: its text, as XLA prints it, taken apart."""

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
# Operations that only name, or begin and end, what others do.
_FREE = (
    "parameter constant tuple get-tuple-element bitcast copy-start copy-done slice-start slice-done"
).split()


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      shape, attributes: as printed, before and after the operation.
      operands: names.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def bytes(self) -> int:
        """Of the result, all parts of a tuple together, without the padding of its layout."""
        arrays = _ARRAY.findall(self.shape)
        return math.ceil(sum(_item_bytes(kind) * math.prod(_sizes(size)) for kind, size in arrays))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the result's axes, or of its first part's."""
        return _sizes(_ARRAY.search(self.shape)[2])

    def number(self, key: str) -> int:
        """Returns a number that the compiler notes under `key`, else 0."""
        found = re.search(rf'"{key}":(?:\{{"n":)?"?(\d+)', self.attributes)
        return int(found[1]) if found else 0


@dataclasses.dataclass(frozen=True)
class Collective:
    """Communication between devices.

    Attributes:
      bytes: of one device's operands.
      overlaps: whether it runs beside other operations.
    """

    opcode: str
    bytes: int
    overlaps: bool


@dataclasses.dataclass(frozen=True)
class Product:
    """A convolution, or a product of matrices, as the matrix units see it: [rows, depth] by
    [depth, columns], where the taps of a kernel are part of the depth."""

    rows: int
    depth: int
    columns: int

    @property
    def flops(self) -> int:
        """Two for each multiplication and addition."""
        return 2 * self.rows * self.depth * self.columns

    def padded_flops(self, tile: int) -> int:
        """Returns the same in whole tiles: `tile` in depth and columns, 8 in rows."""
        rows, depth, columns = -(-self.rows // 8), -(-self.depth // tile), -(-self.columns // tile)
        return 2 * rows * depth * columns * 8 * tile**2


class Program:
    """A compiled program.

    Attributes:
      computations: by name, the instructions of each.
      step: the name of the one that is a single step.
    """

    def __init__(self, text: str, *, looped: bool):
        """Reads `compiled.as_text()`; `looped` says that steps are in a loop of the program."""
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
        """Yields what a step runs, one after the other, and how often; of a condition all branches.

        What is fused is one instruction.
        """
        for line in self.computations[name or self.step]:
            yield line, 1
            if line.opcode in ("while", "conditional", "call"):
                times = line.number("known_trip_count") or 1
                for called in _called(line):
                    yield from ((inner, times * n) for inner, n in self.scheduled(called))

    def collectives(self) -> list[Collective]:
        """Returns the communication of a step."""
        found = []
        for line, times in self.scheduled():
            opcode = line.opcode.removesuffix("-start")
            if opcode in _COLLECTIVES:
                size = sum(self._by_name[name].bytes for name in line.operands)
                found += times * [Collective(opcode, size, opcode != line.opcode)]
        return found

    def host_transfers(self) -> list[str]:
        """Returns the operations, anywhere in the program, that wait for the host."""
        return [
            f"{line.opcode} {line.name}"
            for lines in self.computations.values()
            for line in lines
            if line.opcode.removesuffix("-done") in _HOST or _calls_host(line)
        ]

    def products(self) -> list[Product]:
        """Returns the products of matrices of a step, those within fusions too."""
        return [
            product
            for line, times in self.scheduled()
            for product in times * self._products_of(line)
        ]

    def cycles(self) -> int:
        """Returns the compiler's estimate of a step, in cycles, without `not_estimated`."""
        return sum(times * line.number("estimated_cycles") for line, times in self.scheduled())

    def not_estimated(self) -> dict[str, int]:
        """Returns how many operations of a step come without an estimate, by what they do.

        Communication, which `collectives` has, and copies in the background are left out.
        """
        counts: dict[str, int] = {}
        for line, times in self.scheduled():
            done = line.opcode.removesuffix("-start").removesuffix("-done")
            if line.number("estimated_cycles") or line.opcode in _FREE or done in _COLLECTIVES:
                continue
            if line.opcode in ("fusion", "gather", "scatter", "sort", "convolution"):
                word = re.search(r'op_name="(?:[^"]*/)?([^"/]*)"', line.attributes)
                word = word[1] if word else line.opcode
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
        labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.attributes)
        kernel = dict(zip(labels[2], self._by_name[line.operands[1]].sizes, strict=True))
        output = dict(zip(labels[3], line.sizes, strict=True))
        columns = kernel.pop("o")
        return [
            Product(math.prod(output.values()) // output["f"], math.prod(kernel.values()), columns)
        ]


def _calls_host(line: Instruction) -> bool:
    target = re.search(r'custom_call_target="[^"]*(callback|host)', line.attributes, re.IGNORECASE)
    return bool(target) or "S(5)" in line.shape  # the memory of the host


def _called(line: Instruction) -> list[str]:
    return [
        name
        for group in _CALLED.findall(line.attributes)
        for name in re.findall(r"[\w.\-]+", group)
    ]


def _closing(text: str) -> int:
    """Returns where the parenthesis that is open at the start is closed."""
    depth = 1
    for place, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if not depth:
            return place
    return len(text)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(",") if size)


def _item_bytes(kind: str) -> float:
    """Returns the bytes of a number of type "f32", "bf16", "pred", ..."""
    if kind in ("pred", "token"):
        return kind == "pred"
    return int(re.search(r"\d+", kind)[0]) / 8
