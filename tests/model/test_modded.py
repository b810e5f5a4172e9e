"""The base `modded`: counts and shapes of the record that it follows, and three steps of it."""

from pathlib import Path

import pytest
import torch

from model.config.catalogue import active
from model.config.not_built import NOT_BUILT
from model.config.parameters import parameters
from model.config.resolve import resolve
from model.trainer import Trainer

MODDED = str(Path(__file__).parents[2] / "ablations" / "configs" / "modded.yaml")
LAYERS, WIDTH, HEADS, VOCAB = 11, 768, 6, 50304  # of train_gpt.py, as are the shapes below
SMALL = {
    "dial.batch_tokens": 2 * 256,
    "dial.steps": 3,
    "model.width": 256,
    "model.context_tokens": 256,
    "data.source": "python-docs",
    "data.tokenizer": "train",
    "model.vocab_size": 512,
    "model.windows.short_tokens": 128,
    "system.precision": "fp32",
    "system.device": "cpu",
    "system.compile": False,
    "system.device_batch_rows": 1,
}


def test_counts_are_those_of_the_record() -> None:
    config, derived = resolve(MODDED, {})
    attention, mlp = 4 * WIDTH * WIDTH * (LAYERS - 1), 2 * 4 * WIDTH * WIDTH * LAYERS
    value_gates = 5 * HEADS * 12
    assert derived.parameters["matrices"] == attention + mlp + value_gates
    assert derived.parameters["value_tables"] == 5 * VOCAB * WIDTH
    assert derived.parameters["head"] == derived.parameters["embedding"] == VOCAB * WIDTH
    shapes = {each.name: each.shape for each in parameters(config, derived.sizes)}
    assert shapes["blocks.0.mlp.up.weight"] == (3072, WIDTH)
    assert not any(name.startswith("blocks.6.attention") for name in shapes)
    assert [layer for layer, window in enumerate(derived.sizes.windows) if window == 2048] == [
        3,
        10,
    ]
    rows = [stage.batch_rows * 2048 for stage in derived.stages]
    assert rows == [131_072, 262_144, 393_216]
    assert derived.weight_decay["matrices"] == pytest.approx(1.2 * 0.023 * 1.52, rel=0.01)


def test_all_tricks_of_the_record_that_are_built_are_on() -> None:
    """Off are what it has not, and fp8, whose head and MLP take different scales there."""
    config, _ = resolve(MODDED, {})
    off = {name for name, is_on in active(config).items() if not is_on}
    controls = {"xsa", "leaky_relu_squared", "swiglu", "softcap", "unet_skips", "weight_average"}
    assert off == {name for name in off if name.startswith("fp8")} | controls | {
        "muon_equalize_rows",
        "muon_renormalize",
    }
    assert "prefix_token_prediction" in NOT_BUILT


@pytest.mark.slow
def test_it_trains_through_all_stages_on_stub_rows() -> None:
    config, derived = resolve(MODDED, SMALL)
    trainer = Trainer(config, derived, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    losses = []
    for step in range(derived.steps):
        stage = next(s for s in reversed(derived.stages) if s.first_step <= step)
        rows = torch.randint(512, (stage.batch_rows, 257), generator=generator)
        rows[:, 0] = 503  # opens a document
        losses.append(trainer.step(step, rows)[0].item())
    trainer.finish()
    assert all(0 < loss < 30 for loss in losses), losses
