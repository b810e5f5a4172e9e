"""Attention back-ends agree with each other and with a plain masked softmax."""

import pytest
import torch

from model.attention import BACKENDS, choose, why_not
from model.errors import MachineError

CPU = torch.device("cpu")


def slow_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Query by query: a softmax over itself and the `window` keys before it."""
    out = torch.zeros_like(q)
    for i in range(q.size(1)):
        first = max(0, i - window)
        scores = torch.einsum("bhk,bjhk->bhj", q[:, i], k[:, first : i + 1]) / q.size(-1) ** 0.5
        weights = scores.softmax(dim=-1)
        out[:, i] = torch.einsum("bhj,bjhk->bhk", weights, v[:, first : i + 1])
    return out


WINDOWS = [(128, 0), (128, 63), (200, 64), (200, 500)]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
        ],
    ),
]


def inputs_of(tokens: int, device: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    return [torch.randn(2, tokens, 3, 16, generator=generator).to(device) for _ in range(4)]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("tokens", "window"), WINDOWS)
def test_forward_equals_the_slow_reference(
    name: str, tokens: int, window: int, device: str
) -> None:
    q, k, v, _ = inputs_of(tokens, device)
    with torch.no_grad():
        got, expected = BACKENDS[name](q, k, v, window), slow_attention(q, k, v, window)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("tokens", "window"), WINDOWS)
def test_gradients_equal_the_slow_reference(
    name: str, tokens: int, window: int, device: str
) -> None:
    problem = why_not(name, torch.device(device))
    if problem is not None:
        pytest.skip(problem[0])
    *values, weight = inputs_of(tokens, device)
    gradients = []
    for function in (BACKENDS[name], slow_attention):
        inputs = [value.clone().requires_grad_() for value in values]
        gradients.append(torch.autograd.grad((function(*inputs, window) * weight).sum(), inputs))
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_auto_names_what_will_run() -> None:
    assert choose("auto", CPU, windowed=True) == "sdpa"
    assert why_not("sdpa", CPU) is None
    with pytest.raises(MachineError, match="no backward pass on the CPU"):
        choose("flex", CPU, windowed=False)


def test_a_device_that_is_asked_for_and_missing_stops_with_a_remedy() -> None:
    from model.configfile import load_config
    from model.trainer import device_of

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(MachineError, match="expected a CUDA GPU"):
        device_of(load_config(None, {"system.device": "cuda"}))
