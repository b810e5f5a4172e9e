"""Keyed initialization: each parameter has its own generator, seeded by the parameter's name.

The generator's seed is SHA-256(seed, name). Values are drawn in fp32 on the CPU and copied to the
parameter. An initial value therefore depends only on seed, name, shape and distribution, and not on
other tricks, the device, the number of ranks or the order of modules. Large tensors are drawn in a
thread pool.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from model.arch.parameter import declaration_of
from model.config.parameters import Constant, Init, Linspace, Normal, Uniform

# values drawn at a time, part of the definition: 1 MB of fp32 fits the cache of a core
CHUNK = 2**18


def initialise(model: nn.Module, seed: int) -> None:
    """Initialize every parameter of `model` in place."""
    named = sorted(model.named_parameters(), key=lambda item: -item[1].numel())
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(lambda item: _fill(item[0], item[1], seed), named))


def generator_seed(seed: int, name: str) -> int:
    """The 63-bit generator seed of one parameter."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@torch.no_grad()
def _fill(name: str, tensor: nn.Parameter, seed: int) -> None:
    init = declaration_of(tensor).init
    if isinstance(init, Constant):
        tensor.fill_(init.value)
        return
    generator = torch.Generator().manual_seed(generator_seed(seed, name))
    flat = tensor.view(-1)
    scratch = torch.empty(min(CHUNK, flat.numel()), dtype=torch.float32)
    for start in range(0, flat.numel(), CHUNK):
        place = flat[start : start + CHUNK]
        drawn = scratch[: place.numel()]
        _draw(init, drawn, generator)
        place.copy_(drawn)


def _draw(init: Init, out: Tensor, generator: torch.Generator) -> None:
    match init:
        case Normal(std):
            out.normal_(0.0, std, generator=generator)
        case Uniform(low, high):
            out.uniform_(low, high, generator=generator)
        case Linspace(first, last):
            out.copy_(torch.linspace(first, last, out.numel()))
        case Constant(value):
            out.fill_(value)
