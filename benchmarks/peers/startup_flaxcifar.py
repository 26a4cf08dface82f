"""One run of flaxcifar for `benchmarks.startup`: a request on stdin, JSON on stdout."""

import importlib
import json
import sys
import tempfile
import time


def main() -> None:
    """Does what flaxcifar.main does, and notes when the first step was done."""
    request = json.load(sys.stdin)

    from benchmarks.jobs import MODELS, ROOT, Job, recipe
    from benchmarks.worker import use_threads

    job = Job(**request["job"])
    use_threads(job.threads)
    settings = recipe(job, f"data.cache_dir={request['cache_dir']}", "total_epochs=1")
    settings.total_steps = request["steps"]

    import jax

    from benchmarks.peers.flaxcifar_peer import PACKAGES
    from flaxcifar import api, config, ops
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
    answer = {moment: when - request["began"] for moment, when in moments.items()}
    answer |= {
        "steps": int(state.step),
        "device": jax.devices()[0].device_kind,
        "convolution": ops.resolve(),
        "versions": {name: importlib.import_module(name).__version__ for name in PACKAGES},
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
