"""Causal attention with a window, through one interface and several back-ends.

Trick `windows`: a query sees itself and the `window` keys before it (FlashAttention's
`window_size=(window, 0)`), which is full causal attention where the window reaches the row's
start. Why it helps: most of attention's use is local, and short windows cost a quarter; the last
layer always sees all. Off means that every layer has the full window. Long-short windows:
@leloykun, @KoszarskyB.

A back-end is one file here with two functions: `attend` takes q, k, v (B, T, H, K) and a window in
tokens and returns (B, T, H, K), without dropout, scores scaled by K^-0.5; `why_not` says what keeps
it from running on a device. Those in MASKS also have `document_mask`, which makes a mask of window
and documents (trick `document_mask`) once for all layers of one window; `attend` then takes it.
What can run is checked before the model is built; a back-end that is asked for and cannot run stops
the run. A kernel package is imported when its back-end is asked about and the machine has passed
every other check, never at import.
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
"""Documents (B, T), numbered in order, and a window -> the mask that `attend` takes."""
# flash3 joins once its parity has been seen on a GPU
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
    """Reason and hint where the back-end cannot run these heads on the device, else null;
    `documents` asks for document masks too."""
    if documents and name not in MASKS:
        hint = f"Set system.attention: auto, {' or '.join(MASKS)}, or model.document_mask: null."
        return f"{name} has no document mask here", hint
    return _WHY_NOT[name](device, head_width, dtype)


def choose(
    name: str,
    device: torch.device,
    head_width: int,
    dtype: torch.dtype,
    *,
    documents: bool = False,
) -> str:
    """The back-end that will run; `auto` takes the first of AUTO that can.

    Raises MachineError where one was asked for and cannot run.
    """
    given = device, head_width, dtype
    if name == "auto":
        return next(one for one in AUTO if why_not(one, *given, documents=documents) is None)
    problem = why_not(name, *given, documents=documents)
    if problem is not None:
        reason, hint = problem
        raise MachineError(
            path="system.attention", expected=f"{name} to run here", got=reason, hint=hint
        )
    return name
