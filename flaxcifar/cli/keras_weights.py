"""Converts weights from and to Keras files.

    flaxcifar keras_weights read cifar100vgg.h5 --workdir runs/vgg --config vgg
    flaxcifar keras_weights write vgg.weights.h5 --workdir runs/first

read makes a workdir, for evaluate, predict and init_from, from a Keras file.
write makes a Keras file of a run's best checkpoint, which returns logits. They
are compared with Keras' if that is installed.
"""

import math
from pathlib import Path

from flaxcifar import config
from flaxcifar.cli.command import Parser
from flaxcifar.data.normalization import Normalization
from flaxcifar.errors import UserError
from flaxcifar.keras_weights import convert


def _numbers(text: str) -> tuple[float, ...]:
    """Returns one number or one per channel; raises ValueError for anything else."""
    numbers = tuple(map(float, text.split(",")))
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise ValueError(text)
    return numbers


def _normalization(mean: str | None, std: str | None) -> Normalization | None:
    if mean is None and std is None:
        return None
    try:
        normalization = Normalization(_numbers(mean or ""), _numbers(std or ""))
    except ValueError:
        normalization = None
    if normalization is None or min(normalization.std) <= 0:
        raise UserError(
            f"--mean {mean} --std {std}: give both, each as one number or three separated by "
            "commas, on the 0 to 255 scale; standard deviations must be above 0"
        )
    return normalization


def _names(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read --class_names {path} ({error})") from None
    return tuple(line.strip() for line in lines if line.strip())


def parser() -> Parser:
    """Returns the flags; unknown arguments are values of config keys."""
    result = Parser("keras_weights", __doc__, "read|write FILE --workdir DIR [FLAGS]")
    add = result.add_argument
    add("direction", choices=("read", "write"))
    add("file", type=Path, metavar="FILE", help=".weights.h5, .keras or .h5")
    add("--workdir", required=True, metavar="DIR", help="read: a new folder; write: a run")
    result.add_config("read: model and data; also --config.KEY=VALUE")
    add("--mean", help="read: of the pixels; default: the data's")
    add("--std", help="read: one number or three: 1,2,3")
    add("--class_names", type=Path, metavar="FILE", help="read: one name per line")
    return result


def main(argv: list[str]) -> None:
    """Reads or writes a Keras file."""
    flags, overrides = parser().parse_known_args(argv)
    if flags.direction == "read":
        if flags.config is None:
            raise UserError("read needs --config: a config with the model of the file")
        settings = config.load(flags.config, overrides)
        given = _normalization(flags.mean, flags.std), _names(flags.class_names)
        convert.read(flags.file, Path(flags.workdir), settings, *given)
        return
    unused = ("config", "mean", "std", "class_names")
    extra = [f"--{name}" for name in unused if getattr(flags, name) is not None] + overrides
    if extra:
        raise UserError(f"write takes no {extra[0]}: the workdir has it")
    convert.write(flags.file, flags.workdir)
