"""How much of an optimizer's state another freeze plan keeps."""

import pytest
import tiny

from flaxcifar.errors import UserError
from flaxcifar.training import loop
from flaxcifar.training.loop import train_and_evaluate
from flaxcifar.workdir import migration
from flaxcifar.workdir.checkpoints import Checkpoints

OLD = "state.opt_state.inner_states.trained.inner_state.inner_states.1.0.inner_state.0"
NEW = "state.opt_state.inner_states.trained.inner_state.inner_states.0.1.inner_state.0"


def test_a_moment_follows_its_parameter_into_another_group():
    saved = {
        f"{OLD}.trace.a/kernel": "f[3]",
        f"{OLD}.count": "i[]",
        f"{OLD}.trace.b/kernel": "f[2]",
    }
    wanted = {f"{NEW}.trace.a/kernel": "f[3]", f"{NEW}.count": "i[]", f"{NEW}.trace.c/kernel": "f"}
    found = migration.sources(saved, wanted)
    assert found == {
        f"{NEW}.trace.a/kernel": f"{OLD}.trace.a/kernel",
        f"{NEW}.count": f"{OLD}.count",
    }
    words = migration.summary(saved, wanted, found)
    assert "kept for 1 parameters, dropped for 1 (b/kernel) and reset for 1 (c/kernel)" in words


def test_another_shape_is_not_kept():
    assert not migration.sources({f"{OLD}.trace.a/k": "f[3]"}, {f"{NEW}.trace.a/k": "f[4]"})


def test_a_moving_average_starts_from_its_parameter():
    saved, wanted = {"state.params.a/k": "f[3]"}, {"state.ema.a/k": "f[3]"}
    assert migration.sources(saved, wanted) == {"state.ema.a/k": "state.params.a/k"}


def test_a_run_resumes_with_another_freeze_plan(tmp_path, monkeypatch, capsys):
    common = {"optimizer": dict(name="adam", learning_rate=0.01), "ema_decay": 0.9}
    common |= {"augment": (), "data.pipeline": "resident", "ops.convolution": "xla"}
    before = {"param_groups": (("head", "frozen"),), "total_epochs": 1}
    train_and_evaluate(tiny.config(**common | before), tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        old = checkpoints.restore_latest(None)[0]
    plan = (("stage1", "frozen"), ("stage2", 0.1))
    config = tiny.config(**common, param_groups=plan, total_steps=10)
    with pytest.raises(UserError, match="--allow_change=param_groups"):
        train_and_evaluate(config, tmp_path)
    with monkeypatch.context() as patch:  # killed before the first save under the new plan
        patch.setattr(loop, "train", None)
        with pytest.raises(TypeError):
            train_and_evaluate(config, tmp_path, allow_change=["param_groups"])
    state = train_and_evaluate(config, tmp_path, allow_change=["param_groups"])
    said = capsys.readouterr().out
    assert "the freeze plan has changed" in said and "stage1/conv/kernel" in said
    assert int(state.step) == 10 and set(state.ema) == {
        p for p in state.params if "stage1" not in p
    }
    assert (state.params["stage1/conv/kernel"] == old["state.params.stage1/conv/kernel"]).all()
    assert (state.params["stage2/conv/kernel"] != old["state.params.stage2/conv/kernel"]).any()
