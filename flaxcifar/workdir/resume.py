"""The rules for resuming a run with a changed config."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from flaxcifar.config import to_json
from flaxcifar.config.changes import config_changes, flatten
from flaxcifar.config.knobs import KNOBS
from flaxcifar.errors import UserError, suggestion
from flaxcifar.workdir import names


def check_resumable(
    saved: Mapping[str, Any] | None, config: Any, workdir: Path, allowed: Collection[str] = ()
) -> dict[str, str]:
    """Returns {key: words} of what differs between the saved config of a run, if any, and this.

    Raises UserError where a key differs that is neither in `allowed` nor one that may change. What
    is allowed need not differ: the same command resumes a run that it has changed.
    """
    only_weights = (workdir / names.BEST).is_dir() and not (workdir / names.LATEST).is_dir()
    if saved is None and only_weights:
        raise UserError(
            f"{workdir} holds weights and no run: start from them with "
            f"--config.init_from={workdir} and another --workdir; nothing was changed"
        )
    changes = config_changes(saved or config, config)
    known = flatten(to_json(config))
    for key in allowed:
        if key not in known and key not in changes:
            raise UserError(f"--allow_change names no key: {key!r}{suggestion(key, [*known])}")
    refused = [key for key in changes if not _may_change(key) and key not in allowed]
    words = {key: f"{key} was {old!r}, now {new!r}" for key, (old, new) in changes.items()}
    if refused:
        raise UserError(
            f"{workdir} holds a run with another config "
            f"({'; '.join(words[key] for key in refused)}): resume it with its own config, choose "
            f"another --workdir, or add --allow_change={','.join(refused)}; nothing was changed"
        )
    return words


def _may_change(key: str) -> bool:
    return key in KNOBS and KNOBS[key].resumable
