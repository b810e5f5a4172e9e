"""Causal attention with a window: one interface and several back-ends.

Trick `windows`: a query sees itself and the `window` previous keys (FlashAttention's
`window_size=(window, 0)`); this is full causal attention if the window reaches the start of the
row. Why it helps: most of attention's use is local, and short windows cost a quarter; the last
layer always sees the whole context. Off: every layer has the full window. Long-short windows:
@leloykun, @KoszarskyB.

A back-end is one file here with two functions. `attend` maps q, k, v (B, T, H, K) and a window in
tokens to (B, T, H, K), without dropout, with scores scaled by K^-0.5. `why_not` returns why the
back-end cannot run on a device. Back-ends in MASKS also have `document_mask`, which computes a mask
of window and documents (trick `document_mask`) once for all layers of one window, as an argument of
`attend`. Availability is checked before the model is built; a requested back-end that cannot run is
an error. A kernel package is imported only if its back-end is checked and the machine meets all
other requirements.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.attention import flash2, flash3, flash4, flex, sdpa
from model.attention.custom_op import Attend
from model.attention.requirements import Problem
from model.attention.sdpa import band_mask
from model.errors import MachineError

__all__ = ["BACKENDS", "MASKS", "Attend", "band_mask", "choose", "why_not"]

BACKENDS: dict[str, Attend] = {
    "flash4": flash4.attend,
    "flash3": flash3.attend,
    "flex": flex.attend,
    "flash2": flash2.attend,
    "sdpa": sdpa.attend,
}
MASKS: dict[str, Callable[[Tensor, int], Any]] = {
    "flex": flex.document_mask,
    "sdpa": sdpa.document_mask,
}
"""Document indices (B, T), in order, and a window -> the mask argument of `attend`."""
# flash3 is not included until its parity is verified on a GPU
AUTO = ("flash4", "flex", "flash2", "sdpa")
_WHY_NOT: dict[str, Callable[[torch.device, int, torch.dtype], Problem | None]] = {
    "flash4": flash4.why_not,
    "flash3": flash3.why_not,
    "flex": flex.why_not,
    "flash2": flash2.why_not,
    "sdpa": sdpa.why_not,
}


def why_not(
    name: str,
    device: torch.device,
    head_width: int,
    dtype: torch.dtype,
    *,
    documents: bool = False,
) -> tuple[str, str] | None:
    """Reason and hint if the back-end cannot run these heads on the device, otherwise None;
    `documents` also requires document masks."""
    if documents and name not in MASKS:
        hint = f"Set system.attention: auto, {' or '.join(MASKS)}, or model.document_mask: null."
        return f"{name} does not support document masks", hint
    return _WHY_NOT[name](device, head_width, dtype)


def choose(
    name: str,
    device: torch.device,
    head_width: int,
    dtype: torch.dtype,
    *,
    documents: bool = False,
) -> str:
    """Select a back-end; `auto` selects the first of AUTO that can run.

    Raises MachineError if a named back-end cannot run.
    """
    arguments = device, head_width, dtype
    if name == "auto":
        return next(
            backend for backend in AUTO if why_not(backend, *arguments, documents=documents) is None
        )
    problem = why_not(name, *arguments, documents=documents)
    if problem is not None:
        reason, hint = problem
        raise MachineError(
            path="system.attention", expected=f"{name} to run here", got=reason, hint=hint
        )
    return name
