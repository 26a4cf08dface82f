import sys

import pytest

from flaxcifar.data.tensorflow import import_tensorflow
from flaxcifar.errors import UserError


def test_tensorflow_sees_no_accelerator():
    tf = import_tensorflow()
    assert import_tensorflow() is tf
    assert {device.device_type for device in tf.config.get_visible_devices()} == {"CPU"}


def test_accelerators_are_hidden(monkeypatch):
    tf = import_tensorflow()
    hidden = []
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda devices, kind: hidden.append((devices, kind))
    )
    import_tensorflow()
    assert hidden == [([], "GPU"), ([], "TPU")]


def test_a_broken_installation_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match="TensorFlow cannot be imported.*resident.*synthetic"):
        import_tensorflow()
