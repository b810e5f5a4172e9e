"""The declared parameters of a model (model/config/parameters.py) as tensors.

A module requests its tensors by name; shape, label and initial distribution are declared once.
"""

import torch
from torch import nn

from model.config import Config
from model.config.parameters import Parameter, parameters
from model.config.shapes import Sizes
from model.kernels import compute_type


class Parameters:
    """Declared parameters under a name prefix; `[name]` creates a tensor.

    The tensor is uninitialized (see `model.arch.init`) and has its declaration as attribute.
    """

    def __init__(
        self, declared: dict[str, Parameter], compute: torch.dtype, prefix: str = ""
    ) -> None:
        self._declared, self._compute, self._prefix = declared, compute, prefix

    @classmethod
    def of(cls, config: Config, sizes: Sizes) -> "Parameters":
        """All parameters of a configuration."""
        declared = {each.name: each for each in parameters(config, sizes)}
        return cls(declared, compute_type(config))

    def under(self, name: str) -> "Parameters":
        """Parameters whose names start with `name` and a dot."""
        return Parameters(self._declared, self._compute, f"{self._prefix}{name}.")

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._declared

    def get(self, name: str) -> nn.Parameter | None:
        """Create the tensor of a declared parameter; None if it is not declared."""
        declared = self._declared.get(self._prefix + name)
        return None if declared is None else make_parameter(declared, self._compute)

    def __getitem__(self, name: str) -> nn.Parameter:
        return make_parameter(self._declared[self._prefix + name], self._compute)


def make_parameter(declared: Parameter, compute: torch.dtype = torch.float32) -> nn.Parameter:
    """Create an uninitialized tensor with its declaration."""
    dtype = compute if declared.in_compute_type else torch.float32
    tensor = nn.Parameter(torch.empty(*declared.shape, dtype=dtype))
    tensor.declared = declared  # type: ignore[attr-defined]
    return tensor


def declaration_of(tensor: nn.Parameter) -> Parameter:
    """The declaration of a tensor."""
    return tensor.declared  # type: ignore[attr-defined]
