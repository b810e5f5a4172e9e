"""Muon's parts and AdamW's table against independent, slow formulas."""

import math
from dataclasses import replace

import pytest
import torch

from model.config import Config, Muon, NorMuon, Schedule, Warmdown
from model.config.schedules import lr_scale, muon_decay_scale, muon_momentum
from model.optim import orthogonal
from model.optim.muon import Muon as MuonOptimizer

TORCH = orthogonal.products_of("torch", 8, 8)
GENERATOR = torch.Generator().manual_seed(5)


def matrix(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(8, 8), (32, 8), (8, 32)])
@pytest.mark.parametrize("kind", ["newton_schulz", "polar_express"])
def test_orthogonalize_sets_singular_values_near_one(kind: str, shape: tuple[int, int]) -> None:
    left, _, right = torch.linalg.svd(matrix(*shape), full_matrices=False)
    x = left @ torch.diag(torch.linspace(0.2, 3.0, min(shape), dtype=torch.float64)) @ right
    triples = orthogonal.coefficients(kind, 5)
    values = torch.linalg.svdvals(
        orthogonal.orthogonalize(orthogonal.normalize(x[None]), triples, TORCH)[0]
    )
    assert values.max() < 1.3
    assert values.min() > 0.6


def test_orthogonalize_is_the_odd_polynomial_of_the_singular_values() -> None:
    x = matrix(6, 10)
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    s = s / (x.norm() * 1.01 + 1e-6)
    for a, b, c in orthogonal.POLAR_EXPRESS:
        s = a * s + b * s**3 + c * s**5
    result = orthogonal.orthogonalize(
        orthogonal.normalize(x[None]), list(orthogonal.POLAR_EXPRESS), TORCH
    )[0]
    torch.testing.assert_close(result, u @ torch.diag(s) @ vt, rtol=1e-8, atol=1e-8)


def test_rows_are_equalized_to_a_share_of_the_frobenius_norm() -> None:
    x = matrix(5, 7)
    rows = orthogonal.equalize_rows(x[None], 1e-6)[0].norm(dim=1)
    torch.testing.assert_close(rows, torch.full_like(rows, float(x.norm()) / math.sqrt(5)))


def test_rows_and_updates_below_the_floor_stay_small() -> None:
    """By hand: |x|_F is 5e-9, and so is the target of its only row; 5e-9 / 1e-6 is 0.005."""
    x = torch.tensor([[[3e-9, 4e-9]]], dtype=torch.float64)
    torch.testing.assert_close(orthogonal.equalize_rows(x, 1e-6), 0.005 * x)
    torch.testing.assert_close(orthogonal.renormalize_update(x, 1e-6), 1e6 * x)
    factors = orthogonal.row_normalization_factors(x.float(), equalize=True, floor=1e-6)
    one_by_one = orthogonal.normalize(orthogonal.equalize_rows(x, 1e-6))
    # the fused form takes the norm before equalising, which here is 1e6 times smaller than NORM_EPS
    assert (factors * x).abs().max() == pytest.approx(one_by_one.abs().max().item(), rel=1e-2)


def test_renormalise_sets_the_frobenius_norm() -> None:
    update = orthogonal.renormalize_update(matrix(5, 7)[None], 1e-6)[0]
    assert update.norm().item() == pytest.approx(math.sqrt(5))


@pytest.mark.parametrize(("rows", "columns"), [(6, 4), (4, 6), (5, 5)])
def test_even_out_divides_by_the_moment_along_the_longer_side(rows: int, columns: int) -> None:
    by_row = rows >= columns
    moment = torch.zeros((1, rows, 1) if by_row else (1, 1, columns), dtype=torch.float64)
    slow = torch.zeros(rows if by_row else columns, dtype=torch.float64)
    for _ in range(3):
        update = matrix(rows, columns)
        normalized = orthogonal.normalize_by_moment(update[None], moment, 0.9)[0]
        mean = (update**2).mean(dim=1 if by_row else 0)
        slow = 0.9 * slow + 0.1 * mean
        expected = update / (slow.sqrt()[:, None] if by_row else slow.sqrt()[None, :])
        expected = expected * update.norm() / expected.norm()
        torch.testing.assert_close(normalized, expected)


@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_muon_step_equals_a_slow_one_matrix_at_a_time_reference(
    shape: tuple[int, int], cautious: bool
) -> None:
    settings = Muon(
        orthogonalize="polar_express",
        normuon=NorMuon(),
        equalize_rows=True,
        renormalize=True,
        cautious_decay=cautious,
    )
    weights = [torch.nn.Parameter(matrix(*shape).float()) for _ in range(3)]
    expected = [weight.detach().clone() for weight in weights]
    optimizer = MuonOptimizer(weights, settings, lr=0.1, decay=0.3, compute=torch.float32)
    momenta = [torch.zeros(shape) for _ in weights]
    moments = [torch.zeros((6, 1) if shape[0] >= shape[1] else (1, 6)) for _ in weights]
    for _ in range(3):
        for i, weight in enumerate(weights):
            assert weight.grad is not None
            weight.grad.copy_(matrix(*shape))
            expected[i], momenta[i], moments[i] = slow_muon(
                expected[i], weight.grad, momenta[i], moments[i], cautious
            )
        optimizer.step(lr_scale=0.5, momentum=0.9, decay_scale=0.8)
        for weight, wanted in zip(weights, expected, strict=True):
            torch.testing.assert_close(weight.detach(), wanted, rtol=1e-4, atol=1e-5)


def slow_muon(p, g, m, v, cautious, mu=0.9, lr=0.1 * 0.5, decay=0.3 * 0.8):  # type: ignore[no-untyped-def]
    """The formula of the docstring for one matrix, written with other operations."""
    m = mu * m + (1 - mu) * g
    u = (1 - mu) * g + mu * m
    rows, columns = u.shape
    u = torch.diag(u.norm() / math.sqrt(rows) / u.norm(dim=1)) @ u
    left, s, right = torch.linalg.svd(u, full_matrices=False)
    s = s / (u.norm() * 1.01 + 1e-6)
    for a, b, c in orthogonal.POLAR_EXPRESS:
        s = a * s + b * s**3 + c * s**5
    u = left @ torch.diag(s) @ right
    u = u / u.norm() * math.sqrt(min(rows, columns))
    dim = 1 if rows >= columns else 0
    v = 0.9 * v + 0.1 * (u * u).mean(dim=dim, keepdim=True)
    normalized = u / v.sqrt()
    u = normalized / normalized.norm() * u.norm()
    mask = (u * p >= 0).float() if cautious else 1.0
    shape_lr = lr * math.sqrt(max(1.0, rows / columns))
    return p - shape_lr * u - shape_lr * decay * p * mask, m, v


REFERENCE = Schedule(warmup_steps=40, warmdown=Warmdown())


def test_reference_learning_rate_warms_up_holds_and_falls_to_five_percent() -> None:
    steps = 1000
    scale = [lr_scale(step, steps, 40, REFERENCE) for step in range(steps)]
    assert scale[0] == pytest.approx(1 / 40)
    assert scale[39] == 1.0
    assert set(scale[39:351]) == {1.0}
    assert scale[351] == pytest.approx(649 / 650 + 1 / 650 * 0.05)
    assert scale[999] == pytest.approx(1 / 650 + 649 / 650 * 0.05)


def test_gpt2_learning_rate_is_a_cosine_to_ten_percent_after_its_warmup() -> None:
    scale = [lr_scale(step, 100, 5, Schedule()) for step in range(100)]
    assert scale[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert scale[5] == 1.0
    assert scale[52] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 47 / 95)))
    assert scale[99] > 0.1


def test_momentum_warmup_wins_over_the_warmdown_in_short_runs() -> None:
    muon = Muon()
    short = [muon_momentum(step, 240, muon, REFERENCE) for step in range(240)]
    assert short[0] == 0.85
    assert short[239] == pytest.approx(0.85 + 0.12 * 239 / 400)
    assert max(short) < 0.97


def test_momentum_of_long_runs_plateaus_then_falls() -> None:
    muon = Muon()
    momentum = [muon_momentum(step, 2000, muon, REFERENCE) for step in range(2000)]
    assert momentum[400] == 0.97
    assert momentum[699] == 0.97
    assert momentum[1350] == pytest.approx((0.97 + 0.90) / 2)
    assert momentum[1999] == pytest.approx(0.90, abs=1e-4)


def test_muon_decay_falls_along_a_cosine_to_zero() -> None:
    assert muon_decay_scale(0, 100) == 1.0
    assert muon_decay_scale(50, 100) == pytest.approx(0.5)
    assert muon_decay_scale(100, 100) == 0.0


def test_label_defaults_of_gpt2_are_one_setting_for_all() -> None:
    optimizer = Config().optimizer
    for label in ("matrices", "embedding", "head", "positions", "norms", "biases"):
        settings = getattr(optimizer, label)
        assert replace(settings, decay=0.1) == optimizer.matrices


def test_a_gradient_put_beside_the_stack_is_not_overlooked() -> None:
    weight = torch.nn.Parameter(matrix(4, 4).float())
    optimizer = MuonOptimizer([weight], Muon(), lr=0.1, decay=0.0, compute=torch.float32)
    weight.grad = torch.ones(4, 4)
    with pytest.raises(AssertionError, match="replaced"):
        optimizer.step(lr_scale=1.0, momentum=0.9, decay_scale=1.0)


@pytest.mark.parametrize("cautious", [False, True])
def test_warming_muon_up_leaves_weights_and_states_as_they_are(cautious: bool) -> None:
    settings = Muon(
        normuon=NorMuon(), equalize_rows=True, renormalize=True, cautious_decay=cautious
    )
    weight = torch.nn.Parameter(matrix(6, 4).float())
    before = weight.detach().clone()
    optimizer = MuonOptimizer([weight], settings, lr=0.1, decay=0.3, compute=torch.float32)
    optimizer.step(lr_scale=0.0, momentum=0.5, decay_scale=0.0)
    stack = optimizer.stacks[0]
    assert torch.equal(weight.detach(), before)
    assert stack.moment is not None
    assert not stack.momentum.any()
    assert not stack.moment.any()
