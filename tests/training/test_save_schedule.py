"""When a run is saved within an epoch."""

from flaxcifar.training.save_schedule import SaveSchedule


def make(steps, minutes):
    times = [0.0]
    return SaveSchedule(steps, minutes, now=lambda: times[0]), times


def test_by_steps():
    schedule, _ = make(5, 0.0)
    schedule.restart(3)
    assert [n for n in range(3, 12) if schedule.due(n)] == [8, 9, 10, 11]
    schedule.restart(8)
    assert not schedule.due(12) and schedule.due(13)


def test_by_minutes_if_a_step_was_done():
    schedule, times = make(0, 0.5)
    times[0] = 29.0
    assert not schedule.due(4)
    times[0] = 30.0
    assert schedule.due(4) and not schedule.due(0)
    schedule.restart(4)
    assert not schedule.due(5)


def test_never():
    schedule, times = make(0, 0.0)
    times[0] = 1e9
    assert not schedule.due(10**9)
