"""The optimizer's state of C ranks as that of another number of ranks.

A rank keeps moments of its rows of large tensors under AdamW and of its share of each stack of
matrices under Muon. All shares are cut along the first dimension, so the states of all ranks are
put together along it and cut anew; nothing is rounded. What waits for the next step (trick
`tables_every_second_step`) is a sum over ranks that has not been taken: rank 0 gets the sum.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.optim.labels import Optimizers
from model.optim.muon import Muon


def resharded(states: Sequence[dict[str, Any]], optimizers: Optimizers) -> dict[str, Any]:
    """This rank's state, from those that all ranks of another number of ranks have saved.

    `states` are by rank; the model and its settings are those of `optimizers`.
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
    shards = {id(shard.own): shard for shard in optimizers.portions}
    params = [param for group in optimizers.adamw.param_groups for param in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for index, param in enumerate(params):
        if index not in states[0]["state"]:
            continue  # a table that has taken no step yet
        shard = shards.get(id(param))
        whole = param if shard is None else shard.whole
        parts = [state["state"][index] for state in states]
        moments[index] = {
            name: _own_rows(_whole([part[name] for part in parts], whole), param, optimizers)
            for name in parts[0]
        }
    return {"state": moments, "param_groups": own["param_groups"]}


def _whole(parts: Sequence[Tensor], whole: nn.Parameter) -> Tensor:
    """A moment of all rows; a step count, or a moment that every rank has in full, as it is."""
    if parts[0].ndim == 0 or parts[0].shape == whole.shape:
        return parts[0]
    return torch.cat(list(parts))


def _own_rows(moment: Tensor, param: nn.Parameter, optimizers: Optimizers) -> Tensor:
    if moment.ndim == 0 or moment.shape == param.shape:
        return moment
    return moment[optimizers.ranks.share(moment.size(0))].clone()


def _muon(states: Sequence[dict[str, Any]], muon: Muon) -> dict[str, Any]:
    """A stack is filled up with matrices of zeros where ranks do not divide it."""
    resharded: dict[str, Any] = {}
    for stack in muon.stacks:
        resharded[stack.name] = {}
        for name in stack.state():
            matrices = torch.cat([state[stack.name][name] for state in states])
            padded = matrices.new_zeros(len(stack.held), *matrices.shape[1:])
            real = len(stack.matrices)
            padded[:real] = matrices[:real]
            resharded[stack.name][name] = padded[stack.ranks.share(len(padded))].clone()
    return resharded


def _waiting(states: Sequence[list[Tensor]], optimizers: Optimizers) -> list[Tensor]:
    sums = [
        torch.stack([part.float() for part in parts]).sum(0) for parts in zip(*states, strict=True)
    ]
    return [total if optimizers.ranks.rank == 0 else torch.zeros_like(total) for total in sums]
