"""Eight CPU devices and no implicit promotion for every test, set before anything imports JAX."""

import os
import signal
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"
# Subprocesses find the packages and the helpers that the tests import.
_tests = Path(__file__).parent
_path = [str(_tests.parent), str(_tests), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _path))

# Started as a background job of a script, pytest ignores SIGINT, and so would its subprocesses.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Workers and subprocesses share decoded datasets in a temporary directory, and compiled programs in
# pytest's cache, where they persist until `pytest --cache-clear`.
if "FLAXCIFAR_TEST_CACHE" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="flaxcifar-tests-")
    os.environ["FLAXCIFAR_TEST_CACHE"] = _cache.name
_compiled = _tests.parent / ".pytest_cache/d/jax"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_compiled)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
