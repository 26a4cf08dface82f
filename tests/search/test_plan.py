"""The runs of a sweep: every combination of values, each with several seeds."""

import pytest
import tiny

from flaxcifar import config as configs
from flaxcifar.errors import UserError
from flaxcifar.search.plan import parse_axis, plan
from flaxcifar.search.run import as_file


def loader(tmp_path, **changes):
    """Returns `load` of a config file of the tiny run."""
    path = tmp_path / "tiny_config.py"
    path.write_text(as_file(tiny.config(**changes), "tiny"))
    return lambda overrides: configs.load(path, overrides)


def test_axes_are_split_at_commas_outside_brackets():
    assert parse_axis("a.b=1,2") == ("a.b", ["1", "2"])
    assert parse_axis("a=(1, 2),(3,)") == ("a", ["(1, 2)", "(3,)"])
    for bad in ("a", "=1", "a.=1", "a=", "a=1,,2"):
        with pytest.raises(UserError, match="expected some.key=value,value"):
            parse_axis(bad)


def test_the_plan_is_the_product_of_the_axes_and_the_seeds(tmp_path):
    axes = [("optimizer.learning_rate", ["0.1", "0.2"]), ("batch_size", ["8", "16"])]
    runs = plan(loader(tmp_path, seed=5), axes, seeds=3)
    assert len(runs) == 12 and len({run.name for run in runs}) == 12
    assert [run.config.seed for run in runs[:4]] == [5, 6, 7, 5]
    assert runs[-1].config.optimizer.learning_rate == 0.2 and runs[-1].config.batch_size == 16
    assert runs[-1].setting == "optimizer.learning_rate=0.2, batch_size=16"


@pytest.mark.parametrize(
    ("axes", "seeds", "message"),
    [
        ([("batch_siz", ["8"])], 1, "did you mean 'batch_size'"),
        ([("batch_size", ["8", "many"])], 1, "batch_size must be an integer, got 'many'"),
        ([("batch_size", ["8"]), ("batch_size", ["9"])], 1, "once"),
        ([("seed", ["8"])], 2, "once"),
    ],
)
def test_mistakes_are_found_in_every_run(axes, seeds, message, tmp_path):
    with pytest.raises(UserError, match=message):
        plan(loader(tmp_path), axes, seeds)


def test_a_sweep_needs_a_validation_split(tmp_path):
    load = loader(tmp_path, **{"data.validation_percent": 0.0})
    with pytest.raises(UserError, match="data.validation_percent is 0"):
        plan(load, [("batch_size", ["8"])], 1)
    assert len(plan(load, [], 3)) == 3
