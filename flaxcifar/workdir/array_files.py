"""Writes and reads the arrays of a checkpoint with orbax, which no other module imports.

The folder of a checkpoint gets `state/`, a few packed arrays in orbax's format, and `layout.json`,
which says how to unpack them.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp

from flaxcifar.devices import parallel
from flaxcifar.errors import UserError
from flaxcifar.workdir.packing import PART, Layout, unpack

_STATE, _LAYOUT = "state", "layout.json"


class ArrayFiles:
    """Holds orbax's checkpointer, which owns threads: `close` it."""

    def __init__(self) -> None:
        parallel.all_devices()  # raises UserError without any
        # At level INFO orbax logs every file. Its warnings stay.
        absl.logging.set_verbosity(absl.logging.WARNING)
        # One process reads and writes: orbax must not wait for others.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(), active_processes={jax.process_index()}
        )
        # Nobody changes the arrays any more, so orbax need not copy them first.
        uncopied = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
        handlers = ocp.type_handlers.create_type_handler_registry(
            (np.ndarray, uncopied),
            (jax.Array, ocp.type_handlers.ArrayHandler()),  # unused, but orbax warns without it
        )
        # Compression saves 8 % on trained float32 parameters and makes a save far slower.
        self._checkpointer = ocp.Checkpointer(
            ocp.PyTreeCheckpointHandler(
                use_compression=False, multiprocessing_options=alone, type_handler_registry=handlers
            ),
            multiprocessing_options=alone,
        )

    def write(self, folder: Path, packed: Mapping[str, np.ndarray], layout: Layout) -> None:
        """Writes arrays that `packing.pack` returned."""
        # One file a part, so that several are hashed at once.
        args = ocp.args.PyTreeSave(packed, ocdbt_target_data_file_size=PART)
        self._checkpointer.save(folder / _STATE, args=args)
        (folder / _LAYOUT).write_text(json.dumps(layout))

    def read(self, folder: Path) -> dict[str, np.ndarray]:
        """Returns the unpacked arrays by path; raises UserError if orbax cannot read them."""
        try:
            packed = self._checkpointer.restore(folder / _STATE, args=ocp.args.PyTreeRestore())
        except Exception as error:  # the files are intact, so orbax must have changed
            words = " ".join(str(error).split())[:300]
            raise UserError(f"orbax {ocp.__version__} cannot read {folder} ({words})") from error
        return dict(unpack(packed, read_layout(folder)))

    def close(self) -> None:
        """Frees the threads."""
        self._checkpointer.close()


def read_layout(folder: Path) -> Layout:
    """Returns the layout of a checkpoint; raises UserError for a format without one."""
    try:
        return json.loads((folder / _LAYOUT).read_text())
    except FileNotFoundError:
        raise UserError(
            f"{folder} was written by an earlier version of flaxcifar that this version cannot read"
        ) from None
