"""What a run is made of, before its first step."""

import pytest
import tiny

from flaxcifar import ops
from flaxcifar.errors import UserError
from flaxcifar.training.experiment import build


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_without_arithmetic_for_it_is_remarked(fast, monkeypatch):
    monkeypatch.setattr(ops, "has_bfloat16", lambda: fast)
    remarked = build(tiny.config(precision="bfloat16")).remarks
    assert any("precision=float32 is as fast" in line for line in remarked) != fast
    assert not build(tiny.config()).remarks


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", dict(name="vgg61"), "unknown model 'vgg61'"),
        ("model", dict(name="crcv", sise="slim"), "did you mean 'size'"),
        ("model", dict(name="speednet", depth="two"), "depth must be an integer .* got 'two'"),
        ("model", dict(name="speednet", depth=0), "depth must be .* got 0"),
        ("model", dict(name="resnet", widths=8), "widths must be a tuple or list .* got 8"),
        ("model", dict(name="resnet", widths=("8",)), "widths must be .* got \\('8',\\)"),
        ("model", dict(name="vgg16", dropout=2), "dropout must be .* got 2"),
        ("augment", (dict(name="pad_crop", padding=(1,)),), "padding must be .* got \\(1,\\)"),
        ("optimizer", dict(name="sgd", learning_rte=1.0), "did you mean 'learning_rate'"),
        ("optimizer", dict(name="adam", learning_rate=1.0, b3=0.9), "optimizer 'adam' takes no"),
        ("param_groups", (("head", dict(name="muon", learning_rate=0.1, ns=3)),), "takes no 'ns'"),
    ],
)
def test_a_wrong_part_is_told_before_the_data_is_read(tmp_path, key, value, message):
    config = tiny.config(**{"data.dir": str(tmp_path)})  # reading it would fail
    config[key] = value
    with pytest.raises(UserError, match=message):
        build(config)


def test_a_run_is_not_longer_than_its_counter_of_steps():
    with pytest.raises(UserError, match="total_epochs must be at most 238609294 .*int32"):
        build(tiny.config(total_epochs=10**9))
    with pytest.raises(UserError, match="warmup_steps must be .* between 0 and 2147483647"):
        build(tiny.config(schedule=dict(name="constant", warmup_steps=10**10)))


def test_a_size_that_the_model_does_not_take_is_one_line():
    config = tiny.config(**{"progressive_sizes": ((50, 4),)})
    assert build(config).sizes == ((9, 4),)
    config.model = dict(name="crcv")
    config.progressive_sizes = ((50, 4),)
    with pytest.raises(UserError, match="does not accept images of 4 x 4"):
        build(config)
