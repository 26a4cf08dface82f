"""Exports a trained model for use without flaxcifar.

    flaxcifar export --workdir runs/first --format stablehlo onnx

Writes to DIR/export, or --output: model.safetensors holds the weights;
model.stablehlo, for jax.export.deserialize, and model.onnx map uint8 images
[N, H, W, 3], of any N, to float32 logits, preprocessing included. Each file is
checked against the model itself.
"""

from pathlib import Path

from flaxcifar import console
from flaxcifar.cli.command import Parser
from flaxcifar.inference.export import FORMATS, check_formats, export_files
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
    check_formats(flags.format)
    trained = Trained.from_workdir(flags.workdir, strict=flags.strict)
    folder = flags.output or Path(flags.workdir) / "export"
    for _, path, worst in export_files(trained, folder, flags.format):
        size = path.stat().st_size / 1e6
        console.say(f"{path} ({size:.1f} MB): logits within {worst:.1e} of the model's")
