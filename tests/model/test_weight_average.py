"""Averages of the weights: what evaluations see, and that training does not notice."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.checkpoint.staging import write_tensors
from model.config import Config, WeightAverage
from model.config.derive import derive
from model.config.memory import memory_of
from model.config.reader import load_config
from model.core import source
from model.errors import ConfigErrors, RunError
from model.stepper import compiled_graphs
from model.trainer import Trainer
from model.tricks.weight_average import WeightAverage as Average

CPU = torch.device("cpu")
STACK = Path(__file__).parents[2] / "ablations" / "configs" / "speedrun.yaml"
STEPS = 10
SMALL = {
    "dial.depth": 2,
    "dial.steps": STEPS,
    "dial.batch_tokens": 128,
    "model.width": 64,
    "model.head_width": 32,
    "model.context_tokens": 32,
    "model.windows": None,
    "model.vocab_size": 64,
    "optimizer.muon.lr": 0.1,
    "system.precision": "fp32",
    "system.device": "cpu",
    "system.compile": False,
}


def config_of(average: dict[str, Any] | None, **changes: Any) -> Config:
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(STACK, {**SMALL, "optimizer.weight_average": average, **named})


def trainer_of(average: dict[str, Any] | None, **changes: Any) -> Trainer:
    config = config_of(average, **changes)
    return Trainer(config, derive(config), CPU)


def batch(seed: int) -> Tensor:
    return torch.randint(0, 64, (4, 33), generator=torch.Generator().manual_seed(seed))


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.gpt.named_parameters()}


def in_64_bits(trainer: Trainer) -> dict[str, Tensor]:
    return {name: weight.double() for name, weight in weights_of(trainer).items()}


def averaged_weights(trainer: Trainer) -> dict[str, Tensor]:
    with trainer.averaged_weights():
        return weights_of(trainer)


@pytest.mark.parametrize(
    ("start", "every", "blend"), [(0.0, 1, 1.0), (0.35, 1, 0.6), (0.3, 3, 1.0)]
)
def test_evaluations_see_a_slow_average_of_the_weights(
    start: float, every: int, blend: float
) -> None:
    settings = {"decay": 0.8, "start": start, "every_steps": every, "blend": blend}
    trainer = trainer_of(settings)
    slow = in_64_bits(trainer) if start == 0 else None
    for step in range(STEPS):
        trainer.step(step, batch(step))
        now = in_64_bits(trainer)
        if slow is None:
            slow = now if (step + 1) / STEPS >= start else None
        elif (step + 1) % every == 0:
            for name, weight in now.items():
                for _ in range(every):  # as if the weights had stood there for n steps
                    slow[name] = 0.8 * slow[name] + 0.2 * weight
        for name, got in averaged_weights(trainer).items():
            expected = now[name] if slow is None else (1 - blend) * now[name] + blend * slow[name]
            torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)
    assert slow is not None
    assert not torch.allclose(slow["head.weight"], now["head.weight"], rtol=0.01)


def test_tables_in_bf16_have_averages_in_fp32() -> None:
    model = nn.ParameterDict({"table": torch.full((4, 2), 1.0, dtype=torch.bfloat16)})
    average = Average(model, WeightAverage(decay=0.9), steps=100)
    with torch.no_grad():
        model["table"].fill_(1.0 + 2**-7)  # the next number in bf16
    for step in range(3):
        average.update(step, step)
    assert average.averages["table"].dtype == torch.float32
    expected = 1.0 + 2**-7 * (1 - 0.9**3)
    torch.testing.assert_close(average.averages["table"], torch.full((4, 2), expected))


def test_training_is_that_of_a_run_without_it_bit_by_bit() -> None:
    plain, averaged = trainer_of(None), trainer_of({"decay": 0.9})
    for step in range(4):
        for trainer in (plain, averaged):
            trainer.step(step, batch(step))
            before, places = weights_of(trainer), [p.data_ptr() for p in trainer.gpt.parameters()]
            with trainer.averaged_weights():
                trainer.gpt.token_losses(batch(9)[:, :-1], batch(9)[:, 1:].contiguous())
            assert [p.data_ptr() for p in trainer.gpt.parameters()] == places
            for name, weight in weights_of(trainer).items():
                assert torch.equal(weight, before[name]), name
    for name, weight in weights_of(plain).items():
        assert torch.equal(weight, weights_of(averaged)[name]), name


def test_an_evaluation_that_fails_gives_the_weights_back() -> None:
    trainer = trainer_of({"decay": 0.9})
    trainer.step(0, batch(0))
    before = weights_of(trainer)
    with pytest.raises(RuntimeError, match="no"), trainer.averaged_weights():
        raise RuntimeError("no")
    for name, weight in weights_of(trainer).items():
        assert torch.equal(weight, before[name]), name


@pytest.mark.parametrize("saved_at", [2, 6])
def test_a_resumed_trainer_goes_on_to_the_same_averages(saved_at: int) -> None:
    settings = {"decay": 0.8, "start": 0.4, "every_steps": 2}
    trainer, states = trainer_of(settings), {}
    for step in range(STEPS):
        if step == saved_at:
            file = io.BytesIO()
            torch.save(trainer.state_dict(), file)
            file.seek(0)
            states = torch.load(file, weights_only=True)
        trainer.step(step, batch(step))
    resumed = trainer_of(settings, seed=5)
    resumed.load_state_dict(states)
    assert (states["average"]["averages"] is None) == (saved_at < 0.4 * STEPS)
    for step in range(saved_at, STEPS):
        resumed.step(step, batch(step))
    for name, weight in averaged_weights(trainer).items():
        assert torch.equal(weight, averaged_weights(resumed)[name]), name


def test_a_checkpoint_is_evaluated_as_the_run_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of({"decay": 0.5, "blend": 0.6})
    for step in range(3):
        trainer.step(step, batch(step))
    monkeypatch.setattr(source.checkpoint, "require_whole", lambda *_: None)
    monkeypatch.setattr(source.checkpoint, "read_manifest", lambda _: Manifest)
    path = tmp_path / source.checkpoint.rank_file(0)
    write_tensors(path, trainer.state_dict())
    gpt, _ = source.of_checkpoint(tmp_path, trainer.config, trainer.derived, CPU)
    for name, weight in averaged_weights(trainer).items():
        assert torch.equal(weight, gpt.get_parameter(name)), name
    plain = config_of(None)
    gpt, _ = source.of_checkpoint(tmp_path, plain, derive(plain), CPU)
    for name, weight in weights_of(trainer).items():
        assert torch.equal(weight, gpt.get_parameter(name)), name
    write_tensors(path, trainer_of(None).state_dict())
    with pytest.raises(RunError, match=r"averages of the weights.*the run had it off"):
        source.of_checkpoint(tmp_path, trainer.config, trainer.derived, CPU)


class Manifest:
    """Of a checkpoint that this test wrote."""

    step = 3


@pytest.mark.slow
def test_an_evaluation_of_averages_compiles_nothing_anew() -> None:
    trainer = trainer_of({"decay": 0.9})
    torch._dynamo.reset()
    trainer.gpt.compile_regions(backend="eager")
    trainer.warm_up()
    graphs, losses = compiled_graphs(), []
    for step in range(3):
        trainer.step(step, batch(step))
        tokens = batch(7)
        with trainer.averaged_weights():
            losses.append(trainer.gpt.token_losses(tokens[:, :-1], tokens[:, 1:].contiguous()))
        losses.append(trainer.gpt.token_losses(tokens[:, :-1], tokens[:, 1:].contiguous()))
    assert compiled_graphs() == graphs > 0
    assert not torch.equal(losses[-1], losses[-2])  # the compiled code read the copied values


def test_the_estimates_count_averages_and_what_an_evaluation_keeps() -> None:
    plain, averaged = config_of(None), config_of({})
    derived = derive(plain)
    both = [
        memory_of(config, derived.sizes, derived.parameters, derived.device_batch_rows)
        for config in (plain, averaged)
    ]
    held = sum(p.numel() * p.element_size() for p in trainer_of({}).gpt.parameters())
    assert both[1].states - both[0].states == 4 * derived.parameters_total + held
    assert trainer_of(None).average is None
    assert "average" not in trainer_of(None).state_dict()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("decay", 1.0), ("decay", -0.1), ("start", 1.0), ("start", -0.5)),
        *(("every_steps", 0), ("blend", 0.0), ("blend", 1.5)),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigErrors, match=rf"optimizer\.weight_average\.{name}"):
        derive(config_of({name: value}))
