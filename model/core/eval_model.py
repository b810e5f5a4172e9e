"""The model for evaluation: eager, over the same tensors, with a shared-prefix KV cache.

Eager, because prompts have a hundred lengths and compiling for each would take as long as the
evaluation. The run's fused kernels of a block (qkv, products) need no compilation and run here too.
Attention runs in the run's back-end, except that FlexAttention is fast only when compiled: the next
available one replaces it. `kernels` holds the kernels in use.

The rows of a question share most of their tokens, and a token's activations depend only on the
tokens before it. So the shared prefix goes through the model once, every layer caches its keys and
values, and each row adds only its suffix:

    prefix   t_0 ... t_{P-1}                          as any row
    suffix   t_{P-2} t_{P-1} | t_P ... of a row       several rows of one question side by side (Q)

The first two suffix tokens serve tricks that read the previous token (smear, token pairs, offset
keys): with them the second one, the loss of t_P and all later tokens equal those of the whole row.
Their keys come from the cache. A suffix token attends to the prefix and to its own row, within its
layer's window. A trick that reads further back than one token needs a larger LOOKBACK; the tests
compare both ways for every trick.

Rows of CORE are one document each, so trick `document_mask` would hide nothing and is left out.

B questions, P and Q tokens, H heads, K head width.
"""

from dataclasses import dataclass, replace
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
"""Prefix tokens repeated at the start of a suffix."""
# not cuDNN's, which plans for every shape; flash is the CPU's, which accepts masks
MASKED = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
EAGER = ("flash2", "sdpa")
"""Replacements of a back-end that must be compiled."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Suffixes:
    """The suffixes of several rows side by side, after a prefix (B, P)."""

    tokens: Tensor
    """(B, Q)"""
    positions: Tensor
    """(B, Q) position in the row; 0 for padding."""
    rows: Tensor
    """(B, Q) the row of each token; -1 for padding."""
    is_key: Tensor
    """(B, Q) whether the token's key is used: not for repeated prefix tokens and padding."""
    shared: Tensor
    """(B) prefix tokens of each question, of P; the others are padding."""
    end: int
    """An upper bound of all positions."""


class EvalModel:
    """`stream` runs whole rows, `follow` the suffixes of rows."""

    def __init__(self, gpt: GPT, config: Config, sizes: Sizes, kernels: Kernels) -> None:
        device = gpt.embedding.weight.device
        config = replace(config, model=replace(config.model, document_mask=None))
        attention = _eager(kernels.attention, config, sizes, device)
        self.kernels = Kernels(attention=attention, qkv=kernels.qkv, products=kernels.products)
        with torch.device("meta"):  # allocates no weights; _share sets them
            self.gpt = GPT(config, sizes, self.kernels)
        _share(gpt, self.gpt)
        _match(gpt, self.gpt)
        self._cached = [_CachedAttention(layer) for layer in _layers(self.gpt)]

    @torch.no_grad()
    def stream(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) -> input of the head (B, T, D)."""
        return self.gpt.stream(tokens)

    @torch.no_grad()
    def follow(self, tokens: Tensor, suffixes: Suffixes) -> Tensor:
        """Prefixes (B, P) and their suffixes -> input of the head (B, Q, D)."""
        try:
            for layer in self._cached:
                layer.caching = True
            self.gpt.stream(tokens)
            masks = _Masks(suffixes, tokens.size(1))
            for layer in self._cached:
                layer.caching, layer.masks = False, masks
            return self.gpt.stream(
                suffixes.tokens, PositionIds(index=suffixes.positions, end=suffixes.end)
            )
        finally:
            for layer in self._cached:
                layer.reset()

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Input of the head (N, D) -> logits (N, V) in fp32."""
        return self.gpt.torch_logits(x)


class _CachedAttention:
    """Wraps a layer's attention: caches keys and values, or prepends the cached ones."""

    def __init__(self, layer: Any) -> None:
        self.attend: Attend = layer.attend
        self.paired: bool = layer.paired
        layer.attend = self
        self.reset()

    def reset(self) -> None:
        self.caching = False
        self.masks: _Masks | None = None
        self.cache: tuple[Tensor, Tensor] | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        if self.masks is None:
            if self.caching:
                self.cache = k.contiguous(), v.contiguous()
            return self.attend(q, k, v, window)
        assert self.cache is not None
        keys, values = (torch.cat(both, dim=1) for both in zip(self.cache, (k, v), strict=True))
        q, keys, values = (x.transpose(1, 2) for x in (q, keys, values))  # (B, H, .., K)
        mask = self.masks.of(window, paired=self.paired)
        with sdpa_kernel(MASKED, set_priority=True):
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return y.transpose(1, 2)


class _Masks:
    """The keys that suffix tokens attend to; one mask a window, for all layers."""

    def __init__(self, suffixes: Suffixes, prefix_length: int) -> None:
        self.suffixes, self.prefix_length = suffixes, prefix_length
        self._made: dict[tuple[int, bool], Tensor] = {}

    def of(self, window: int, *, paired: bool) -> Tensor:
        """(B, 1, Q, P + Q), or twice as many of both where heads are paired."""
        if (window, paired) not in self._made:
            self._made[window, paired] = self._mask(window, 2 if paired else 1)
        return self._made[window, paired]

    def _mask(self, window: int, heads: int) -> Tensor:
        suffixes = self.suffixes
        device = suffixes.tokens.device
        # paired heads are interleaved: token t of head s at heads * t + s
        place = _interleave(suffixes.positions, heads)
        row, is_key = (x.repeat_interleave(heads, dim=1) for x in (suffixes.rows, suffixes.is_key))
        key = torch.arange(self.prefix_length * heads, device=device)
        distance = place[:, :, None] - key
        of_shared = (key < heads * suffixes.shared[:, None])[:, None]  # (B, 1, P)
        sees_shared = of_shared & (distance >= 0) & (distance <= window)
        distance = place[:, :, None] - place[:, None]
        same = (row[:, :, None] == row[:, None]) & is_key[:, None]
        sees_own = same & (distance >= 0) & (distance <= window)
        return torch.cat((sees_shared, sees_own), dim=2)[:, None]


def _interleave(positions: Tensor, heads: int) -> Tensor:
    both = heads * positions[:, :, None] + torch.arange(heads, device=positions.device)
    return both.flatten(1)


def _eager(backend: str, config: Config, sizes: Sizes, device: torch.device) -> str:
    """The back-end, or a replacement that is not compiled."""
    if backend != "flex":
        return backend
    given = device, sizes.head_width, compute_type(config)
    return next(name for name in EAGER if attention.why_not(name, *given) is None)


def _share(source: GPT, eval_model: GPT) -> None:
    """Assign the tensors of the source to the evaluation model."""
    eval_model.load_state_dict(source.state_dict(), assign=True)
    for name, buffer in source.named_buffers():
        owner, _, leaf = name.rpartition(".")
        eval_model.get_submodule(owner).register_buffer(leaf, buffer, persistent=False)


def _match(source: GPT, eval_model: GPT) -> None:
    """Copy what schedules changed and no tensor holds (model/tricks/window_warmup.py)."""
    if source.rotary is not None and eval_model.rotary is not None:
        eval_model.rotary.window_changes = source.rotary.window_changes
    for theirs, ours in zip(_layers(source), _layers(eval_model), strict=True):
        ours.window, ours.qk_scale = theirs.window, theirs.qk_scale


def _layers(gpt: GPT) -> list[Any]:
    """Its attention modules."""
    return [block.attention for block in gpt.blocks if block.attention is not None]
