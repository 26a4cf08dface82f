"""Reading the processor's flags."""

import pytest

from flaxcifar.ops import processor


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fma avx2", False),
        ("fma avx2 avx512f avx512_bf16", True),
        ("fma avx512f amx_bf16 amx_tile", True),
    ],
)
def test_bfloat16(monkeypatch, tmp_path, flags, expected):
    info = tmp_path / "cpuinfo"
    info.write_text(f"model name\t: one\nflags\t\t: {flags}\nbugs\t: none\n")
    monkeypatch.setattr(processor, "_INFO", info)
    processor.instruction_sets.cache_clear()
    assert processor.has_bfloat16() == expected
    processor.instruction_sets.cache_clear()


def test_without_a_description(monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "_INFO", tmp_path / "none")
    processor.instruction_sets.cache_clear()
    assert processor.instruction_sets() and not processor.has_bfloat16()
    processor.instruction_sets.cache_clear()
