"""Convert the optimizer state of C ranks to another number of ranks.

A rank stores moments of its rows of large tensors under AdamW, and its shard of each stack of
matrices under Muon. All shards are cut along the first dimension: the states of all ranks are
concatenated along it and cut again, without rounding. Accumulating gradients (trick
`tables_every_second_step`) are not reduced yet: rank 0 gets their sum over ranks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.optim.labels import Optimizers
from model.optim.muon import Muon


def reshard_state(states: Sequence[dict[str, Any]], optimizers: Optimizers) -> dict[str, Any]:
    """This rank's state, from the saved states of another number of ranks, in order of rank.

    Model and settings must be those of `optimizers`.
    """
    muon = None
    if optimizers.muon is not None:
        muon = _muon([state["muon"] for state in states], optimizers.muon)
    return {
        "adamw": _adamw([state["adamw"] for state in states], optimizers),
        "muon": muon,
        "waiting": _waiting([state["waiting"] for state in states], optimizers),
    }


def _adamw(states: Sequence[dict[str, Any]], optimizers: Optimizers) -> dict[str, Any]:
    own = optimizers.adamw.state_dict()
    shards = {id(shard.local): shard for shard in optimizers.shards}
    params = [param for group in optimizers.adamw.param_groups for param in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for index, param in enumerate(params):
        if index not in states[0]["state"]:
            continue  # a table without a step so far
        shard = shards.get(id(param))
        whole = param if shard is None else shard.full
        parts = [state["state"][index] for state in states]
        moments[index] = {
            name: _local_rows(_merge([part[name] for part in parts], whole), param, optimizers)
            for name in parts[0]
        }
    return {"state": moments, "param_groups": own["param_groups"]}


def _merge(parts: Sequence[Tensor], whole: nn.Parameter) -> Tensor:
    """A moment of all rows; step counts and replicated moments are returned unchanged."""
    if parts[0].ndim == 0 or parts[0].shape == whole.shape:
        return parts[0]
    return torch.cat(list(parts))


def _local_rows(moment: Tensor, param: nn.Parameter, optimizers: Optimizers) -> Tensor:
    if moment.ndim == 0 or moment.shape == param.shape:
        return moment
    return moment[optimizers.ranks.share(moment.size(0))].clone()


def _muon(states: Sequence[dict[str, Any]], muon: Muon) -> dict[str, Any]:
    """Stacks of Muon, padded with zero matrices if ranks do not divide them."""
    result: dict[str, Any] = {}
    for stack in muon.stacks:
        result[stack.name] = {}
        for name in stack.state():
            matrices = torch.cat([state[stack.name][name] for state in states])
            padded = matrices.new_zeros(len(stack.all_weights), *matrices.shape[1:])
            real = len(stack.matrices)
            padded[:real] = matrices[:real]
            result[stack.name][name] = padded[stack.ranks.share(len(padded))].clone()
    return result


def _waiting(states: Sequence[list[Tensor]], optimizers: Optimizers) -> list[Tensor]:
    sums = [
        torch.stack([part.float() for part in parts]).sum(0) for parts in zip(*states, strict=True)
    ]
    return [total if optimizers.ranks.rank == 0 else torch.zeros_like(total) for total in sums]
