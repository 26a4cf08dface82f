"""Operations that decide the speed of a model: its convolution."""

from flaxcifar.ops.convolution import (
    PATHS,
    available,
    chosen,
    convolution,
    missing,
    use,
    using,
)
from flaxcifar.ops.processor import has_bfloat16
from flaxcifar.ops.self_test import self_test

__all__ = [
    "PATHS",
    "available",
    "chosen",
    "convolution",
    "has_bfloat16",
    "missing",
    "self_test",
    "use",
    "using",
]
