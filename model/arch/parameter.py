"""A parameter says where it is made which label it carries and how it is drawn.

So a trick's file shows its tensors, their optimizer label and their initial values on one line
each. `model.init` draws them, `model.optim` groups them by label.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Normal:
    """Draws from N(0, std^2)."""

    std: float

    def draw(self, out: Tensor, generator: torch.Generator) -> None:
        out.normal_(0.0, self.std, generator=generator)


@dataclass(frozen=True)
class Uniform:
    """Draws from [low, high)."""

    low: float
    high: float

    def draw(self, out: Tensor, generator: torch.Generator) -> None:
        out.uniform_(self.low, self.high, generator=generator)


@dataclass(frozen=True)
class Constant:
    """One value everywhere."""

    value: float

    def draw(self, out: Tensor, generator: torch.Generator) -> None:
        out.fill_(self.value)


@dataclass(frozen=True)
class Linspace:
    """Evenly spaced values over a vector, both ends included."""

    first: float
    last: float

    def draw(self, out: Tensor, generator: torch.Generator) -> None:
        out.copy_(torch.linspace(self.first, self.last, out.numel()))


Init = Normal | Uniform | Constant | Linspace


def parameter(
    *shape: int, label: str, init: Init, dtype: torch.dtype = torch.float32
) -> nn.Parameter:
    """An empty parameter that carries its label and its initial distribution."""
    tensor = nn.Parameter(torch.empty(*shape, dtype=dtype))
    tensor.label, tensor.init = label, init  # type: ignore[attr-defined]
    return tensor


def label_of(tensor: nn.Parameter) -> str:
    """The label given where the parameter was made."""
    return tensor.label  # type: ignore[attr-defined]


def init_of(tensor: nn.Parameter) -> Init:
    """The distribution given where the parameter was made."""
    return tensor.init  # type: ignore[attr-defined]
