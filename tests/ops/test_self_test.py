"""The start-up check finds wrong results."""

import importlib

import jax.numpy as jnp
import pytest

from flaxcifar import ops
from flaxcifar.errors import UserError

module = importlib.import_module("flaxcifar.ops.self_test")


@pytest.fixture(autouse=True)
def untested():
    ops.self_test.cache_clear()
    yield
    ops.self_test.cache_clear()


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_this_machine_is_right(path, dtype):
    ops.self_test(path, dtype)


def test_a_process_is_tested_once(monkeypatch):
    ops.self_test("xla")
    monkeypatch.setattr(module, "convolution", None)
    ops.self_test("xla")


def test_a_wrong_convolution_is_found(monkeypatch):
    right = module.convolution
    monkeypatch.setattr(module, "convolution", lambda *a, **k: right(*a, **k) * 1.001)
    with pytest.raises(UserError, match="the convolution of backend .* is wrong on this machine"):
        ops.self_test("xla")


def test_a_wrong_sum_is_found(monkeypatch):
    class Wrong:
        def __getattr__(self, name):
            return getattr(jnp, name)

        def sum(self, x, *args):
            return jnp.sum(x[:-1], *args)

    monkeypatch.setattr(module, "jnp", Wrong())
    with pytest.raises(UserError, match="a sum is wrong.*ynn_fusion_type=-reduce"):
        ops.self_test("xla")


@pytest.mark.parametrize("platform, error", [("gpu", 5e-4), ("tpu", 1e-2)])
def test_accelerators_may_multiply_float32_numbers_as_shorter_ones(platform, error, monkeypatch):
    right, factor = module.convolution, 1 + error
    monkeypatch.setattr(module, "convolution", lambda *a, **k: right(*a, **k) * factor)
    monkeypatch.setattr(module.jax, "default_backend", lambda: platform)
    ops.self_test("xla")
    ops.self_test.cache_clear()
    factor = 1 + 4 * error
    with pytest.raises(UserError, match="is wrong on this machine"):
        ops.self_test("xla")
