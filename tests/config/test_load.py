"""Config files and command-line overrides."""

import subprocess
import sys
from pathlib import Path

import pytest

from flaxcifar.config import default_config, load, to_json
from flaxcifar.config.load import shipped
from flaxcifar.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"

START = "from flaxcifar.config import default_config\ndef get_config():\n    c = default_config()\n"


def write(tmp_path, *lines):
    path = tmp_path / "some.py"
    path.write_text(START + "".join(f"    {line}\n" for line in lines) + "    return c\n")
    return path


def error(path, *overrides):
    with pytest.raises(UserError) as caught:
        load(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A config file that changes nothing."""
    return write(tmp_path_factory.mktemp("plain"))


# The file.


def test_a_file_changes_what_it_says_and_nothing_else(tmp_path):
    path = write(
        tmp_path,
        'c.model = dict(name="vgg16", width=3)',
        "c.batch_size = 64",
        'c.schedule.name = "cosine"',
        "c.schedule.warmup_epochs = 5",
        'c.augment = [dict(name="cutout", size=8)]',
        'c.optimizer = dict(name="adam", learning_rate=1e-3)',
    )
    config = load(path)
    assert to_json(config) == to_json(default_config()) | {
        "model": {"name": "vgg16", "width": 3},
        "batch_size": 64,
        "schedule": {"name": "cosine", "warmup_epochs": 5},
        "augment": ({"name": "cutout", "size": 8},),
        "optimizer": {"name": "adam", "learning_rate": 1e-3},
    }
    assert config.model.width == 3 and config.augment[0]["size"] == 8
    assert [p.name for p in tmp_path.iterdir()] == ["some.py"]  # no bytecode


def test_a_replaced_section_keeps_the_defaults_of_the_keys_it_omits(tmp_path):
    config = load(write(tmp_path, 'c.data = dict(name="cifar10", validation_percent=5)'))
    assert (config.data.name, config.data.image_size) == ("cifar10", 32)
    assert config.data.validation_percent == 5.0
    assert isinstance(config.data.validation_percent, float)


def test_a_file_may_return_a_plain_dict(tmp_path):
    path = tmp_path / "d.py"
    path.write_text("def get_config():\n    return {'batch_size': 7}\n")
    assert load(path).batch_size == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, ": no such config file"),
        ("x = 1\n", " must define a function get_config()"),
        ("def get_config():\n    return 3\n", ": get_config() must return a config, got int"),
        ("def get_config():\n    return 1 / 0\n", ":2: ZeroDivisionError: division by zero"),
        ("def get_config(:\n", ": SyntaxError"),
        (START + "    c.learning_rat = 1\n", ":4: AttributeError"),
        (START + "    c.batch_siz = 1\n", 'Did you mean "batch_size"'),
        (START + "    c.data.nam = 'x'\n", 'Did you mean "name"'),
        (START + "    c.batch_size = 'x'\n", "batch_size"),
    ],
)
def test_a_wrong_file_is_one_line_that_starts_with_its_path(tmp_path, text, message):
    path = tmp_path / "some.py"
    if text is not None:
        path.write_text(text)
    assert error(path).startswith(str(path)) and message in error(path)


@pytest.mark.parametrize("name", shipped())
def test_shipped_configs_are_found_by_name_in_any_folder(tmp_path, monkeypatch, name):
    by_path = load(CONFIGS / f"{name}.py")
    monkeypatch.chdir(tmp_path)
    # A folder of the same name does not matter.
    (tmp_path / name).mkdir()
    assert load(name) == by_path


def test_the_shipped_configs_are_those_of_the_repository():
    assert shipped() == sorted(path.stem for path in CONFIGS.iterdir() if path.suffix == ".py")
    assert {"quickstart", "vgg"} < set(shipped())


def test_a_value_with_a_separator_or_py_is_a_path(tmp_path, plain, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("vgg.py").write_text(plain.read_text())
    Path("extensionless").write_text(plain.read_text())
    assert load("vgg.py") == load("./extensionless") == load(plain) != load("vgg")
    assert error("./vgg") == "vgg: no such config file"


def test_an_unknown_name_is_one_line_with_a_suggestion():
    found = error("quikstart")
    assert found.startswith("no config 'quikstart'; did you mean 'quickstart'? (there are: crcv, ")
    assert all(name in found for name in shipped())


def test_a_replaced_section_is_checked(tmp_path):
    path = write(tmp_path, "c.data = dict(nam='x')")
    assert error(path).startswith("data.nam is not a config key; did you mean 'name'? (keys here:")


# Overrides.


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("batch_size=64", 64),
        ("ema_decay=0.5", 0.5),
        ("gradient_clip=1", 1.0),
        ("data.validation_percent=5e0", 5.0),
        ("init_drop_head=true", True),
        ("early_stopping.restore_best=False", False),
        ("data.dir=/a=b/c", "/a=b/c"),
        ("data.dir=12", "12"),
        ("data.dir=", ""),
        ("augment=[{'name': 'cutout', 'size': 8}]", ({"name": "cutout", "size": 8},)),
        ("augment=()", ()),
        ("augment=(dict(name='cutout', size=8),)", ({"name": "cutout", "size": 8},)),
        ("optimizer=dict(name='adam', b1=-0.5)", {"name": "adam", "b1": -0.5}),
        ("model=dict(name='x', inner=dict(a=dict()))", {"name": "x", "inner": {"a": {}}}),
        ("param_groups=[('head/.*', 2), ('.*', 'frozen')]", (("head/.*", 2), (".*", "frozen"))),
        ("model.width=32", 32),
        ("model.size=heavy", "heavy"),
        ("schedule.boundaries_epochs=(60, 120)", (60, 120)),
        ("optimizer.learning_rate=1e-3", 1e-3),
        ("optimizer={'name': 'adam'}", {"name": "adam"}),
        ("l2={'coefficient': 0.5}", {"coefficient": 0.5, "pattern": ".*/kernel"}),
    ],
)
def test_overrides_are_one_argument_or_two(plain, override, value):
    key, _, text = override.partition("=")
    for arguments in ([f"--config.{override}"], [f"--config.{key}", text]):
        result = to_json(load(plain, arguments))
        for part in key.split("."):
            result = result[part]
        assert result == value and type(result) is type(value)


def test_every_default_can_be_given_as_an_override(plain):
    expected = to_json(default_config())

    def leaves(section, prefix):
        for key, value in section.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}.{key}")
            else:
                yield f"{prefix}.{key}={value}"

    assert to_json(load(plain, list(leaves(expected, "--config")))) == expected


def test_the_last_override_wins(plain):
    arguments = ["--config.seed=1", "--config.batch_size", "8", "--config.seed=2"]
    config = load(plain, arguments)
    assert (config.seed, config.batch_size) == (2, 8)


def test_another_name_drops_the_old_keywords_but_not_the_learning_rate(tmp_path):
    path = write(
        tmp_path,
        'c.optimizer = dict(name="sgd", learning_rate=0.3, nesterov=True)',
        'c.model = dict(name="crcv", size="heavy")',
    )
    arguments = ["--config.optimizer.b1=0.8", "--config.optimizer.name=adam"]
    config = to_json(load(path, [*arguments, "--config.model.name=vgg16"]))
    assert config["optimizer"] == {"name": "adam", "learning_rate": 0.3, "b1": 0.8}
    assert config["model"] == {"name": "vgg16"}
    same = to_json(load(path, ["--config.optimizer.name=sgd", "--config.model.name=crcv"]))
    assert same["optimizer"]["nesterov"] is True
    assert same["model"] == {"name": "crcv", "size": "heavy"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.batch_siz=1"], "batch_siz is not a config key; did you mean 'batch_size'?"),
        (["--config.data.nam=x"], "data.nam is not a config key; did you mean 'name'?"),
        (["--config.dat.name=x"], "dat is not a config key; did you mean 'data'?"),
        (["--config.momentum=0.5"], "momentum is not a config key; did you mean optimizer.mom"),
        (["--config.patience=3"], "patience is not a config key; did you mean early_stopping.p"),
        (["--config.batch_size=many"], "batch_size must be an integer, got 'many'"),
        (["--config.batch_size=1.5"], "batch_size must be an integer, got 1.5"),
        (["--config.batch_size=true"], "batch_size must be an integer, got True"),
        (["--config.init_drop_head=1"], "init_drop_head must be true or false, got 1"),
        (["--config.ema_decay=x"], "ema_decay must be a number, got 'x'"),
        (["--config.augment=cutout"], "augment must be a tuple or list, got 'cutout'"),
        (["--config.augment=(dict(name=open('x')),)"], "augment must be a tuple or list, got"),
        (["--config.augment=dict(**{'name': 'x'})"], "augment must be a tuple or list, got"),
        (["--config.optimizer=dict([('name', 'adam')])"], "optimizer must be a section"),
        (["--config.optimizer=list(name='adam')"], "optimizer must be a section"),
        (["--config.batch_size.x=1"], "batch_size has no keys of its own: set --config.batch_si"),
        (["--config.optimizer.learning_rate=fast"], "optimizer.learning_rate must be a number, g"),
        (["--config.batch_size"], "--config.batch_size needs a value"),
        (["--config.batch_size", "--config.seed=1"], "--config.batch_size needs a value"),
        (["--batch_size=1"], "unknown argument '--batch_size=1'"),
        (["--config..seed=1"], "unknown argument '--config..seed=1'"),
        (["seed"], "unknown argument 'seed'"),
    ],
)
def test_wrong_overrides(plain, arguments, message):
    assert error(plain, *arguments).startswith(message)


def test_neither_jax_nor_tensorflow_is_imported(tmp_path, plain):
    bad = write(tmp_path, "c.data = dict(nam=1)")
    code = (
        "import sys\n"
        "from flaxcifar import config, errors\n"
        "config.load(sys.argv[1], ['--config.seed=1'])\n"
        "try:\n"
        "    config.load(sys.argv[2])\n"
        "except errors.UserError:\n"
        "    heavy = {'jax', 'jaxlib', 'flax', 'optax', 'orbax', 'tensorflow', 'keras'}\n"
        "    print(sorted(heavy & set(sys.modules)))\n"
    )
    run = [sys.executable, "-c", code, str(plain), str(bad)]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "[]\n"
