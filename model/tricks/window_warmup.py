"""Trick `window_warmup_yarn`: attention windows grow over the run; rotary frequencies follow.

The run has equal parts with long windows w_0 < w_1 < ... (short ones at most half as long); after
the last step the long window is the whole context. Difference from modded-nanogpt: there, after the
end of the schedule, some more steps train with the longest training windows at the final learning
rate (15 of 1,285 steps in 2026-08). At each change from w to w', rotary frequencies f (K/2, radians
per token) and attention's scale s follow YaRN:

    rotations = w f / (2 pi);   keep = clamp((rotations - 1) / (32 - 1), 0, 1)
    f  *=  w / w' + keep (1 - w / w');          s  *=  1 + 0.2 ln(w' / w)

Frequencies with many rotations per window stay; those with less than one are slowed, so that the
longer window contains no unseen angle. Queries and keys carry sqrt(s) each.

Why it should help: short windows are cheap while the model learns local structure, and the change
causes no loss spike. Source: window warm-up, modded-nanogpt 2024-11-24 (@fernbear.bsky.social);
YaRN in it, 2025-09-10, #122 (@classiclarryd), with 0.2 instead of 0.1; YaRN itself is Peng and
others, arXiv 2309.00071. Off: one set of windows for the whole run. Evaluations before the last
step use the windows of their step. Interactions: it needs windows, rotary positions and QK norm; no
learned parameter changes, so a stage is a function of the step alone.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import log, prod, sqrt
from typing import Any

from model.config import Config
from model.config.shapes import windows_of
from model.config.stages import long_window
from model.tricks.yarn import WindowChange

SCALE_SLOPE = 0.2


def apply_long_window(gpt: Any, config: Config, long_tokens: int) -> None:
    """Set the model's windows, rotary frequencies and attention scale for a long window."""
    warmup, norm = config.schedule.window_warmup, config.model.qk_norm
    assert warmup is not None
    assert norm is not None
    assert gpt.rotary is not None
    changes = window_changes_until(config, long_tokens)
    scale = warmup.first_scale * attention_scale_growth(changes)
    windows = windows_of(config, len(gpt.blocks), long_tokens)
    attentions: list[Any] = [block.attention for block in gpt.blocks]
    for attention, window in zip(attentions, windows, strict=True):
        if attention is not None:
            attention.window, attention.qk_scale = window, norm.scale * sqrt(scale)
    gpt.rotary.window_changes = changes


def window_changes_until(config: Config, long_tokens: int) -> tuple[WindowChange, ...]:
    """All window changes up to `long_tokens`; the last possible window is the whole context."""
    warmup = config.schedule.window_warmup
    assert warmup is not None
    windows = [long_window(config, share) for share in (*warmup.shares, 1.0)]
    return tuple(pairwise(dict.fromkeys(w for w in windows if w <= long_tokens)))


def attention_scale_growth(changes: Sequence[WindowChange]) -> float:
    """Ratio of attention's scale after these changes to the scale before them."""
    return prod(1 + SCALE_SLOPE * log(new / old) for old, new in changes)
