"""The commands in processes of their own."""

import os
import subprocess
import sys


def run(place, module, *args, code=0, without=(), after="", devices=2):
    """Runs a command where `without` cannot be imported, `after` a statement.

    Returns:
      Its output and its errors.
    """
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in without)
    start = (
        f"import runpy, sys; {blocked}{after}\nrunpy.run_module({module!r}, run_name='__main__')"
    )
    environment = dict(os.environ, XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}")
    done = subprocess.run(
        [sys.executable, "-c", start, *map(str, args)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr
