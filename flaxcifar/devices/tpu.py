"""Detects TPUs, and silences libtpu without one."""

import os
from pathlib import Path

# Without these libtpu asks its host and the network for them, and prints a trace.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def has_chips() -> bool:
    """Returns whether this machine seems to have a TPU."""
    return any((*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")))


def quiet_libtpu() -> None:
    """Silences libtpu on machines without a TPU. Call it before JAX looks for devices."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
