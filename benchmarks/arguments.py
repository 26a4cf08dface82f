"""Command-line flags that all benchmarks share."""

import argparse
from pathlib import Path

from benchmarks import records
from benchmarks.jobs import MODELS, Job, missing
from flaxcifar import console
from flaxcifar.errors import UserError


def words(text: str) -> list[str]:
    """Returns a comma-separated list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def parser(name: str, doc: str, *, models: str, frameworks: str) -> argparse.ArgumentParser:
    """Returns a parser of the common flags.

    Args:
      name: the benchmark.
      doc: its description.
      models: default of --models.
      frameworks: default of --frameworks.
    """
    result = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    known = ", ".join(MODELS)
    add("--models", type=words, help=f"from {known}; default {models}, with --quick crcv")
    quick = ",".join(words(frameworks)[:2])
    add("--frameworks", type=words, help=f"default {frameworks}, with --quick {quick}")
    result.set_defaults(usual=(words(models), words(frameworks)))
    add("--batch", type=int, help="default 128, with --quick 32")
    add(
        "--threads",
        type=int,
        default=records.available_cpus(),
        help="per framework; default %(default)s",
    )
    add("--rounds", type=int, help="turns per framework; default 6, with --quick 2")
    add("--dataset", default="synthetic", help="as config.data.name")
    add("--data-dir", default="", help="as config.data.dir")
    add("--seconds", type=float, help="per turn; default 5, with --quick 0.5")
    add("--quick", action="store_true", help="check that everything works; not a measurement")
    output = records.RESULTS / f"{name}.jsonl"
    add(
        "--output",
        type=Path,
        default=output,
        help="file to append JSON lines to; default %(default)s",
    )
    return result


def parse(flags: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Returns the flags with defaults. Frameworks that are not installed are reported and left out.

    Raises:
      UserError: a flag is invalid, or no framework is installed.
    """
    result = flags.parse_args(argv)
    models, frameworks = result.usual
    result.models = result.models or (["crcv"] if result.quick else models)
    result.frameworks = result.frameworks or (frameworks[:2] if result.quick else frameworks)
    # Child processes have another working directory.
    result.data_dir = result.data_dir and str(Path(result.data_dir).resolve())
    result.batch = result.batch or (32 if result.quick else 128)
    result.rounds = result.rounds or (2 if result.quick else 6)
    result.seconds = result.seconds or (0.5 if result.quick else 5.0)
    for key in ("batch", "rounds", "threads"):
        if getattr(result, key) < 1:
            raise UserError(f"--{key} must be at least 1, got {getattr(result, key)}")
    for model in result.models:
        if model not in MODELS:
            raise UserError(f"--models: unknown model {model!r} (there are: {', '.join(MODELS)})")
    absent = {framework: missing(framework) for framework in result.frameworks}
    for framework, package in absent.items():
        if package:
            console.say(f"{framework}: skipped, {package} is not installed")
    result.frameworks = [framework for framework in result.frameworks if not absent[framework]]
    if not result.frameworks:
        raise UserError("--frameworks: none is installed: pip install -e '.[benchmarks]'")
    return result


def job(options: argparse.Namespace, model: str, precision: str, **rest: str) -> Job:
    """Returns the job of flaxcifar. Those of other frameworks differ in `framework` only."""
    return Job(
        framework="flaxcifar",
        model=model,
        precision=precision,
        batch=options.batch,
        threads=options.threads,
        dataset=options.dataset,
        data_dir=options.data_dir,
        **rest,
    )
