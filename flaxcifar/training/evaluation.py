"""Evaluation on a split, in which each example counts once on any number of devices."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxcifar import console
from flaxcifar.data.dataset import Split
from flaxcifar.data.eval_batches import eval_batches
from flaxcifar.data.normalization import Normalization
from flaxcifar.devices import parallel
from flaxcifar.models.network import Network
from flaxcifar.training.metrics import Metrics, OwnMetric, compute
from flaxcifar.training.step import Arrays, eval_step
from flaxcifar.training.test_time import Views


class Evaluation(NamedTuple):
    """Results on a set of examples.

    Attributes:
      metrics: of the images themselves as "single" and, with several views, as "augmented" of the
        mean logits over the views.
      logits: of "single", float32 [N, classes]; None unless they were asked for.
    """

    metrics: dict[str, dict[str, float]]
    logits: np.ndarray | None


# (params, batch_stats, split, indices, views="none", keep_logits=False) -> Evaluation
Evaluate = Callable[..., Evaluation]


def make_evaluate(
    network: Network,
    normalization: Normalization,
    superclass_of: np.ndarray | None,
    batch_size: int,
    own: tuple[OwnMetric, ...] = (),
    between: Callable[[], None] = lambda: None,
) -> Evaluate:
    """Returns a function that evaluates parameters on examples of a split, each exactly once.

    Args:
      superclass_of: int32 [classes], or None without superclasses.
      batch_size: of all devices together.
      own: metrics of the config.
      between: called before every batch; may raise to stop the evaluation.
    """
    coarse = None if superclass_of is None else tuple(superclass_of.tolist())

    def evaluate(
        params: Arrays,
        batch_stats: Arrays,
        split: Split,
        indices: np.ndarray,
        views: str = "none",
        keep_logits: bool = False,
    ) -> Evaluation:
        compiled = _compiled(network, coarse, own, views, parallel.all_devices())
        names = ("single",) if views == "none" else ("single", "augmented")
        metrics = parallel.replicate({name: Metrics.zero(own) for name in names})
        rows, kept = parallel.own_rows(batch_size), []
        with console.working("evaluating", len(indices)) as advance:
            for batch in eval_batches(split, indices, batch_size, rows):
                between()
                metrics, logits = compiled(
                    (params, batch_stats), normalization.arrays(), metrics, batch
                )
                kept += [logits] if keep_logits else []
                advance(int(np.sum(batch["mask"])))
        values = {name: compute(metrics[name], coarse=coarse is not None) for name in names}
        if values["single"]["examples"] != len(indices):
            raise AssertionError(f"counted {values} instead of {len(indices)} examples")
        # The last batch is padded.
        logits = np.concatenate(jax.device_get(kept))[: len(indices)] if keep_logits else None
        return Evaluation(values, logits)

    return evaluate


@functools.lru_cache(maxsize=8)
def _compiled(
    network: Network,
    coarse: tuple[int, ...] | None,
    own: tuple[OwnMetric, ...],
    views: str,
    devices: tuple[Any, ...],
) -> Callable[..., Any]:
    """Cached so that several runs of a model compile their evaluation once."""
    step = functools.partial(eval_step, network, coarse, own, Views(views))
    return parallel.pmap(step, replicated=3, batch_axis=0, devices=devices)
