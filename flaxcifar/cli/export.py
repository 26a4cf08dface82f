"""Exports a trained model for use without flaxcifar.

    flaxcifar export --workdir runs/first --format stablehlo onnx

Writes to DIR/export, or --output: model.safetensors holds the weights;
model.stablehlo, for jax.export.deserialize, and model.onnx map uint8 images
[N, H, W, 3], of any N, to float32 logits, preprocessing included. Each file is
checked against the model itself.
"""

import importlib.util
from pathlib import Path

from flaxcifar import console
from flaxcifar.cli.command import Parser
from flaxcifar.errors import UserError
from flaxcifar.inference.export import FORMATS, export, make_checks
from flaxcifar.inference.trained import Trained


def parser() -> Parser:
    """Returns the flags."""
    result = Parser("export", __doc__, "--workdir DIR [FLAGS]")
    add = result.add_argument
    add("--workdir", required=True, metavar="DIR", help="the workdir of a run")
    words, every = f"{', '.join(FORMATS)}; default: all", list(FORMATS)
    add("--format", nargs="+", choices=FORMATS, default=every, metavar="FORMAT", help=words)
    add("--output", type=Path, metavar="DIR", help="default: export/ in the workdir")
    add("--strict", action="store_true", help="fail if the newest checkpoint is damaged")
    return result


def main(argv: list[str]) -> None:
    """Writes the files and prints how far their logits are from the model's."""
    flags = parser().parse_args(argv)
    for name in flags.format:
        for package in FORMATS[name][1]:
            if importlib.util.find_spec(package) is None:
                raise UserError(f"--format {name} needs {package}: pip install -e '.[export]'")
    trained = Trained.from_workdir(flags.workdir, strict=flags.strict)
    folder = flags.output or Path(flags.workdir) / "export"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: cannot create {folder} ({error.strerror})") from error
    checks = make_checks(trained)
    for name in flags.format:
        path = folder / f"model.{name}"
        with console.working(f"exporting to {name}"):
            worst = export(trained, name, path, checks)
        console.say(
            f"{path} ({path.stat().st_size / 1e6:.1f} MB): logits within {worst:.1e} of the model's"
        )
