"""One run of flaxcifar for `benchmarks.startup`. Reads a request from stdin, prints JSON."""

import tempfile
import time
from typing import Any

from benchmarks.jobs import MODELS, ROOT, Job, recipe
from benchmarks.worker import answer, use_threads


def run(job: dict[str, Any], steps: int, cache_dir: str, began: float) -> dict[str, Any]:
    """Trains as flaxcifar.main does; returns the seconds from `began` to each moment."""
    job = Job(**job)
    use_threads(job.threads)
    settings = recipe(job, f"data.cache_dir={cache_dir}", "total_epochs=1")
    settings.total_steps = steps

    import jax

    from benchmarks.peers.flaxcifar_peer import described
    from flaxcifar import api, config
    from flaxcifar.training import loop

    moments = {"imported": time.time()}
    settings.augment = config.load(ROOT / "configs" / MODELS[job.model][0]).augment
    make_train_fn = loop.make_train_fn

    def timed(experiment):
        train_fn = make_train_fn(experiment)

        def run(*arguments):
            result = train_fn(*arguments)
            if "first_step" not in moments:
                jax.block_until_ready(result)
                moments["first_step"] = time.time()
            return result

        return run

    loop.make_train_fn = timed
    with tempfile.TemporaryDirectory() as workdir:
        state = api.train(settings, workdir)
    seconds = {moment: when - began for moment, when in moments.items()}
    return seconds | {"steps": int(state.step)} | described()


if __name__ == "__main__":
    answer(run)
