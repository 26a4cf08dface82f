"""Heavy imports stay where they are needed; `lint-imports` holds the layers."""

import subprocess
import sys


def run(code):
    subprocess.run([sys.executable, "-c", f"import sys; {code}"], check=True)


def test_the_package_and_its_commands_import_without_tensorflow():
    modules = "flaxcifar.main, flaxcifar.training.loop, flaxcifar.cli.evaluate"
    heavy = {"tensorflow", "tensorflow_datasets", "matplotlib"}
    run(f"import {modules}; assert not {heavy} & set(sys.modules)")


def test_importing_flaxcifar_starts_nothing():
    run("import flaxcifar; assert 'jax' not in sys.modules")
