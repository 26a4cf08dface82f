"""TPUs: whether this machine has one, and libtpu where it has none."""

import os
from pathlib import Path

# Keep libtpu from asking its host and the network for these, and from printing what it lacks.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def has_chips() -> bool:
    """Whether this machine seems to have a TPU."""
    return any((*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")))


def quiet_libtpu() -> None:
    """Keeps libtpu from printing that there is no TPU; call it before JAX looks for devices."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
