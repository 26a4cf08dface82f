"""PyTorch: eager or compiled, in channels_last, with autocast where bfloat16 is asked for.

The L2 penalty is the optimizer's weight decay, which costs least, and the optimizer is fused.
"""

import functools

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.jobs import Job, matches, recipe
from benchmarks.peers import torch_networks
from benchmarks.peers.peer import Peer, network_spec, read_arrays


def make(job: Job) -> Peer:
    """Returns PyTorch's part."""
    torch.set_num_threads(job.threads)
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = recipe(job)
    model, images, labels = load(job, settings, device)
    freeze(model.train(), job.frozen)
    optimizer = _optimizer(settings, model)
    compiled = torch.compile(model) if job.framework == "torch-compile" else model

    def forward() -> torch.Tensor:
        with _autocast(job, device):
            return compiled(images).float()

    def train(count: int) -> float:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(forward(), labels)
            loss.backward()
            optimizer.step()
        return loss.item()

    def infer(count: int) -> None:
        modes = {module: module.training for module in model.modules()}
        model.eval()
        with torch.inference_mode():
            for _ in range(count):
                result = forward()
        result.sum().item()
        for module, training in modes.items():
            module.training = training

    on_gpu = device.type == "cuda"
    return Peer(
        parameters=torch_networks.count(model),
        device=torch.cuda.get_device_name() if on_gpu else "cpu",
        packages=("torch", "numpy"),
        first_loss=functools.partial(first_loss, job, device),
        train=train,
        infer=infer,
        device_memory=lambda: torch.cuda.max_memory_allocated() if on_gpu else None,
    )


def load(job: Job, settings, device: torch.device) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Returns a config's network with the job's weights, images [B, C, H, W] and labels."""
    weights, images, labels = read_arrays(job)
    spec = network_spec(settings, weights)
    model = torch_networks.build(spec, images.shape[1:], len(weights["head/bias"]))
    torch_networks.set_weights(model, weights)
    # NHWC in memory is what channels_last means.
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    model = model.to(device, memory_format=torch.channels_last)
    return model, images.to(device), torch.from_numpy(labels).long().to(device)


def freeze(model: nn.Module, pattern: str) -> None:
    """Leaves out of training, and in evaluation mode, the modules that the pattern names."""
    for path, module in model.named_modules():
        if pattern and path and matches(pattern, path.replace(".", "/")):
            module.eval().requires_grad_(False)


def first_loss(job: Job, device: torch.device) -> float:
    """Returns the loss before the first step, without dropout."""
    settings = recipe(job, "model.dropout=0.0")
    model, images, labels = load(job, settings, device)
    with torch.no_grad(), _autocast(job, device):
        loss = F.cross_entropy(model.train()(images).float(), labels)
    penalized = _penalized(settings, model)
    return loss.item() + settings.l2.coefficient * sum(x.square().sum().item() for x in penalized)


def _autocast(job: Job, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=job.precision == "bfloat16")


def _penalized(settings, model: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters that the config's L2 penalty holds for: they are all kernels."""
    if not settings.l2.coefficient:
        return []
    kernels = [(name, x) for name, x in model.named_parameters() if x.ndim > 1]
    return [
        x
        for name, x in kernels
        if matches(settings.l2.pattern, name.replace(".", "/").replace("weight", "kernel"))
    ]


def _optimizer(settings, model: nn.Module) -> torch.optim.Optimizer:
    spec = settings.optimizer
    # c * w ** 2 has the gradient 2 * c * w.
    decayed = [x for x in _penalized(settings, model) if x.requires_grad]
    others = {id(x) for x in decayed}
    groups = [
        {"params": decayed, "weight_decay": 2 * settings.l2.coefficient},
        {"params": [x for x in model.parameters() if x.requires_grad and id(x) not in others]},
    ]
    groups = [group for group in groups if group["params"]]
    if spec.name == "sgd":
        keywords = dict(momentum=spec.momentum, nesterov=spec.nesterov)
        return torch.optim.SGD(groups, spec.learning_rate, **keywords, fused=True)
    if spec.name == "adam":
        return torch.optim.Adam(groups, spec.learning_rate, eps=spec.eps, fused=True)
    raise ValueError(f"no counterpart of the optimizer {spec.name!r}")
