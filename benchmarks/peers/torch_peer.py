"""PyTorch: eager or compiled, in channels_last, with autocast for bfloat16.

The optimizer is fused. The L2 penalty is its weight decay, which is cheapest.
"""

import functools

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.jobs import Job, matches, recipe, recipe_without_dropout
from benchmarks.peers import torch_networks
from benchmarks.peers.peer import Peer, network_spec, read_arrays


def make(job: Job) -> Peer:
    """Returns the training step in PyTorch."""
    torch.set_num_threads(job.threads)
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = recipe(job)
    model, images, labels = load(job, settings, device)
    freeze(model.train(), job.frozen)
    optimizers = _optimizers(settings, model)
    compiled = torch.compile(model) if job.framework == "torch-compile" else model

    def forward() -> torch.Tensor:
        with _autocast(job, device):
            return compiled(images).float()

    def train(count: int) -> float:
        for _ in range(count):
            model.zero_grad(set_to_none=True)
            loss = F.cross_entropy(forward(), labels, label_smoothing=settings.label_smoothing)
            loss.backward()
            for optimizer in optimizers:
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
    model = torch_networks.build(spec, images.shape[1:], weights["head/kernel"].shape[-1])
    torch_networks.set_weights(model, weights)
    # channels_last means NHWC in memory.
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    model = model.to(device, memory_format=torch.channels_last)
    return model, images.to(device), torch.from_numpy(labels).long().to(device)


def freeze(model: nn.Module, pattern: str) -> None:
    """Freezes the modules that match a pattern and sets them to evaluation mode."""
    for path, module in model.named_modules():
        if pattern and path and matches(pattern, path.replace(".", "/")):
            module.eval().requires_grad_(False)


def first_loss(job: Job, device: torch.device) -> float:
    """Returns the loss before the first step, without dropout."""
    settings = recipe_without_dropout(job)
    model, images, labels = load(job, settings, device)
    with torch.no_grad(), _autocast(job, device):
        loss = F.cross_entropy(model.train()(images).float(), labels)
    penalized = _penalized(settings, model)
    return loss.item() + settings.l2.coefficient * sum(x.square().sum().item() for x in penalized)


def _autocast(job: Job, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=job.precision == "bfloat16")


def _penalized(settings, model: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters with the L2 penalty of a config, which are all kernels."""
    if not settings.l2.coefficient:
        return []
    kernels = [(name, x) for name, x in model.named_parameters() if x.ndim > 1]
    return [
        x
        for name, x in kernels
        if matches(settings.l2.pattern, name.replace(".", "/").replace("weight", "kernel"))
    ]


def _optimizers(settings, model: nn.Module) -> list[torch.optim.Optimizer]:
    """Returns one optimizer, or one per parameter group if groups have their own."""
    own = {pattern: group for pattern, group in settings.param_groups if not isinstance(group, str)}
    if not own:
        return [_optimizer(settings, model)]
    members: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        path = name.replace(".", "/").replace("weight", "kernel")
        patterns = (pattern for pattern, _ in settings.param_groups if matches(pattern, path))
        pattern = next(patterns, "")
        if pattern and pattern not in own:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            members.setdefault(pattern, []).append(parameter)
    specs = {**own, "": settings.optimizer}
    return [_of_group(specs[pattern], parameters) for pattern, parameters in members.items()]


def _of_group(spec, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    rate = spec["learning_rate"]
    if spec["name"] == "muon":
        return Muon(parameters, rate, spec["momentum"], spec["ns_steps"])
    return torch.optim.SGD(
        parameters,
        rate,
        spec["momentum"],
        nesterov=spec["nesterov"],
        weight_decay=spec.get("decay", 0.0) / rate,
        fused=True,
    )


class Muon(torch.optim.Optimizer):
    """Muon as in airbench94_muon, with Nesterov momentum and kernels of constant norm.

    Newton-Schulz runs in bfloat16 on a GPU. It runs in float32 on a CPU, where PyTorch's bfloat16
    products may be a hundred times slower.
    """

    def __init__(self, parameters, learning_rate: float, momentum: float, ns_steps: int):
        super().__init__(parameters, {})
        self.learning_rate, self.momentum, self.ns_steps = learning_rate, momentum, ns_steps

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            buffer = state.setdefault("momentum", torch.zeros_like(parameter))
            buffer.mul_(self.momentum).add_(parameter.grad)
            update = parameter.grad.add(buffer, alpha=self.momentum)
            matrix = update.flatten(1)
            matrix = matrix.bfloat16() if matrix.is_cuda else matrix
            direction = _orthogonal(matrix, self.ns_steps).to(parameter).view_as(parameter)
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
            parameter.sub_(direction, alpha=self.learning_rate)


def _orthogonal(x: torch.Tensor, steps: int) -> torch.Tensor:
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if tall else x


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
    raise ValueError(f"optimizer {spec.name!r} has no counterpart in PyTorch")
