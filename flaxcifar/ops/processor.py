"""Instruction sets of this machine's processor."""

import functools
import pathlib
import platform

_INFO = pathlib.Path("/proc/cpuinfo")


@functools.cache
def instruction_sets() -> str:
    """Returns the processor's flags from /proc/cpuinfo, or the architecture if there are none."""
    lines = _INFO.read_text().splitlines() if _INFO.exists() else []
    return next((line for line in lines if line.startswith("flags")), platform.machine())


def has_bfloat16() -> bool:
    """Returns whether the processor has bfloat16 instructions (AVX-512 BF16 or AMX)."""
    return bool({"avx512_bf16", "amx_bf16"} & set(instruction_sets().split()))
