"""flaxcifar's networks in PyTorch, which take weights by flaxcifar's paths."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

# From flaxcifar's names of weights to PyTorch's.
WEIGHTS = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def build(spec: Mapping[str, Any], image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Returns the model of a `network_spec`."""
    keywords = {key: value for key, value in spec.items() if key != "name"}
    networks = {"vgg16": vgg16, "resnet": resnet, "crcv": crcv, "speednet": SpeedNet}
    return networks[spec["name"]](image_shape, classes, **keywords)


def _conv(before: int, features: int) -> nn.Conv2d:
    return nn.Conv2d(before, features, 3, padding=1)


def _norm(features: int, kind: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    return kind(features, eps=1e-3, momentum=0.01)


class Flatten(nn.Module):
    """Flattens in the order of NHWC."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


class Mean(nn.Module):
    """Global average pooling."""

    def forward(self, x):
        return x.mean((2, 3))


def vgg16(
    image_shape: tuple[int, int, int], classes: int, *, width: int = 64, dropout: float = 1.0
) -> nn.Module:
    """A VGG16 with BatchNorm and dropout (cifar-vgg)."""
    height, breadth, before = image_shape
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    for stage, depth in enumerate((2, 2, 3, 3, 3), 1):
        features, parts = min(2 ** (stage - 1), 8) * width, OrderedDict()
        for n in range(1, depth + 1):
            parts[f"conv{n}"] = _conv(before, features)
            parts[f"relu{n}"] = nn.ReLU(inplace=True)
            parts[f"norm{n}"] = _norm(features)
            rate = (0.3 if stage == 1 else 0.4) if n < depth else 0.0
            if rate * dropout:
                parts[f"dropout{n}"] = nn.Dropout(rate * dropout)
            before = features
        parts["pool"] = nn.MaxPool2d(2)
        stages[f"stage{stage}"] = nn.Sequential(parts)
    dense = OrderedDict(
        linear=nn.Linear((height // 32) * (breadth // 32) * before, 8 * width),
        relu=nn.ReLU(inplace=True),
        norm=_norm(8 * width, nn.BatchNorm1d),
        dropout=nn.Dropout(0.5 * dropout),
    )
    return nn.Sequential(
        OrderedDict(
            **stages,
            dropout=nn.Dropout(0.5 * dropout),
            flatten=Flatten(),
            dense=nn.Sequential(dense),
            head=nn.Linear(8 * width, classes),
        )
    )


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding for even maps: only at the end if strided."""

    def forward(self, x):
        if self.kernel_size == (3, 3) and self.stride == (2, 2):
            x = F.pad(x, (0, 1, 0, 1))
        return super().forward(x)


class Block(nn.Module):
    """Two convolutions, and a shortcut with a convolution."""

    def __init__(self, before: int, features: int, stride: int):
        super().__init__()
        self.conv1 = SameConv(before, features, 3, stride, padding=0 if stride > 1 else 1)
        self.norm1 = _norm(features)
        self.conv2 = _conv(features, features)
        self.norm2 = _norm(features)
        self.shortcut = nn.Conv2d(before, features, 1, stride)
        self.shortcut_norm = _norm(features)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut_norm(self.shortcut(x)), inplace=True)


def resnet(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    widths: Sequence[int] = (128, 256, 512, 1024),
    dropout: float = 0.5,
) -> nn.Module:
    """A ResNet with convolutions in all shortcuts."""
    before = widths[0]
    stem = OrderedDict(
        conv=_conv(image_shape[-1], before),
        norm=_norm(before),
        relu=nn.ReLU(inplace=True),
        dropout=nn.Dropout(dropout),
    )
    parts = OrderedDict(stem=nn.Sequential(stem))
    for stage, width in enumerate(widths, 1):
        first = Block(before, width, 1 if stage == 1 else 2)
        blocks = OrderedDict(block1=first, block2=Block(width, width, 1))
        parts[f"stage{stage}"] = nn.Sequential(blocks)
        before = width
    return nn.Sequential(OrderedDict(**parts, mean=Mean(), head=nn.Linear(before, classes)))


def crcv(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    stages: Sequence[Sequence[int]],
    dropout: float = 0.1,
) -> nn.Module:
    """The plain CNN."""
    before, parts = image_shape[-1], OrderedDict()
    for stage, widths in enumerate(stages, 1):
        layers = OrderedDict()
        for n, features in enumerate(widths, 1):
            layers[f"conv{n}"] = _conv(before, features)
            if n == len(widths) and stage < len(stages):
                layers[f"pool{n}"] = nn.MaxPool2d(2)
            layers[f"norm{n}"] = _norm(features)
            layers[f"relu{n}"] = nn.ReLU(inplace=True)
            before = features
        if stage > 1 and dropout:
            layers["dropout"] = nn.Dropout(dropout)
        parts[f"stage{stage}"] = nn.Sequential(layers)
    return nn.Sequential(OrderedDict(**parts, mean=Mean(), head=nn.Linear(before, classes)))


class SpeedStage(nn.Module):
    """Convolutions, each with BatchNorm and activation. A pool follows the first one."""

    def __init__(
        self, before: int, features: int, depth: int, activation: nn.Module, momentum: float
    ):
        super().__init__()
        self.depth, self.activation = depth, activation
        for n in range(1, depth + 1):
            setattr(self, f"conv{n}", nn.Conv2d(before, features, 3, padding=1, bias=False))
            # Without scale. PyTorch has no option for that.
            norm = nn.BatchNorm2d(features, eps=1e-12, momentum=1 - momentum)
            norm.weight = None
            setattr(self, f"norm{n}", norm)
            before = features

    def forward(self, x):
        for n in range(1, self.depth + 1):
            y = getattr(self, f"conv{n}")(x)
            y = F.max_pool2d(y, 2) if n == 1 else y
            y = getattr(self, f"norm{n}")(y)
            x = self.activation(x + y if n > 2 else y)
        return x


class SpeedNet(nn.Module):
    """The network of the speed records."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        *,
        widths: Sequence[int] = (64, 256, 256),
        depth: int = 2,
        whitening_size: int = 2,
        activation: str = "gelu",
        logit_scale: float = 1 / 9,
        norm_momentum: float = 0.6,
    ):
        super().__init__()
        self.activation = nn.GELU() if activation == "gelu" else nn.SiLU()
        self.logit_scale, self.depth = logit_scale, len(widths)
        before = 2 * image_shape[-1] * whitening_size**2
        self.whiten = nn.Conv2d(image_shape[-1], before, whitening_size)
        for n, width in enumerate(widths, 1):
            stage = SpeedStage(before, width, depth, self.activation, norm_momentum)
            setattr(self, f"stage{n}", stage)
            before = width
        self.head = nn.Linear(before, classes, bias=False)

    def forward(self, x):
        x = self.activation(self.whiten(x))
        for n in range(1, self.depth + 1):
            x = getattr(self, f"stage{n}")(x)
        return self.head(x.amax((2, 3))) * self.logit_scale


def set_weights(model: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Sets the weights by path.

    Raises:
      ValueError: the paths differ.
    """
    state = {}
    for path, value in weights.items():
        *module, name = path.split("/")
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, (0,))
        tensor = torch.from_numpy(np.ascontiguousarray(value.transpose(axes)))
        state[".".join((*module, WEIGHTS[name]))] = tensor
    counters = {key for key in model.state_dict() if key.endswith("num_batches_tracked")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) - counters:
        raise ValueError(f"the networks differ in {[*missing, *unexpected]}")


def count(model: nn.Module) -> int:
    """Returns the number of parameters and batch statistics."""
    tensors = model.state_dict().items()
    return sum(x.numel() for name, x in tensors if not name.endswith("num_batches_tracked"))
