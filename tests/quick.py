"""Compilation, initialisation and runs for tests, several times as fast as the real ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiny

# Without LLVM's optimisations programs compile three times as fast and run slower. Convolutions and
# matrix products keep their speed, because XLA calls a library for them.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
# Without the host pipeline, TensorFlow is not imported.
_CHANGES = {"model": dict(name="one_stage"), "augment": (), "data.pipeline": "resident"}


def config(**changes):
    """Returns `tiny.config` with half of the network and no augmentation."""
    return tiny.config(**_CHANGES | changes)


def arrays(network, seed=0):
    """Returns parameters and batch statistics of a network, drawn without compilation."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        if path.endswith("kernel"):
            fans = np.prod(shape[:-1]) + np.prod(shape[:-2]) * shape[-1]
            bound = (6 / fans) ** 0.5  # Glorot uniform
            return jnp.asarray(rng.uniform(-bound, bound, shape), jnp.float32)
        return jnp.asarray(np.full(shape, path.endswith(("scale", "var")), np.float32))

    kinds = network.param_shapes, network.stat_shapes
    return tuple({path: draw(path, shape) for path, shape in kind} for kind in kinds)
