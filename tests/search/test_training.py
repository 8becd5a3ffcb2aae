"""Short training on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from hwnas.search.training import Recipe, accuracy, synflow, train
from hwnas.spaces.errors import CandidateError

RECIPE = Recipe(batch=32, augment="none")


def network(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width),
        nn.Flatten(),
        nn.Linear(width * 16, 4),
    )


@pytest.fixture(scope="module")
def parts() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Four classes: which quarter of an 8 x 8 image is bright."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(240) % 4
    x = 0.5 * torch.randn(240, 1, 8, 8, generator=generator)
    for i, label in enumerate(y.tolist()):
        x[i, 0, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 1.0
    return (x[:160], y[:160]), (x[160:], y[160:])


def test_a_network_learns(parts: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    model = network()
    told = train(model, *parts, epochs=6, seed=0, recipe=RECIPE)
    assert told.correct >= 0.95 * told.total and told.total == 80
    assert len(told.losses) == 6 and told.losses[-1] < 0.5 * told.losses[0]
    assert accuracy(model, *parts[1]) == told.correct, "the model itself was trained, not a copy"
    assert accuracy(model, *parts[1], batch=7) == told.correct


@pytest.mark.parametrize("recipe", [RECIPE, Recipe(32, "sgd", 0.05, augment="shift")])
def test_the_same_seed_gives_the_same_weights(
    parts: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], recipe: Recipe
) -> None:
    found = []
    for seed in (3, 3, 4):
        model = network()
        told = train(model, *parts, epochs=2, seed=seed, recipe=recipe)
        found.append((told.losses, [p.detach().clone() for p in model.state_dict().values()]))
    assert found[0][0] == found[1][0] != found[2][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_the_structure_of_the_model_is_left_as_it_was(
    parts: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> None:
    model = network()
    names = [name for name, _ in model.named_parameters()]
    train(model, *parts, epochs=1, seed=0, recipe=RECIPE)
    assert [name for name, _ in model.named_parameters()] == names == [name for name, _ in network().named_parameters()]


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_it(
    parts: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], poison: float
) -> None:
    model = network()
    with torch.no_grad():
        next(model.parameters()).fill_(poison)
    with pytest.raises(CandidateError, match="non_finite: the training loss is"):
        train(model, *parts, epochs=3, seed=0, recipe=RECIPE)
    with pytest.raises(CandidateError, match="non_finite"):
        accuracy(model, *parts[1])


def test_a_learning_rate_of_a_madman_fails_or_ends(
    parts: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> None:
    try:
        told = train(network(), *parts, epochs=2, seed=0, recipe=replace(RECIPE, optimizer="sgd", learning_rate=1e9))
        assert 0 <= told.correct <= told.total
    except CandidateError as error:
        assert error.code == "non_finite"


def test_a_batch_larger_than_the_data(parts: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    told = train(network(), *parts, epochs=1, seed=0, recipe=replace(RECIPE, batch=10_000))
    assert len(told.losses) == 1


def test_synflow_grows_with_width_and_leaves_the_model_alone() -> None:
    model = network()
    before = [p.clone() for p in model.parameters()]
    assert synflow(network(4), (1, 8, 8)) < synflow(model, (1, 8, 8)) < synflow(network(16), (1, 8, 8))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_synflow_of_a_linear_chain_is_the_sum_over_its_layers() -> None:
    """Each layer of a chain without biases has the same flow, the product of the absolute weights."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    weights = [p.detach().double().abs() for p in model.parameters()]
    flow = float((weights[1] @ weights[0] @ torch.ones(4, dtype=torch.float64)).sum())
    assert synflow(model, (1, 2, 2)) == pytest.approx(float(torch.tensor(2 * flow).log()), rel=1e-6)
