"""Heavy imports stay where they are needed."""

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent / "flaxcifar"


def modules():
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        yield name.removesuffix(".__init__"), ast.parse(path.read_text())


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_only_some_modules_know_some_libraries():
    allowed = {
        "orbax": {"flaxcifar.workdir.checkpoints"},
        "tensorflow": {"flaxcifar.data.tensorflow"},
        "tensorflow_datasets": {"flaxcifar.data.tensorflow", "flaxcifar.data.sources.tfds"},
        "keras": {"flaxcifar.keras_weights.compare", "flaxcifar.keras_weights.networks"},
        "h5py": {"flaxcifar.keras_weights.files"},
        "rich": {"flaxcifar.console", "flaxcifar.models.summary"},
    }
    for name, tree in modules():
        for target in imported(tree):
            library = (target or "").split(".")[0]
            if library in allowed:
                assert name in allowed[library], f"{name} imports {library}"


def test_the_package_and_its_commands_import_without_tensorflow():
    commands = (
        "import flaxcifar, flaxcifar.training.loop, flaxcifar.training.evaluation, flaxcifar.main"
    )
    check = "assert not {'tensorflow', 'tensorflow_datasets', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys; {commands}; {check}"], check=True)


def test_importing_flaxcifar_starts_nothing():
    code = "import sys, flaxcifar; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
