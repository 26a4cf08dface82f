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
    """Returns {key: words} of the differences between a run's saved config and the new one.

    Args:
      saved: the config in the workdir, None for a new run.
      config: the new config.
      workdir: named in messages.
      allowed: keys that may differ although resuming would change the results. They need not
        differ, so the command that changed a run also resumes it.

    Raises:
      UserError: another key differs that must not, or `allowed` names no key.
    """
    only_weights = (workdir / names.BEST).is_dir() and not (workdir / names.LATEST).is_dir()
    if saved is None and only_weights:
        raise UserError(
            f"{workdir} holds weights but no run: start from them with "
            f"--config.init_from={workdir} and another --workdir; nothing was changed"
        )
    changes = config_changes(saved or config, config)
    known = flatten(to_json(config))
    for key in allowed:
        if key not in known and key not in changes:
            raise UserError(f"--allow_change: there is no key {key!r}{suggestion(key, [*known])}")
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
