"""Imports point one way, and heavy ones stay where they are needed."""

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent / "flaxcifar"

# Each module may import modules of its own layer's predecessors only; leaves share the first.
LAYERS = (
    "leaves step experiment dispatch evaluate predict estimate abstract out_of_memory aot export "
    "keras_weights ledger run report outcome train sweep doctor dry_run main completion"
).split()


def modules():
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        yield name.removesuffix(".__init__"), ast.parse(path.read_text())


def part(name):
    return name.split(".")[1] if "." in name else ""


def layer(name):
    return LAYERS.index(part(name)) if part(name) in LAYERS else 0


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_point_one_way():
    graph = {name: set(imported(tree)) for name, tree in modules()}
    for name, targets in graph.items():
        for target in targets & graph.keys():
            if part(target) != part(name) and layer(target):
                assert layer(target) < layer(name), f"{name} imports {target}"


def test_only_some_modules_know_some_libraries():
    allowed = {
        "orbax": {"flaxcifar.checkpoint"},
        "tensorflow": {"flaxcifar.data.tensorflow"},
        "tensorflow_datasets": {"flaxcifar.data.tensorflow", "flaxcifar.data.sources.tfds"},
        "keras": {"flaxcifar.keras_compare", "flaxcifar.keras_networks"},
        "h5py": {"flaxcifar.keras_files"},
        "rich": {"flaxcifar.console", "flaxcifar.summary"},
    }
    for name, tree in modules():
        for target in imported(tree):
            library = (target or "").split(".")[0]
            if library in allowed:
                assert name in allowed[library], f"{name} imports {library}"


def test_the_package_and_its_commands_import_without_tensorflow():
    commands = "import flaxcifar, flaxcifar.train, flaxcifar.evaluate, flaxcifar.main"
    check = "assert not {'tensorflow', 'tensorflow_datasets', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys; {commands}; {check}"], check=True)


def test_importing_flaxcifar_starts_nothing():
    code = "import sys, flaxcifar; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
