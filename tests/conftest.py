"""Eight CPU devices for every test, set before anything imports JAX."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

# Workers and subprocesses share compiled programs and decoded datasets through the directory of the
# first process.
if "FLAXCIFAR_TEST_CACHE" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="flaxcifar-tests-")
    os.environ["FLAXCIFAR_TEST_CACHE"] = _cache.name
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["FLAXCIFAR_TEST_CACHE"] + "/jax"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
