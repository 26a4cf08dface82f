import jax
import jax.numpy as jnp
import pytest

from flaxcifar.training import clock
from flaxcifar.training.clock import Clock


class Time:
    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def time():
    return Time()


def test_the_first_lap_and_what_lies_between_stretches_do_not_count(time):
    watch = Clock(now=time)
    watch.begin()
    time.seconds += 50
    watch.lap(10)
    time.seconds += 2
    watch.lap(10)
    time.seconds += 1000
    watch.begin()
    time.seconds += 3
    watch.lap(10)
    assert watch.images_per_second == pytest.approx(20 / 5)
    assert watch.rate == pytest.approx(10 / 3)


def test_one_lap_alone_counts(time):
    watch = Clock(now=time)
    time.seconds += 4
    watch.lap(8)
    assert watch.images_per_second == pytest.approx(2.0)


def test_a_lap_without_images_leaves_its_time_to_the_next(time):
    watch = Clock(now=time)
    watch.lap(1)
    watch.begin()
    time.seconds += 1
    watch.lap(0)
    time.seconds += 1
    watch.lap(6)
    assert watch.rate == pytest.approx(3.0)


def test_compilation_is_left_out(time, monkeypatch):
    watch = Clock(now=time)
    watch.lap(1)
    watch.begin()
    monkeypatch.setattr(clock, "_compile_seconds", clock.compile_seconds() + 7.0)
    time.seconds += 9
    watch.lap(4)
    assert watch.images_per_second == pytest.approx(2.0)
    assert watch.state()["compile_seconds"] == pytest.approx(7.0)


def test_it_goes_on_after_a_resume(time):
    first = Clock(now=time)
    first.lap(1)
    time.seconds += 10
    first.lap(20)
    kept = first.state()
    time.seconds += 500
    second = Clock(**kept, now=time)
    time.seconds += 10
    second.lap(5)
    assert second.images_per_second == pytest.approx(2.0)
    assert second.state()["total_seconds"] == pytest.approx(20.0)


def test_jax_tells_of_its_compilations():
    before = clock.compile_seconds()
    jax.jit(lambda x: jnp.sin(x) * 3)(jnp.ones(7)).block_until_ready()
    assert clock.compile_seconds() > before
