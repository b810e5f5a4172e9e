"""What schedules do to a model that trains: against slow loops, and in whole runs."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model.config.derive import derive
from model.config.reader import load_config
from model.optim.tie import split_step
from model.runtime.process import Process
from model.runtime.run_dir import RunDirectory
from model.runtime.stop import Stop
from model.stepper import Stepper, compiled_graphs
from model.trainer import Trainer
from model.tricks import window_warmup, yarn
from model.tricks.multi_token import multi_token_losses
from tests.fixtures import warm_python

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
WARMED = {
    "model.windows": {},
    "model.rotary": {},
    "model.qk_norm": {},
    "schedule.window_warmup": {},
}
UNTIED = {"model.tied_head": False, "optimizer.clip": None}


def trainer_of(tiny: dict[str, Any], overrides: dict[str, Any]) -> Trainer:
    config = load_config(None, {**tiny, **overrides})
    return Trainer(config, derive(config), CPU)


def batch(seed: int, rows: int = 4, context: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 512, (rows, context + 1), generator=generator)


def copies(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def test_several_tokens_weigh_as_a_slow_sum_over_rows_and_offsets() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3 * 7, 11, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 11, (3, 7), generator=generator)
    weights = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
    slow = torch.zeros(3, 7, dtype=torch.float64)
    for row in range(3):
        for i in range(7):
            probabilities = logits.view(3, 7, 11)[row, i].softmax(-1)
            for ahead in range(3):
                if i + ahead < 7:
                    nats = -probabilities[targets[row, i + ahead]].log()
                    slow[row, i] += weights[ahead] * nats
    torch.testing.assert_close(multi_token_losses(logits, targets, weights), slow.flatten())


def test_one_weight_of_one_is_the_loss_of_the_next_token() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(10, 6, generator=generator)
    targets = torch.randint(0, 6, (2, 5), generator=generator)
    losses = multi_token_losses(logits, targets, torch.ones(1))
    torch.testing.assert_close(losses, F.cross_entropy(logits, targets.flatten(), reduction="none"))


def test_a_cut_row_predicts_the_same_targets_with_less_before_them(tiny: dict[str, Any]) -> None:
    trainer = trainer_of(tiny, {})
    rows = batch(1)
    slow = [
        trainer.gpt(row[None, start : start + 16], row[None, start + 1 : start + 17].contiguous())
        for row in rows
        for start in range(0, 64, 16)
    ]
    assert trainer.gradients(rows, pieces=4).item() == pytest.approx(
        torch.stack(slow).mean().item(), rel=1e-6
    )


def test_frequencies_and_scale_follow_yarn_channel_by_channel() -> None:
    frequencies = [1000 ** -(i / 15) for i in range(16)]
    slow = list(frequencies)
    scale = 1.0
    for old, new in ((384, 896), (896, 2048)):
        for i, frequency in enumerate(slow):
            turns = frequency * old / (2 * math.pi)
            if turns <= 1:
                slow[i] = frequency * old / new
            elif turns < 32:
                share = (turns - 1) / 31
                slow[i] = share * frequency + (1 - share) * frequency * old / new
        scale *= 0.2 * math.log(new / old) + 1
    changes = ((384, 896), (896, 2048))
    got = yarn.scale_frequencies(torch.tensor(frequencies, dtype=torch.float64), changes)
    torch.testing.assert_close(got, torch.tensor(slow, dtype=torch.float64))
    assert window_warmup.attention_scale_growth(changes) == pytest.approx(scale)
    assert slow[0] == frequencies[0]  # turns many times: as it was


def test_each_stage_sees_its_windows_and_the_end_the_whole_context(tiny: dict[str, Any]) -> None:
    warmed = {
        **WARMED,
        "model.context_tokens": 512,
        "dial.batch_tokens": 512,
        "schedule.window_warmup": {"shares": [0.25, 0.5]},
        "dial.steps": 4,
    }
    trainer = trainer_of(tiny, warmed)
    rows = torch.randint(0, 512, (1, 513), generator=torch.Generator().manual_seed(1))
    seen = []
    for step in range(4):
        trainer.step(step, rows)
        seen.append([block.attention.window for block in trainer.gpt.blocks])
    trainer.finish()
    assert seen == [[128, 128], [128, 128], [128, 256], [128, 256]]
    assert [block.attention.window for block in trainer.gpt.blocks] == [128, 512]
    assert trainer.gpt.rotary.window_changes == ((128, 256), (256, 512))
    scale = 0.83 * (1 + 0.2 * math.log(2)) ** 2
    assert trainer.gpt.blocks[0].attention.qk_scale == pytest.approx(1.2 * math.sqrt(scale))


def test_tables_step_every_second_step_on_the_sum_of_both_gradients(
    tiny: dict[str, Any],
) -> None:
    every_second = trainer_of(tiny, {**UNTIED, "optimizer.table_interval_steps": 2})
    gpt = every_second.gpt
    embedding, up = gpt.embedding.weight, gpt.blocks[0].mlp.up.weight
    before = copies(embedding, up)
    every_second.step(0, batch(1))
    assert torch.equal(embedding, before[0])
    assert not torch.equal(up, before[1])
    first = embedding.grad.clone()
    slow = trainer_of(tiny, UNTIED)  # the gradient of the second batch alone, at the same weights
    slow.gpt.load_state_dict(gpt.state_dict())
    slow.gradients(batch(2))
    every_second.optimizers.begin(1)
    every_second.gradients(batch(2))
    torch.testing.assert_close(embedding.grad, first + slow.gpt.embedding.weight.grad)
    every_second.optimizers.step(1)
    every_second.optimizers.zero_grad()
    assert not torch.equal(embedding, before[0])
    assert embedding.grad is None


def test_a_tied_table_takes_the_steps_of_a_model_that_is_tied(tiny: dict[str, Any]) -> None:
    """With one table's settings for both, the tied phase is GPT-2's tied head, step by step."""
    common = {"optimizer.clip": 0.5, "dial.steps": 9}
    tied = trainer_of(tiny, common)
    untied = trainer_of(
        tiny, {**common, "model.tied_head": False, "schedule.untie": {"fraction": 0.7}}
    )
    with torch.no_grad():
        tied.gpt.embedding.weight.copy_(untied.gpt.head.weight)
    for step in range(7):
        tied.step(step, batch(step))
        untied.step(step, batch(step))
        assert torch.equal(untied.gpt.embedding.weight, untied.gpt.head.weight)
    torch.testing.assert_close(
        tied.gpt.embedding.weight, untied.gpt.head.weight, rtol=1e-4, atol=1e-6
    )
    state = untied.optimizers.adamw.state
    own, heads = state[untied.gpt.embedding.weight], state[untied.gpt.head.weight]
    assert torch.equal(own["exp_avg"], heads["exp_avg"])
    untied.step(7, batch(7))
    assert not torch.equal(untied.gpt.embedding.weight, untied.gpt.head.weight)
    assert own["step"].item() == heads["step"].item() == 8


def test_the_split_waits_for_the_start_of_an_interval() -> None:
    assert split_step(2 / 3, 100, 1) == 67
    assert split_step(2 / 3, 100, 2) == 68
    assert split_step(0.0, 100, 2) == 0


def test_tie_and_intervals_together_keep_the_tables_equal_until_the_split(
    tiny: dict[str, Any],
) -> None:
    overrides = {**UNTIED, "schedule.untie": {}, "optimizer.table_interval_steps": 2}
    trainer = trainer_of(tiny, {**overrides, "dial.steps": 8})
    embedding, head = trainer.gpt.embedding.weight, trainer.gpt.head.weight
    equal = []
    for step in range(8):
        trainer.step(step, batch(step))
        equal.append(torch.equal(embedding, head))
    assert equal == [True] * 7 + [False]  # from step 6 on apart; step 7 is the next of the tables


STAGED = {
    "schedule.batch_stages": {},
    "schedule.context_stages": {},
    "schedule.multi_token": {},
    "schedule.untie": {},
    "optimizer.table_interval_steps": 2,
    **UNTIED,
}


def test_a_held_schedule_takes_the_batch_of_its_stage_and_steps_its_tables_in_turn(
    tmp_path: Path, tiny: dict[str, Any], handlers_restored: None
) -> None:
    config = load_config(None, {**tiny, **STAGED, "dial.steps": 6})
    directory = RunDirectory(tmp_path / "run")
    process = Process(
        config=config,
        derived=derive(config),
        run=directory,
        stop=Stop(directory, None),
    )
    stepper = Stepper(process, at_step=5, synthetic=True)
    ready = stepper.make_ready(0.0)
    assert ready["batch_tokens"] == 6 * 64
    head, changed = stepper.trainer.gpt.head.weight, []
    for _ in range(4):
        before = head.detach().clone()
        stepper.segment(1)
        changed.append(not torch.equal(head, before))
    assert sorted(changed[:2]) == sorted(changed[2:]) == [False, True]
    directory.finish("completed")


def run(out: Path, overrides: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    base = out.with_suffix(".yaml")
    base.write_text("seed: 1\n")
    command = ["-m", "model.train", "--config", str(base), "--out", str(out)]
    for path, value in overrides.items():
        command += ["--set", f"{path}={json.dumps(value)}"]
    done = warm_python.run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return json.loads((out / "result.json").read_text()), events


def test_a_run_with_all_schedules_takes_its_rows_and_reports_the_speed_of_each_stage(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    result, events = run(tmp_path / "run", {**tiny, **STAGED, "dial.steps": 36})
    steps = [event for event in events if event["event"] == "step"]
    assert [step["tokens"] for step in steps[::12]] == [128, 12 * 128 + 256, 12 * 384 + 384]
    assert result["tokens"] == steps[-1]["tokens"] == 36 * 256
    metrics = result["metrics"]
    assert metrics["tokens_per_s"] is None
    assert {f"stage_{n}_tokens_per_s" for n in (1, 2, 3)} <= metrics.keys()
    assert metrics["tokens_per_s_job"] > 0


def test_a_timed_run_ends_with_its_seconds_and_records_it(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    timed = {"dial.train_time_s": 0.3, "dial.tokens": 256 * 5000}
    overrides = {name: value for name, value in tiny.items() if name != "dial.steps"}
    result, events = run(tmp_path / "run", {**overrides, **timed})
    steps = [event for event in events if event["event"] == "step"]
    assert 0.3 <= result["metrics"]["train_time_s"] < 1.0
    assert result["steps"] == len(steps) < 5000
    assert [e["step"] for e in events if e["event"] == "horizon"] == [len(steps)]
    assert [e["step"] for e in events if e["event"] == "evaluation"] == [len(steps)]
    assert steps[-1]["lr_scale"] < 0.5  # the cosine ran by the seconds
    resolved = json.loads((tmp_path / "run" / "config.json").read_text())["resolved"]
    assert resolved["horizon"] == "train_time_s"


def test_all_shapes_are_compiled_before_the_first_step(tiny: dict[str, Any]) -> None:
    long = {"model.context_tokens": 256, "dial.batch_tokens": 1024}
    trainer = trainer_of(tiny, {**STAGED, **WARMED, **long, "dial.steps": 6})
    torch._dynamo.reset()
    trainer.gpt.compile_regions(backend="eager")
    with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
        trainer.warm_up()
        graphs = compiled_graphs()
        for step in range(6):
            trainer.step(step, batch(step, len(trainer.derived.rows(step)), 256))
        trainer.finish()
        whole = batch(9, trainer.derived.device_batch_rows, 256)
        trainer.gpt.token_losses(whole[:, :-1], whole[:, 1:].contiguous())
    assert compiled_graphs() == graphs > 0
