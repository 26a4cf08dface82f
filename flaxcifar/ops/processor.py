"""What this machine's processor can do."""

import functools
import pathlib
import platform

_INFO = pathlib.Path("/proc/cpuinfo")


@functools.cache
def instruction_sets() -> str:
    """Returns the names of the processor's extensions, or its family where Linux names none."""
    lines = _INFO.read_text().splitlines() if _INFO.exists() else []
    return next((line for line in lines if line.startswith("flags")), platform.machine())


def has_bfloat16() -> bool:
    """Returns whether the processor multiplies bfloat16 numbers (AVX-512 BF16 or AMX)."""
    return bool({"avx512_bf16", "amx_bf16"} & set(instruction_sets().split()))
