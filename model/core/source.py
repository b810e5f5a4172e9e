"""Loads a model to evaluate without training: from a run's checkpoint, or at initialisation."""

from pathlib import Path
from typing import Any

import torch

from model.arch.init import initialise
from model.checkpoint import directory as checkpoint
from model.checkpoint.staging import read_tensors
from model.config import Config
from model.config.derive import Derived
from model.config.stages import stage_at
from model.errors import DamagedCheckpoint, RunError
from model.gpt import GPT
from model.kernels import Kernels
from model.tricks.weight_average import load_averaged_weights
from model.tricks.window_warmup import apply_long_window

WEIGHTS_RANK = 0  # the rank whose file of a checkpoint holds the weights


def at_initialisation(config: Config, derived: Derived, device: torch.device) -> GPT:
    """The model at the start of a run of this configuration."""
    gpt = _built(config, derived, device)
    initialise(gpt, config.seed)
    return gpt


def of_checkpoint(
    path: Path,
    config: Config,
    derived: Derived,
    device: torch.device,
    kernels: Kernels | None = None,
) -> tuple[GPT, int]:
    """The model in a checkpoint as the run's own evaluations see it, and its step. Raises RunError
    for a damaged or incompatible one.

    `kernels`: those of its forward pass; null for torch's own.
    """
    manifest = checkpoint.read_manifest(path)
    checkpoint.require_whole(path, manifest, WEIGHTS_RANK)
    gpt = _built(config, derived, device, kernels)
    state = read_tensors(path / checkpoint.rank_file(WEIGHTS_RANK))
    try:
        gpt.load_state_dict(state["model"])
    except RuntimeError as error:
        raise checkpoint.not_loadable(path, error) from error
    if (averaged := config.optimizer.weight_average) is not None:
        _require_averages(path, state)
        load_averaged_weights(gpt, state["average"], averaged)
    if config.schedule.window_warmup is not None:
        done = manifest.step >= derived.steps
        stage = derived.stages[-1] if done else stage_at(derived.stages, manifest.step)
        apply_long_window(gpt, config, derived.sizes.context if done else stage.long_window_tokens)
    return gpt, manifest.step


def checkpoint_of(run_dir: Path, step: int | None) -> Path:
    """A run's newest intact checkpoint, or that of `step`. Raises RunError where there is none."""
    folder = checkpoint.folder_of(run_dir)
    listed = checkpoint.listed(folder)
    for path in listed:
        try:
            manifest = checkpoint.read_manifest(path)
            if step in (None, manifest.step):
                checkpoint.require_whole(path, manifest, WEIGHTS_RANK)
                return path
        except DamagedCheckpoint:
            if step is not None:
                continue
    raise RunError(
        path=str(folder),
        expected="a whole checkpoint" + ("" if step is None else f" of step {step}"),
        got=", ".join(path.name for path in reversed(listed)) or "none",
        hint="Set checkpoint.every_steps to write checkpoints.",
    )


def _require_averages(path: Path, state: dict[str, Any]) -> None:
    if "average" not in state:
        raise RunError(
            path=str(path),
            expected="averages of the weights, for optimizer.weight_average",
            got="none: the run had it off",
            hint="Set optimizer.weight_average: null to evaluate the weights.",
        )


def _built(
    config: Config, derived: Derived, device: torch.device, kernels: Kernels | None = None
) -> GPT:
    with device:
        return GPT(config, derived.sizes, kernels or Kernels(attention="sdpa"))
