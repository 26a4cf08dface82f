"""What TensorBoard would show of a run, by its own reader."""

from typing import Any, NamedTuple

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray


class Event(NamedTuple):
    step: int
    wall_time: float
    value: Any  # of a picture: width, height, PNG


def shown(workdir):
    """Returns {tag: events} of everything but the metadata, as TensorBoard orders them."""
    return events_of(EventAccumulator(str(workdir / "tensorboard"), {"tensors": 0}))


def events_of(accumulator):
    """Returns {tag: events} of what an accumulator finds from now on, too."""
    accumulator.Reload()
    return {
        tag: [
            Event(event.step, event.wall_time, make_ndarray(event.tensor_proto))
            for event in accumulator.Tensors(tag)
        ]
        for tag in accumulator.Tags()["tensors"]
    }
