"""Evaluation of parameters on a split; each example counts once on any number of devices."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from flaxcifar import config, console, data
from flaxcifar.data.dataset import Dataset, Split
from flaxcifar.data.eval_batches import eval_batches
from flaxcifar.data.normalization import Normalization
from flaxcifar.data.split import split_validation
from flaxcifar.devices import parallel
from flaxcifar.errors import UserError
from flaxcifar.models.network import Network
from flaxcifar.training.metrics import Metrics, compute
from flaxcifar.training.networks import make_network
from flaxcifar.training.step import Arrays, eval_step
from flaxcifar.training.test_time import Views
from flaxcifar.workdir.checkpoints import Record, read_best

# (params, batch_stats, split, indices, views) -> metrics: "single" and, where there are several
# views, "augmented".
Evaluate = Callable[..., dict[str, dict[str, float]]]


def make_evaluate(
    network: Network,
    normalization: Normalization,
    superclass_of: np.ndarray | None,
    batch_size: int,
    between: Callable[[], None] = lambda: None,
) -> Evaluate:
    """Returns a function that evaluates parameters on examples of a split, each exactly once.

    `between` is called before every batch; what it raises ends the evaluation.
    """
    coarse = None if superclass_of is None else tuple(superclass_of.tolist())

    def evaluate(
        params: Arrays, batch_stats: Arrays, split: Split, indices: np.ndarray, views: str = "none"
    ) -> dict[str, dict[str, float]]:
        compiled = _compiled(network, coarse, views, parallel.all_devices())
        names = ("single",) if views == "none" else ("single", "augmented")
        metrics = parallel.replicate({name: Metrics.zero() for name in names})
        own = parallel.own_rows(batch_size)
        with console.working("evaluating", len(indices)) as advance:
            for batch in eval_batches(split, indices, batch_size, own):
                between()
                metrics = compiled((params, batch_stats), normalization.arrays(), metrics, batch)
                advance(int(np.sum(batch["mask"])))
        values = {name: compute(metrics[name], coarse=coarse is not None) for name in names}
        if values["single"]["examples"] != len(indices):
            raise AssertionError(f"{values} were counted, not {len(indices)} examples")
        return values

    return evaluate


@functools.lru_cache(maxsize=8)
def _compiled(
    network: Network, coarse: tuple[int, ...] | None, views: str, devices: tuple[Any, ...]
) -> Callable[..., Any]:
    """Cached, so that several runs of one model compile their evaluation once."""
    step = functools.partial(eval_step, network, coarse, Views(views))
    return parallel.pmap(step, replicated=3, batch_axis=0, devices=devices)


def evaluate_workdir(
    workdir: str, split: str = "test", views: str | None = None
) -> dict[str, dict[str, float]]:
    """Returns the metrics of a run's best checkpoint on "train", "validation" or "test".

    They are "single" and, where `views` (by default the config's) are several, "augmented". The
    preprocessing is the one stored with the checkpoint. Raises UserError where the workdir has no
    checkpoint or its dataset is no longer the same.
    """
    best, record, settings, dataset = read_trained(workdir)
    network, _ = make_network(settings, len(dataset.class_names))
    evaluate = make_evaluate(
        network,
        Normalization.from_json(record["normalization"]),
        dataset.superclass_of,
        settings.eval_batch_size,
    )
    part, indices = _part(dataset, settings, split)
    arrays = {kind: {k: jnp.asarray(v) for k, v in best[kind].items()} for kind in best}
    variables = (arrays["params"], arrays["batch_stats"])
    return evaluate(*variables, part, indices, settings.test_views if views is None else views)


def read_trained(workdir: str | os.PathLike) -> tuple[dict[str, Any], Record, Any, Dataset]:
    """Returns the arrays and the record of a run's best checkpoint, its config and its dataset.

    Raises UserError where there is no checkpoint or the dataset is not there or no longer the same.
    """
    best, record = read_best(workdir)
    settings = config.from_json(record["config"])
    dataset = data.load(settings.data)
    # Of weights that come from elsewhere only the number of classes may be known.
    known = (record["fingerprint"] or dataset.fingerprint, len(record["class_names"]))
    if known != (dataset.fingerprint, len(dataset.class_names)):
        raise UserError(f"dataset {dataset.name!r} is not the one that {workdir} was trained on")
    return best, record, settings, dataset


def _part(dataset: Dataset, settings: Any, split: str) -> tuple[Split, np.ndarray]:
    if split == "test":
        return dataset.test, np.arange(len(dataset.test.labels))
    train, validation = split_validation(
        dataset.train.labels, settings.data.validation_percent, settings.seed
    )
    chosen = train if split == "train" else validation
    if not len(chosen):
        raise UserError("the run held out no validation split")
    return dataset.train, chosen
