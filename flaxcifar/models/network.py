"""Models as pure functions of parameters and batch statistics, which are flat dicts of arrays."""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxcifar import ops
from flaxcifar.errors import UserError
from flaxcifar.models import prng
from flaxcifar.models.layers import dropout_seeds

Arrays = dict[str, jax.Array]

_REMEDY = (
    "write Linen modules, also those in nnx.bridge.ToNNX, as nnx modules: Linen chooses between "
    "training and evaluation, and the dropout key, in every call"
)


@dataclasses.dataclass(frozen=True)
class Network:
    """A model without its arrays. It is hashable, so it can be a static argument of `jax.jit`.

    Parameters and batch statistics are flat dicts from paths, such as "stage1/conv1/kernel" and
    "stage1/norm1/mean", to float32 arrays.

    Attributes:
      graphdef: the structure of the model.
      param_shapes: (path, shape) pairs of the parameters.
      stat_shapes: (path, shape) pairs of the batch statistics.
      convolution: the convolution backend, one of `ops.BACKENDS`.
    """

    graphdef: nnx.GraphDef
    param_shapes: tuple[tuple[str, tuple[int, ...]], ...]
    stat_shapes: tuple[tuple[str, tuple[int, ...]], ...]
    convolution: str

    @classmethod
    def create(
        cls, build: Callable[[nnx.Rngs], nnx.Module], convolution: str = "xla"
    ) -> tuple["Network", Callable[[int], tuple[Arrays, Arrays]]]:
        """Returns the network of a model and its initialiser.

        Args:
          build: builds the model.
          convolution: the convolution backend, one of `ops.BACKENDS`.

        Returns:
          The network, and a function from a seed to (parameters, batch statistics).

        Raises:
          UserError: the model is not an `nnx.Module` of parameters and batch statistics only.
        """
        graphdef, *arrays = _split(nnx.eval_shape(lambda: _of_nnx(build(nnx.Rngs(0)))))
        params, stats = (tuple((path, x.shape) for path, x in kind.items()) for kind in arrays)
        # Uncompiled, layer by layer, initialisation takes several times as long.
        init = jax.jit(lambda seed: _split(build(nnx.Rngs(prng.key(seed))))[1:])
        return cls(graphdef, params, stats, convolution), lambda seed: init(np.uint32(seed))

    def fitted(
        self, params: Arrays, batch_stats: Arrays, sample: Callable[[], np.ndarray]
    ) -> Arrays:
        """Returns the parameters after data-dependent initialisation, `fit_to`, if there is any.

        Args:
          params: the parameters.
          batch_stats: the batch statistics.
          sample: returns normalised training images, float32 [N, H, W, C].
        """
        model = self.module(params, batch_stats)
        if not hasattr(model, "fit_to"):
            return params
        model.fit_to(sample())
        return _split(model)[1]

    def abstract(self) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, jax.ShapeDtypeStruct]]:
        """Returns the shapes and dtypes of the parameters and of the batch statistics."""

        def structs(shapes):
            return {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes}

        return structs(self.param_shapes), structs(self.stat_shapes)

    def module(self, params: Arrays, batch_stats: Arrays) -> nnx.Module:
        """Returns the model with these arrays, which may also be tracers or ShapeDtypeStructs."""
        return nnx.merge(self.graphdef, _nested(params), _nested(batch_stats), copy=True)

    def apply(
        self,
        params: Arrays,
        batch_stats: Arrays,
        images: jax.Array,
        seeds: jax.Array | None,
        *,
        train: bool,
        frozen: Collection[str] = frozenset(),
    ) -> tuple[jax.Array, Arrays]:
        """Returns the logits, float32 [B, classes], and the updated batch statistics.

        Args:
          params: the parameters.
          batch_stats: the batch statistics.
          images: normalised images, float [B, H, W, C].
          seeds: the dropout seed of each example, uint32 [B]; unused in evaluation.
          train: normalise by the batch, update the running averages and apply dropout.
          frozen: paths of frozen parameters. A module whose parameters are all frozen stays in
            evaluation mode: it uses and keeps its running averages, and its dropout is off.
        """
        model = self.module(params, batch_stats)
        (model.train if train else model.eval)()
        for _, block in frozen_modules(model, frozen):
            block.eval()
        with ops.using(self.convolution), dropout_seeds(seeds):
            logits = model(images)
        wide = jnp.promote_types(logits.dtype, jnp.float32)
        return logits.astype(wide), _split(model)[2]

    def features(self, params: Arrays, batch_stats: Arrays, images: jax.Array) -> jax.Array:
        """Returns the input of the layer `head` in evaluation, float32 [B, ...].

        Args:
          images: normalised images, float [B, H, W, C].

        Raises:
          UserError: the model has no layer of this name.
        """
        model: Any = self.module(params, batch_stats)
        model.eval()
        seen: list[jax.Array] = []
        head = getattr(model, "head", None)
        if not isinstance(head, nnx.Module):
            raise UserError("features are the input of the layer `head`, and the model has none")

        def recorded(x: jax.Array) -> jax.Array:
            seen.append(x)
            return head(x)

        model.head = recorded
        with ops.using(self.convolution):
            model(images)
        return seen[0].astype(jnp.float32)


def frozen_modules(model: nnx.Module, frozen: Collection[str]) -> Iterator[tuple[str, nnx.Module]]:
    """Yields (path, module) of all modules whose parameters, at least one, are all in `frozen`."""
    paths = list(_split(model)[1])
    for parts, module in nnx.iter_modules(model):
        prefix = "".join(f"{part}/" for part in parts)
        inside = [path for path in paths if path.startswith(prefix)]
        if inside and all(path in frozen for path in inside):
            yield prefix.removesuffix("/"), module


def _of_nnx(model: nnx.Module) -> nnx.Module:
    if not isinstance(model, nnx.Module):
        kind = type(model)
        raise UserError(
            f"a model must be an nnx.Module, got {kind.__module__}.{kind.__name__}: {_REMEDY}"
        )
    return model


def _split(model: nnx.Module) -> tuple[nnx.GraphDef, Arrays, Arrays]:
    parts: Any = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    graphdef, params, batch_stats, rest = parts
    for path, variable in nnx.to_flat_state(rest):
        raise UserError(
            "a model may hold nnx.Param and nnx.BatchStat only, but "
            f"{'/'.join(map(str, path))} is {type(variable).__name__}: {_REMEDY}"
        )
    return graphdef, _flat(params), _flat(batch_stats)


def _flat(state: nnx.State) -> Arrays:
    return {
        "/".join(map(str, path)): variable.get_value()
        for path, variable in nnx.to_flat_state(state)
    }


def _nested(arrays: Arrays) -> nnx.State:
    flat: dict[Any, Any] = {tuple(path.split("/")): array for path, array in arrays.items()}
    return nnx.from_flat_state(flat)
