"""What a run is made of, before its first step."""

import pytest
import tiny

from flaxcifar import data, ops
from flaxcifar.experiment import build


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_without_arithmetic_for_it_is_remarked(fast, monkeypatch):
    monkeypatch.setattr(data, "load", lambda config: tiny.dataset())
    monkeypatch.setattr(ops, "has_bfloat16", lambda: fast)
    remarked = [remark for remark in build(tiny.config(precision="bfloat16")).remarks]
    assert any("precision=float32 is as fast" in line for line in remarked) != fast
    assert not build(tiny.config()).remarks
