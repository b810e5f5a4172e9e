"""The model once more, over the same tensors, as evaluations run it: eager, and able to go on from
a prefix that several rows share.

Eager, because prompts have a hundred lengths and each would be compiled anew: seconds for each, as
long as the evaluation itself. Fused kernels are compiled for no length, so those of the run's
blocks (qkv, products) serve here too. Attention runs in the back-end of the run, except that
FlexAttention is fast only when compiled: there the next one that can stands in. `kernels` says what
runs.

The rows of a question share most of their tokens, and what the model makes of a token depends only
on those before it. So the shared tokens go through the model once, every layer keeps their keys and
values, and of each row only the rest follows:

    shared   t_0 ... t_{P-1}                          as any row
    rest     t_{P-2} t_{P-1} | t_P ... of a row       several rows of one question side by side (Q)

The two tokens in front are there for what looks at the token before (smear, token pairs, offset
keys): the second is then as in the whole row, and so is the loss of t_P, and all behind. Their keys
are not used, the kept ones are. A token of the rest sees the shared ones and those of its own row,
as far as its layer's window reaches. A trick that looks further back than one token would need
more of them in front (LOOKBACK); the tests hold both ways equal for every trick there is.

B questions, P and Q tokens, H heads, K head width.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model import attention
from model.arch.position_ids import PositionIds
from model.attention import Attend
from model.config import Config
from model.config.shapes import Sizes
from model.gpt import GPT
from model.kernels import Kernels, compute_type

LOOKBACK = 2
"""Tokens that a rest begins with again."""
# not cuDNN's, which plans anew for every shape; flash stands for the CPU's, which takes masks
MASKED = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
EAGER = ("flash2", "sdpa")
"""In place of a back-end that has to be compiled."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rests:
    """What follows shared tokens (B, P): the rests of several rows side by side."""

    tokens: Tensor
    """(B, Q)"""
    places: Tensor
    """(B, Q) position in the row; 0 where a place is empty."""
    rows: Tensor
    """(B, Q) which of the question's rows; -1 where a place is empty."""
    own: Tensor
    """(B, Q) whether a token's key counts: not those that are there again, nor empty places."""
    shared: Tensor
    """(B) how many of the P tokens are a question's; the others fill up."""
    end: int
    """All places are below it."""


class EvalModel:
    """`stream` for whole rows, `follow` for the rests of rows."""

    def __init__(self, gpt: GPT, config: Config, sizes: Sizes, kernels: Kernels) -> None:
        device = gpt.embedding.weight.device
        attention = _eager(kernels.attention, config, sizes, device)
        self.kernels = Kernels(attention=attention, qkv=kernels.qkv, products=kernels.products)
        with torch.device("meta"):  # its own tensors would be as large as the model
            self.gpt = GPT(config, sizes, self.kernels)
        _share(gpt, self.gpt)
        _match(gpt, self.gpt)
        self._memory = [_Memory(layer) for layer in _layers(self.gpt)]

    @torch.no_grad()
    def stream(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) -> what the head reads (B, T, D)."""
        return self.gpt.stream(tokens)

    @torch.no_grad()
    def follow(self, tokens: Tensor, rests: Rests) -> Tensor:
        """Shared tokens (B, P), and what follows them -> what the head reads (B, Q, D)."""
        try:
            for memory in self._memory:
                memory.keeps = True
            self.gpt.stream(tokens)
            masks = _Masks(rests, tokens.size(1))
            for memory in self._memory:
                memory.keeps, memory.masks = False, masks
            return self.gpt.stream(rests.tokens, PositionIds(index=rests.places, end=rests.end))
        finally:
            for memory in self._memory:
                memory.forget()

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """What the head reads (N, D) -> logits (N, V) in fp32."""
        return self.gpt.torch_logits(x)


class _Memory:
    """A layer's attention, in between: keeps keys and values, or puts them in front of others."""

    def __init__(self, layer: Any) -> None:
        self.attend: Attend = layer.attend
        self.paired: bool = layer.paired
        layer.attend = self
        self.forget()

    def forget(self) -> None:
        self.keeps = False
        self.masks: _Masks | None = None
        self.kept: tuple[Tensor, Tensor] | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        if self.masks is None:
            if self.keeps:
                self.kept = k.contiguous(), v.contiguous()
            return self.attend(q, k, v, window)
        assert self.kept is not None
        keys, values = (torch.cat(both, dim=1) for both in zip(self.kept, (k, v), strict=True))
        q, keys, values = (x.transpose(1, 2) for x in (q, keys, values))  # (B, H, .., K)
        mask = self.masks.of(window, paired=self.paired)
        with sdpa_kernel(MASKED, set_priority=True):
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return y.transpose(1, 2)


class _Masks:
    """Which keys a rest's tokens see; one mask a window, for all layers."""

    def __init__(self, rests: Rests, shared_places: int) -> None:
        self.rests, self.shared_places = rests, shared_places
        self._made: dict[tuple[int, bool], Tensor] = {}

    def of(self, window: int, *, paired: bool) -> Tensor:
        """(B, 1, Q, P + Q), or twice as many of both where heads are in pairs."""
        if (window, paired) not in self._made:
            self._made[window, paired] = self._mask(window, 2 if paired else 1)
        return self._made[window, paired]

    def _mask(self, window: int, heads: int) -> Tensor:
        rests = self.rests
        device = rests.tokens.device
        # heads in pairs stand one behind the other: token t of head s at heads * t + s
        place = _spread(rests.places, heads)
        row, own = (x.repeat_interleave(heads, dim=1) for x in (rests.rows, rests.own))
        key = torch.arange(self.shared_places * heads, device=device)
        distance = place[:, :, None] - key
        of_shared = (key < heads * rests.shared[:, None])[:, None]  # (B, 1, P)
        sees_shared = of_shared & (distance >= 0) & (distance <= window)
        distance = place[:, :, None] - place[:, None]
        same = (row[:, :, None] == row[:, None]) & own[:, None]
        sees_own = same & (distance >= 0) & (distance <= window)
        return torch.cat((sees_shared, sees_own), dim=2)[:, None]


def _spread(places: Tensor, heads: int) -> Tensor:
    both = heads * places[:, :, None] + torch.arange(heads, device=places.device)
    return both.flatten(1)


def _eager(backend: str, config: Config, sizes: Sizes, device: torch.device) -> str:
    """The back-end, or one that need not be compiled."""
    if backend != "flex":
        return backend
    given = device, sizes.head_width, compute_type(config)
    return next(name for name in EAGER if attention.why_not(name, *given) is None)


def _share(source: GPT, twin: GPT) -> None:
    """Gives the twin the tensors of its source."""
    twin.load_state_dict(source.state_dict(), assign=True)
    for name, buffer in source.named_buffers():
        owner, _, leaf = name.rpartition(".")
        twin.get_submodule(owner).register_buffer(leaf, buffer, persistent=False)


def _match(source: GPT, twin: GPT) -> None:
    """What a schedule has changed by now and no tensor holds (model/tricks/window_warmup.py)."""
    if source.rotary is not None and twin.rotary is not None:
        twin.rotary.stretches = source.rotary.stretches
    for theirs, own in zip(_layers(source), _layers(twin), strict=True):
        own.window, own.qk_scale = theirs.window, theirs.qk_scale


def _layers(gpt: GPT) -> list[Any]:
    """Its attention modules."""
    return [block.attention for block in gpt.blocks if block.attention is not None]
