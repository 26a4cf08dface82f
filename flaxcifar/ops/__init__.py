"""Convolution backends, their self-test, and integer hashing."""

from flaxcifar.ops.convolution import (
    BACKENDS,
    available,
    convolution,
    missing,
    resolve,
    using,
)
from flaxcifar.ops.processor import has_bfloat16
from flaxcifar.ops.self_test import self_test

__all__ = [
    "BACKENDS",
    "available",
    "convolution",
    "has_bfloat16",
    "missing",
    "resolve",
    "self_test",
    "using",
]
