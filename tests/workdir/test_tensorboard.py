"""What TensorBoard's own code makes of the event files."""

import contextlib

import events
import numpy as np
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context

from flaxcifar.workdir.json_files import read_rows
from flaxcifar.workdir.metrics_log import MetricsLog, rewind_metrics
from flaxcifar.workdir.tensorboard import write_results

PICTURE = np.zeros((8, 8, 3), np.uint8)


def row(epoch, loss=0.5):
    return {"epoch": epoch, "step": 5 * epoch, "train_loss": loss, "learning_rate": 0.1}


def write(workdir, history, rows, settings=None):
    """Resumes after `history` with `rows`; with `settings`, ends the run."""
    workdir.mkdir(exist_ok=True)
    rewind_metrics(workdir, history)
    with contextlib.closing(MetricsLog(workdir)) as log:
        for values in rows:
            log.write(values, {"images_per_second": 10.0, "seconds": 1.0})
    if settings is not None:
        end(workdir, rows[-1]["step"], settings)


def end(workdir, step, settings):
    results, pictures = {"final/accuracy": 0.5}, {"test/some": PICTURE}
    write_results(workdir / "tensorboard", step, results, settings, pictures)


def steps(found, tag):
    return [event.step for event in found[tag]]


def test_a_run_that_goes_on_shows_every_step_of_every_tag_once(tmp_path):
    rows = [row(n) for n in range(1, 6)]
    write(tmp_path, [], rows[:4], {"seed": 0})
    write(tmp_path, rows[:2], rows[2:3])
    write(tmp_path, rows[:3], rows[3:], {"seed": 0})
    found = events.shown(tmp_path)
    for tag in ("train/loss", "learning_rate", "images_per_second"):
        assert steps(found, tag) == [5, 10, 15, 20, 25]
    for tag in ("final/accuracy", "test/some"):
        assert steps(found, tag) == [25]
    assert len(found["_hparams_/session_start_info"]) == 1
    assert len(found["_hparams_/session_end_info"]) == 1


def test_results_are_added_once_and_change_nothing_else(tmp_path):
    write(tmp_path, [], [row(1), row(2)])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for _ in range(2):  # a report that is interrupted is written again
        end(tmp_path, 10, {"seed": 0})
    assert before.items() <= {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}.items()
    found = events.shown(tmp_path)
    assert steps(found, "train/loss") == [5, 10]
    assert steps(found, "final/accuracy") == steps(found, "test/some") == [10]
    assert len(found["_hparams_/session_start_info"]) == 1


def test_a_row_that_was_saved_and_not_shown_is_shown(tmp_path):
    write(tmp_path, [], [row(1)])
    write(tmp_path, [row(1), row(2)], [])
    assert steps(events.shown(tmp_path), "train/loss") == [5, 10]


def test_what_was_shown_before_keeps_its_time(tmp_path):
    write(tmp_path, [], [row(1), row(2)])
    before = events.shown(tmp_path)["train/loss"]
    write(tmp_path, [row(1), row(2)], [])
    assert events.shown(tmp_path)["train/loss"] == before
    assert [line["step"] for line in read_rows(tmp_path / "timing.jsonl")] == [5, 10]


def test_a_tensorboard_that_is_running_follows(tmp_path):
    write(tmp_path, [], [row(n, loss=1.0) for n in (1, 2, 3)], {"seed": 0})
    running = EventAccumulator(str(tmp_path / "tensorboard"))
    assert steps(events.events_of(running), "train/loss") == [5, 10, 15]
    write(tmp_path, [row(1)], [row(2), row(3), row(4)])
    found = events.events_of(running)["train/loss"]
    assert [event.step for event in found] == [5, 10, 15, 20]
    assert {float(event.value) for event in found} == {0.5}


def test_without_its_timing_a_run_is_shown_all_the_same(tmp_path):
    write(tmp_path, [], [row(1), row(2)])
    with (tmp_path / "timing.jsonl").open("a") as file:
        file.write('{"step": 1')
    write(tmp_path, [row(1), row(2)], [row(3)])
    assert [line["step"] for line in read_rows(tmp_path / "timing.jsonl")] == [5, 10, 15]
    (tmp_path / "timing.jsonl").unlink()
    write(tmp_path, [row(1), row(2)], [row(3)])
    found = events.shown(tmp_path)
    assert steps(found, "train/loss") == [5, 10, 15]
    assert steps(found, "seconds") == [15]


def test_the_table_compares_the_runs_of_a_sweep(tmp_path):
    for name, changes in (("a", {"lr": 0.1}), ("b", {"lr": 0.2, "schedule.power": 2.0})):
        write(tmp_path / name, [], [row(1)], {"seed": 0, "model.name": "crcv", **changes})
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = MultiplexerDataProvider(runs, str(tmp_path))
    plugin, request = Context(TBContext(data_provider=provider)), context.RequestContext()
    metadata = plugin.hparams_metadata(request, "all")
    columns = plugin.experiment_from_metadata(request, "all", True, metadata, [])
    # Those that differ come first; a column of one run only is there, too.
    assert [info.name for info in columns.hparam_infos][0] == "lr"
    assert {info.name for info in columns.hparam_infos} > {"seed", "schedule.power"}
    assert "final/accuracy" in {info.name.tag for info in columns.metric_infos}
    wanted = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=9,
        allowed_statuses=[api_pb2.STATUS_SUCCESS],
        include_metrics=True,
    )
    handler = list_session_groups.Handler(
        request_context=request, backend_context=plugin, experiment_id="all", request=wanted
    )
    groups = handler.run().session_groups
    assert sorted(group.hparams["lr"].number_value for group in groups) == [0.1, 0.2]
    for group in groups:
        values = {value.name.tag: value.value for value in group.metric_values}
        assert values["final/accuracy"] == 0.5
