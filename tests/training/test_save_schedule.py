"""When it is time to save."""

from flaxcifar.training.save_schedule import Timetable


def make(steps, minutes, step=0):
    times = [0.0]
    return Timetable(steps, minutes, step, now=lambda: times[0]), times


def test_by_steps():
    table, _ = make(5, 0.0, step=3)
    assert [n for n in range(3, 12) if table.due(n)] == [8, 9, 10, 11]
    table.saved(8)
    assert not table.due(12) and table.due(13)


def test_by_minutes_if_a_step_was_done():
    table, times = make(0, 0.5)
    times[0] = 29.0
    assert not table.due(4)
    times[0] = 30.0
    assert table.due(4) and not table.due(0)
    table.saved(4)
    assert not table.due(5)


def test_never():
    table, times = make(0, 0.0)
    times[0] = 1e9
    assert not table.due(10**9)
