"""Adds the shipped configs to the package; pyproject.toml has everything else."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["flaxcifar*"]), "flaxcifar.configs"],
    package_dir={"flaxcifar.configs": "configs"},
)
