"""Quality by short training on the CPU: seeded, stopped at the first loss that is not finite."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..spaces.errors import CandidateError
from .small_depthwise import faster_depthwise

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Recipe", "Trained", "accuracy", "synflow", "train"]

WARM_UP = 0.15
"""Share of the steps over which the learning rate rises to its full value."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained.

    Attributes:
        batch: samples a step.
        optimizer: `adamw` or `sgd` (Nesterov momentum .9).
        learning_rate: at its highest; it rises linearly, then falls to 0 along a cosine.
        weight_decay: for weights of two or more dimensions; biases and norms have none.
        label_smoothing: share of the target spread over all classes.
        augment: `shift` moves every image by up to an eighth of its side (at least 1 pixel); `none`.
    """

    batch: int = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 0.01
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    augment: Literal["shift", "none"] = "shift"


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training came to.

    Attributes:
        correct: validation samples classified correctly.
        total: validation samples.
        seconds: of training and validation.
        losses: mean training loss of each epoch.
    """

    correct: int
    total: int
    seconds: float
    losses: tuple[float, ...]


def train(
    model: nn.Module,
    train_part: tuple[Tensor, Tensor],
    validation_part: tuple[Tensor, Tensor],
    *,
    epochs: int,
    seed: int,
    recipe: Recipe,
) -> Trained:
    """Trains `model` in place and validates it.

    The same model, data, seed, recipe and number of torch threads give the same weights.

    Args:
        model: from (n, C, H, W) to logits (n, classes).
        train_part: x (n, C, H, W) float32, y (n,) int64.
        validation_part: likewise.
        epochs: passes over the training part.
        seed: of the order of samples and of the augmentation.
        recipe: how to train.

    Raises:
        CandidateError: `non_finite` when a loss is not finite.
    """
    start = time.monotonic()
    x, y = train_part
    shuffle = torch.Generator().manual_seed(seed)
    fast = _trainable_view(model).train()
    steps = max(1, math.ceil(len(x) / recipe.batch))
    optimizer = _optimizer(fast, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rise_and_fall(epochs * steps))
    losses = []
    for _ in range(epochs):
        total = 0.0
        order = torch.randperm(len(x), generator=shuffle)
        for chosen in order.tensor_split(steps):
            images = _shift(x[chosen], shuffle) if recipe.augment == "shift" else x[chosen]
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(fast(images), y[chosen], label_smoothing=recipe.label_smoothing)
            if not math.isfinite(value := loss.item()):
                raise CandidateError("non_finite", f"the training loss is {value}")
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += value * len(chosen)
        losses.append(total / len(x))
    correct = accuracy(model, *validation_part)
    return Trained(correct, len(validation_part[0]), time.monotonic() - start, tuple(losses))


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int = 512) -> int:
    """Returns how many of `x` (n, C, H, W) `model` gives the class `y` (n,).

    Raises:
        CandidateError: `non_finite` when an output is not finite.
    """
    model.eval()
    correct = 0
    with torch.inference_mode():
        for images, labels in zip(torch.split(x, batch), torch.split(y, batch), strict=True):
            logits = model(images)
            if not torch.isfinite(logits).all():
                raise CandidateError("non_finite", "an output of the trained network is not finite")
            correct += int((logits.argmax(1) == labels).sum())
    return correct


def synflow(model: nn.Module, input_shape: tuple[int, int, int]) -> float:
    """Returns the logarithm of the synaptic-flow score of an untrained network; higher is better.

    Sum over the parameters of |weight x gradient| for an input of ones through the network with absolute weights
    (Tanaka et al. 2020, eq. 5; as a proxy of quality: Abdelfattah et al. 2021). Norms pass their input on.
    """
    network = copy.deepcopy(model).double().eval()
    for parameter in network.parameters():
        parameter.data.abs_()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.zeros_like(module.running_mean)  # type: ignore[arg-type]
            module.running_var = torch.ones_like(module.running_var)  # type: ignore[arg-type]
    network(torch.ones(1, *input_shape, dtype=torch.float64)).sum().backward()
    score = sum(float((p * p.grad).detach().abs().sum()) for p in network.parameters() if p.grad is not None)
    return math.log(max(score, 1e-300))


def _trainable_view(model: nn.Module) -> nn.Module:
    """Returns a copy of the module tree that shares parameters and buffers with `model` but trains faster."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return faster_depthwise(copy.deepcopy(model, shared))


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    weights = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def _rise_and_fall(steps: int) -> Callable[[int], float]:
    warm = max(1, round(WARM_UP * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))

    return factor


def _shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """Moves every image of (n, C, H, W) by its own few pixels; what comes in from outside is the image's own edge."""
    n, _, h, w = x.shape
    reach = max(1, min(h, w) // 8)
    padded = F.pad(x, (reach,) * 4, mode="replicate")
    top, left = torch.randint(0, 2 * reach + 1, (2, n), generator=generator)
    rows = top[:, None] + torch.arange(h)
    columns = left[:, None] + torch.arange(w)
    return (
        padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        .permute(0, 3, 1, 2)
        .contiguous()
    )
