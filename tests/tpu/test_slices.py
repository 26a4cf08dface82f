"""TPU slices: names, links, bytes and time of collectives."""

import pytest

from flaxcifar.errors import UserError
from flaxcifar.tpu.slices import CHIPS, HOP_SECONDS, Slice


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v5f:4x4", "v5e or v5p or v6e"),
        ("4x4", "v5e or v5p or v6e"),
        ("v5e:3x3", "v5e has 1x1, 2x2"),
        ("v5e", "v5e has 1x1"),
        ("v5p:4x4", "v5p has 1x1x1, 2x2x1"),
    ],
)
def test_a_wrong_topology_lists_the_right_ones(name, words):
    with pytest.raises(UserError, match=words):
        Slice.parse(name)


def test_slices():
    part = Slice.parse("v5p:4x4x8")
    assert (part.shape, part.chips, part.name) == ((4, 4, 8), 128, "v5p:4x4x8")
    for generation in CHIPS:
        counts = [other.chips for other in Slice.parse(f"{generation}:" + "x".join(
            ["1"] * (3 if generation == "v5p" else 2))).siblings()]  # fmt: skip
        assert counts == sorted(counts) and (counts[0], counts[-1]) == (1, 256)


def test_clock_rates_are_the_published_ones():
    # scaling-book: 1.5 GHz for a v5e, 1.75 GHz for a v5p.
    assert CHIPS["v5e"].clock == pytest.approx(1.5e9, rel=0.01)
    assert CHIPS["v5p"].clock == pytest.approx(1.75e9, rel=0.01)


def test_one_chip_sends_nothing():
    assert Slice.parse("v5e:1x1").seconds("all-reduce", 1e9) == 0
    assert Slice.parse("v5e:1x1").sent("all-reduce", 1e9) == 0


def test_bytes_sent():
    part = Slice.parse("v5e:2x2")
    assert part.sent("all-reduce", 400) == 600  # three quarters, for each of two passes
    assert part.sent("reduce-scatter", 400) == 300
    assert part.sent("all-gather", 100) == 300
    assert part.sent("collective-permute", 100) == 100


@pytest.mark.parametrize(
    ("name", "hops", "links"),
    [
        ("v5e:2x2", 1 + 1, 2),
        ("v5e:4x4", 3 + 3, 2),  # no ring
        ("v5e:8x16", 7 + 8, 3),
        ("v5e:16x16", 8 + 8, 4),
        ("v5p:2x2x1", 1 + 1, 2),
        ("v5p:2x4x4", 1 + 3 + 3, 3),  # no whole cube
        ("v5p:4x4x4", 2 + 2 + 2, 6),
    ],
)
def test_an_all_reduce_takes_its_latency_and_its_bytes(name, hops, links):
    part = Slice.parse(name)
    share = 2 * (part.chips - 1) / part.chips
    transfer = 1e9 * share / (links * part.chip.link)
    assert part.seconds("all-reduce", 1e9) == pytest.approx(2 * hops * HOP_SECONDS + transfer)


def test_a_whole_pod_reduces_at_the_published_rate():
    # docs.cloud.google.com/tpu/docs/v6e: all-reduce bandwidth of a pod, 51.2 and 102.4 TB/s, summed
    # over its 256 chips.
    for generation, bandwidth in (("v5e", 51.2e12), ("v6e", 102.4e12)):
        part = Slice.parse(f"{generation}:16x16")
        sent = 256 * part.sent("all-reduce", 1e12)
        assert sent / part.seconds("all-reduce", 1e12) == pytest.approx(bandwidth, rel=1e-3)
