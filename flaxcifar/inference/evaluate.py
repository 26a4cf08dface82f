"""Evaluation of trained models on a split of their dataset."""

from typing import Any

import numpy as np

from flaxcifar.config import plain
from flaxcifar.data.dataset import Dataset, Split
from flaxcifar.errors import UserError
from flaxcifar.inference.trained import Trained
from flaxcifar.training.evaluation import make_evaluate
from flaxcifar.training.metrics import own_metrics


def evaluate(
    trained: Trained, split: str = "test", views: str | None = None
) -> dict[str, dict[str, float]]:
    """Computes the metrics of a trained model. Each example counts once, on any number of devices.

    Args:
      split: "train", "validation" or "test" of the dataset the model was trained on.
      views: test-time views, one of `test_time.WEIGHTS`; by default the config's `test_views`.

    Returns:
      The metrics of "single" and, with several views, of "augmented".

    Raises:
      UserError: if the dataset is missing or has changed, or the run has no validation split.
    """
    dataset = trained.load_dataset()
    part, indices = examples(dataset, trained.config, split)
    if split == "validation" and not len(indices):
        raise UserError(
            "the run has no validation split: "
            f"its data.validation_percent is {trained.config.data.validation_percent}."
        )
    run = make_evaluate(
        trained.network,
        trained.normalization,
        dataset.superclass_of,
        trained.config.eval_batch_size,
        own_metrics(plain(trained.config.metrics)),
    )
    views = trained.config.test_views if views is None else views
    return run(*trained.variables, part, indices, views).metrics


def examples(dataset: Dataset, config: Any, split: str) -> tuple[Split, np.ndarray]:
    """Returns the arrays that contain "train", "validation" or "test", and its indices there."""
    if split == "test":
        return dataset.test, np.arange(len(dataset.test))
    train, validation = dataset.hold_out(config.data.validation_percent, config.seed)
    return dataset.train, train if split == "train" else validation
