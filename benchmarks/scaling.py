"""Scaling: the same training on 1 to 8 devices and in 1 to 4 processes of this machine.

    python -m benchmarks.scaling --models crcv

The devices are simulated: they share one CPU and its threads. This shows whether the results are
the same, what a step sends, and what the wrappers of a step cost. It does not show the speed on
more hardware, which docs/guides/scaling.md estimates.
"""

import argparse
import dataclasses
import json
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import arguments, records, report
from benchmarks.jobs import ROOT, Job
from benchmarks.processes import WorkerError, child_environment, last_words, run_module
from benchmarks.worker import answer, use_threads
from flaxcifar.cli.command import run_command
from flaxcifar.errors import UserError

Row = dict[str, Any]
# Processes, and devices in each.
LAYOUTS = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (2, 2), (4, 1))
WRAPPERS = ("jit", "pmap", "shard_map")
_STEPS = 6


def main(argv: list[str]) -> None:
    """Measures every model."""
    if argv == ["--worker"]:
        answer(work)
        return
    flags = arguments.parser("scaling", __doc__, models="crcv", frameworks="flaxcifar")
    options = arguments.parse(flags, argv)
    if options.frameworks != ["flaxcifar"]:
        raise UserError("--frameworks: only flaxcifar can be measured")
    jobs = [arguments.job(options, model, "float32") for model in options.models]
    batches = (layouts(job, options) + wrappers(job, options) for job in jobs)
    rows = records.collect(options.output, batches)
    report.publish(table(rows), panels(rows), options.output)


def layouts(job: Job, options: argparse.Namespace) -> list[Row]:
    """Trains on the same batches with each number of processes and devices; returns a row each."""
    rows: list[Row] = []
    for processes, devices in LAYOUTS[:3] if options.quick else LAYOUTS:
        found = run_layout(job, processes, devices)
        if any(one["losses"] != found[0]["losses"] for one in found):
            raise WorkerError(f"{processes} processes computed different losses")
        row = records.common("scaling", job, found[0]) | {
            "processes": processes,
            "devices": processes * devices,
            "losses": found[0]["losses"],
            "sent_bytes": found[0]["sent_bytes"],
            "collectives": found[0]["collectives"],
            "quick": options.quick,
        }
        rows.append(row)
        row["deviation"] = max(
            abs(one - other) / other
            for one, other in zip(row["losses"], rows[0]["losses"], strict=True)
        )
    return rows


def run_layout(job: Job, processes: int, devices: int) -> list[Row]:
    """Runs the processes of a layout and returns their results."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = child_environment(job) | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.scaling", "--worker"]
    running = []
    with tempfile.TemporaryDirectory() as directory:
        for number in range(processes):
            request = {"job": dataclasses.asdict(job), "coordinator": coordinator}
            request |= {"processes": processes, "number": number}
            asked = Path(directory) / f"{number}.json"
            asked.write_text(json.dumps(request))
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            with asked.open() as stdin:
                one = subprocess.Popen(command, stdin=stdin, cwd=ROOT, env=environment, **pipes)
            running.append(one)
        answers = []
        for one in running:
            out, err = one.communicate()
            if one.returncode:
                raise WorkerError(last_words(one.returncode, err))
            answers.append(json.loads(out.splitlines()[-1]))
    return answers


def wrappers(job: Job, options: argparse.Namespace) -> list[Row]:
    """Measures all wrappers of a step on one device in turns; returns a row each."""
    request = {"job": dataclasses.asdict(job), "rounds": options.rounds}
    request["seconds"] = options.seconds
    environment = {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    found = run_module(job, request, "benchmarks.scaling", "--worker", environment=environment)
    rows = []
    for wrapper in WRAPPERS:
        rates = found["rates"][wrapper]
        ratios = [a / b for a, b in zip(rates, found["rates"]["jit"], strict=True)]
        rows.append(
            records.common("scaling", job, found)
            | {
                "wrapper": wrapper,
                "steps_per_second": statistics.median(rates),
                "spread": records.spread(rates),
                "of_jit": statistics.median(ratios),
                "of_jit_spread": records.spread(ratios),
                "n": len(rates),
                "quick": options.quick,
            }
        )
    return rows


def work(job: dict[str, Any], **request: Any) -> Row:
    """Trains for some steps in a layout, or measures the wrappers; runs in a child process."""
    import jax

    from benchmarks.peers import flaxcifar_peer

    job = Job(**job)
    use_threads(job.threads)
    if "coordinator" in request:
        if request["processes"] > 1:
            jax.distributed.initialize(
                request["coordinator"], request["processes"], request["number"]
            )
        found = _train(job)
    else:
        found = _time(job, request["rounds"], request["seconds"])
    return found | flaxcifar_peer.described()


def _batches(experiment: Any, own: slice) -> list[dict[str, Any]]:
    split = experiment.dataset.train
    found = []
    for index in experiment.epoch_batches(0)[:_STEPS, own]:
        images, labels = split.images[index], split.labels[index]
        found.append({"image": images[None], "label": labels[None], "index": index[None]})
    return found


def _train(job: Job) -> Row:
    """Returns the losses of the first steps, and the collectives of the compiled step."""
    import functools

    import jax
    import numpy as np

    from benchmarks.jobs import recipe
    from flaxcifar.devices import parallel
    from flaxcifar.tpu.hlo import Program
    from flaxcifar.training.experiment import build
    from flaxcifar.training.run_state import start
    from flaxcifar.training.step import train_steps

    experiment = build(recipe(job))
    step = functools.partial(train_steps, experiment.recipe)
    run = parallel.pmap(step, replicated=5, batch_axis=1)
    batches = _batches(experiment, parallel.own_rows(job.batch))
    placed = parallel.replicate(start(experiment) | {"hyperparams": experiment.hyperparams})
    state, zero, hyperparams = placed["state"], placed["metrics"], placed["hyperparams"]
    losses = []
    for batch in batches:
        state, metrics = run(hyperparams, state, zero, {}, np.int32(1), batch)
        metrics = jax.device_get(metrics)
        losses.append(float(metrics.loss / metrics.count))
    if jax.process_count() > 1:  # the same program as with as many devices in one process
        return {"losses": losses, "sent_bytes": None, "collectives": None}
    arguments = (hyperparams, state, zero, {}, np.int32(1), batches[0])
    shapes = jax.eval_shape(lambda *x: x, *arguments)
    lowered = parallel.jitted(step, replicated=5, batch_axis=1).lower(*shapes)
    sent = Program(lowered.compile().as_text(), looped=False).collectives()
    return {
        "losses": losses,
        "sent_bytes": sum(each.bytes for each in sent),
        "collectives": len(sent),
    }


def _time(job: Job, rounds: int, seconds: float) -> Row:
    """Returns the steps/s of each wrapper in each turn."""
    import functools
    import time
    from unittest import mock

    import jax
    import numpy as np

    from benchmarks.jobs import recipe
    from flaxcifar.devices import parallel
    from flaxcifar.training.experiment import build
    from flaxcifar.training.run_state import start
    from flaxcifar.training.step import train_steps

    experiment = build(recipe(job))
    step = functools.partial(train_steps, experiment.recipe)
    (batch, *_) = _batches(experiment, slice(None))
    arguments = {"replicated": 5, "batch_axis": 1, "donate": (1,)}
    runs = {
        "jit": jax.jit(step, donate_argnums=(1,)),
        "pmap": parallel.pmap(step, **arguments),
        "shard_map": parallel.shard_map(step, **arguments),
    }
    hyperparams = parallel.replicate(experiment.hyperparams)
    zero = parallel.replicate(start(experiment)["metrics"])
    states = {name: parallel.replicate(start(experiment)["state"]) for name in runs}

    def turn(name: str, steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            inputs = (hyperparams, states[name], zero, {}, np.int32(1), batch)
            states[name], metrics = runs[name](*inputs)
            jax.block_until_ready(metrics)
        return time.perf_counter() - began

    # On one device a sum over devices is the value itself.
    alone = mock.Mock(side_effect=lambda value, *_, **__: value)
    with mock.patch.multiple(jax.lax, psum=alone, pmean=alone):
        turn("jit", 2)
    for name in runs:
        turn(name, 2)
    steps = max(2, round(seconds / (turn("jit", 2) / 2)))
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in WRAPPERS if number % 2 else WRAPPERS[::-1]:
            rates[name].append(steps / turn(name, steps))
    return {"rates": rates}


def table(rows: list[Row]) -> Table:
    """Returns the rows as a rich table."""
    cells = []
    for row in rows:
        if "wrapper" in row:
            low, high = row["of_jit_spread"]["min"], row["of_jit_spread"]["max"]
            rate = f"{row['steps_per_second']:.2f}"
            share = f"{row['of_jit']:.3f} ({low:.3f}-{high:.3f})"
            cells.append((row["model"], row["wrapper"], "1", "1", "", "", "", rate, share))
            continue
        sent = "same" if row["sent_bytes"] is None else f"{row['sent_bytes'] / 1e6:.3f}"
        count = "" if row["collectives"] is None else f"{row['collectives']}"
        devices = f"{row['devices']}"
        deviation = f"{row['deviation']:.1e}"
        cells.append(
            (row["model"], "", f"{row['processes']}", devices, deviation, sent, count, "", "")
        )
    row = rows[0]
    title = f"Scaling on {row['device']}, {row['threads']} threads, batch {row['batch']}"
    columns = ("model", "wrapper", "processes", "devices", "loss differs by", "MB sent/step")
    return report.make_table(title, (*columns, "collectives", "steps/s", "relative to jit"), cells)


def panels(rows: list[Row]) -> dict[str, report.Bars]:
    """Returns the bars to plot: rates of the wrappers relative to jit."""
    shares: dict[str, dict] = {}
    for row in rows:
        if "wrapper" in row:
            spread = row["of_jit_spread"]
            bar = (row["of_jit"], spread["min"], spread["max"])
            shares.setdefault(row["model"], {})[row["wrapper"]] = bar
    return {"steps/s relative to jit": shares}


if __name__ == "__main__":
    run_command(main)
