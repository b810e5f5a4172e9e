"""What nanochat computes, this trainer computes: weights, rows and questions are the same, and so
are losses, updates, rates, rows of the loader, bits per byte, CORE and counts.

golden/nanochat.json holds what nanochat's own code gave (golden/make_nanochat_trace.py). Both run
in fp32 on a CPU, so what is left is the order of sums: a relative gap of at most TOLERANCE in the
loss of any of 20 steps (7e-7 when this was written), of UPDATE_TOLERANCE in the norm of an update.

A perturbation of all weights by 1e-7 moves these losses as much.

Deliberate differences, none of which shows here: precision (an evaluation sums nats in fp64), a
question with a choice that has no token of its own (model/core/outcomes.py), the rank that reads a
row group (rows do not depend on ranks here), rotary frequencies that are rounded once more there,
and initial values, which have nanochat's distributions and not its random stream.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.config import Config
from model.config.derive import Derived
from model.config.resolve import resolve
from model.config.schedules import lr_scale, muon_decay_scale, muon_momentum
from model.core.evaluation import Evaluation, EvaluationResult
from model.data.prepare import prepare
from model.data.settings import DataSettings
from model.data.tokenizer import SPECIALS, SPLIT_PATTERN, Tokenizer
from model.evaluate import evaluate
from model.optim.labels import group_by_label
from model.trainer import Trainer
from tests.model.golden import inputs

TOLERANCE = 2e-6
UPDATE_TOLERANCE, LATE_UPDATE_TOLERANCE, LATE = 1e-4, 1e-3, 10
"""From step LATE on rounding has grown: gates and single factors move by 5e-4 more or less."""
SPEEDRUN = str(Path(__file__).parents[2] / "ablations" / "configs" / "speedrun.yaml")
TRACE = json.loads((Path(__file__).parent / "golden" / "nanochat.json").read_text("utf-8"))
CPU = torch.device("cpu")
SMALL = {
    "dial.depth": inputs.LAYERS,
    "dial.batch_tokens": inputs.BATCH_ROWS * inputs.CONTEXT,
    "model.width": inputs.WIDTH,
    "model.head_width": inputs.HEAD_WIDTH,
    "model.context_tokens": inputs.CONTEXT,
    "model.vocab_size": inputs.VOCAB,
    "optimizer.muon.lr": inputs.RATES["matrix-lr"],
    "optimizer.embedding.lr": inputs.RATES["embedding-lr"],
    "optimizer.value_tables": {"lr": inputs.RATES["embedding-lr"] / 2},
    "optimizer.head.lr": inputs.RATES["unembedding-lr"],
    "optimizer.resid_scalars": {"lr": inputs.RATES["scalar-lr"] / 100},
    "optimizer.x0_scalars": {"lr": inputs.RATES["scalar-lr"]},
    "schedule.warmup_steps": inputs.OPTIONS["warmup-steps"],
    "system.device": "cpu",
    "system.precision": "fp32",
    "system.compile": False,
    "system.device_batch_rows": 1,
}
PARTS = {
    "transformer.wte.weight": "embedding.weight",
    "lm_head.weight": "head.weight",
    "resid_lambdas": "residual_scalars.resid",
    "x0_lambdas": "residual_scalars.x0",
    "smear_gate.weight": "smear.gate",
    "smear_lambda": "smear.factor",
    "backout_lambda": "backout.factor",
    "attn.c_q.weight": "attention.query.weight",
    "attn.c_k.weight": "attention.key.weight",
    "attn.c_v.weight": "attention.value.weight",
    "attn.c_proj.weight": "attention.out.weight",
    "attn.ve_gate.weight": "attention.value_embedding.gate",
    "mlp.c_fc.weight": "mlp.up.weight",
    "mlp.c_proj.weight": "mlp.down.weight",
}
"""nanochat's name of a parameter, or of its part of a layer -> ours."""
GROUPS = ("head", "embedding", "value_tables", "resid_scalars", "x0_scalars", "smear")
"""Our labels in the order of nanochat's AdamW groups; `smear` has `backout` in it there."""


def ours(name: str) -> str:
    """Our name of nanochat's parameter."""
    if (table := re.fullmatch(r"value_embeds\.(\d+)\.weight", name)) is not None:
        return f"blocks.{table[1]}.attention.value_embedding.table"
    if (part := re.fullmatch(r"transformer\.h\.(\d+)\.(.+)", name)) is not None:
        return f"blocks.{part[1]}.{PARTS[part[2]]}"
    return PARTS[name]


def trainer_of(kind: str, steps: int = inputs.STEPS, **overrides: Any) -> Trainer:
    """`speedrun` in the trace's sizes, filled as nanochat was."""
    settings = {path.replace("__", "."): value for path, value in overrides.items()}
    config, derived = resolve(SPEEDRUN, {**SMALL, "dial.steps": steps, **settings})
    trainer = Trainer(config, derived, CPU)
    names = {ours(name): name for name in TRACE["initial"]}
    with torch.no_grad():
        for name, tensor in trainer.gpt.named_parameters():
            values = inputs.values(names.pop(name), tuple(tensor.shape), kind)
            tensor.copy_(torch.from_numpy(values))
    assert not names, "parameters that only nanochat has"
    return trainer


def losses_of(trainer: Trainer, steps: int, updates_at: tuple[int, ...] = ()) -> Any:
    """Loss of every step, and norms of updates by nanochat's names."""
    rows, losses, updates = torch.from_numpy(inputs.rows(steps)), [], {}
    for step in range(steps):
        taken = trainer.derived.rows(step)
        before = {n: t.detach().clone() for n, t in trainer.gpt.named_parameters()}
        loss, _ = trainer.step(step, rows[taken.start : taken.stop])
        losses.append(loss.item())
        if step in updates_at:
            updates[step] = {
                name: (tensor.detach() - before[name]).double().norm().item()
                for name, tensor in trainer.gpt.named_parameters()
            }
    return losses, updates


@pytest.fixture(scope="module")
def filled() -> Trainer:
    return trainer_of("filled")


@pytest.mark.parametrize("steps", [4, pytest.param(inputs.STEPS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", inputs.KINDS)
def test_losses_and_updates_of_every_step_are_nanochats(kind: str, steps: int) -> None:
    trace = TRACE["training"][kind]
    compared = tuple(step for step in map(int, trace["updates"]) if step < steps)
    losses, updates = losses_of(trainer_of(kind), steps, compared)
    np.testing.assert_allclose(losses, trace["losses"][:steps], rtol=TOLERANCE)
    for step in compared:
        expected = dict(zip(map(ours, trace["names"]), trace["updates"][str(step)], strict=True))
        tolerance = UPDATE_TOLERANCE if step < LATE else LATE_UPDATE_TOLERANCE
        assert updates[step] == pytest.approx(expected, rel=tolerance, abs=1e-9), step


def test_another_floor_of_muons_norms_is_seen_in_the_second_step() -> None:
    """Rows are below nanochat's floor of 1e-6 there, with projections that were zero before."""
    trace = TRACE["training"]["initial"]
    _, updates = losses_of(trainer_of("initial", optimizer__muon__norm_floor=1e-10), 2, (1,))
    expected = dict(zip(map(ours, trace["names"]), trace["updates"]["1"], strict=True))
    apart = {name for name, norm in expected.items() if abs(updates[1][name] / norm - 1) > 1e-3}
    assert "blocks.2.attention.query.weight" in apart
    assert all(name.startswith("blocks.") for name in apart)


def test_rates_momentum_and_decay_of_every_step_are_nanochats() -> None:
    trainer = trainer_of("filled")
    for step, expected in enumerate(TRACE["training"]["filled"]["settings"]):
        *rates, momentum, decay = expected
        scale, own_momentum, decay_scale = scheduled(trainer.config, trainer.derived, step)
        peaks = trainer.derived.learning_rates
        own = [peaks[label] * scale for label in (*GROUPS, *["matrices"] * (len(rates) - 6))]
        assert own == pytest.approx(rates, rel=1e-12), step
        assert own_momentum == pytest.approx(momentum, rel=1e-12), step
        assert trainer.derived.weight_decay["matrices"] * decay_scale == pytest.approx(decay)


@pytest.mark.parametrize("depth", TRACE["derived"])
def test_what_follows_from_the_depth_is_nanochats(depth: str) -> None:
    expected = TRACE["derived"][depth]
    config, derived = resolve(SPEEDRUN, {"dial.depth": int(depth)})
    assert derived.flops_per_token == expected["flops_per_token"]
    assert derived.scaling_parameters == expected["scaling_parameters"]
    assert derived.parameters_total == expected["parameters"]["total"]
    assert derived.planned_tokens == expected["planned_tokens"]
    assert derived.batch_tokens == expected["batch_tokens"]
    assert derived.steps == expected["steps"]
    for label, group in zip(GROUPS, expected["groups"], strict=False):
        settings = getattr(config.optimizer, label)
        own = (settings.beta1, settings.beta2, settings.eps, derived.weight_decay[label])
        assert own == (*group["betas"], group["eps"], group["weight_decay"]), label
        assert derived.learning_rates[label] == pytest.approx(group["initial_lr"], rel=1e-12)
        count = derived.parameters[label] + (derived.parameters["backout"] * (label == "smear"))
        assert count == group["values"], label
    matrices = [group for group in expected["groups"] if group["kind"] == "muon"]
    assert derived.parameters["matrices"] == sum(group["values"] for group in matrices)
    assert derived.learning_rates["matrices"] == pytest.approx(matrices[0]["initial_lr"])
    assert derived.weight_decay["matrices"] == pytest.approx(expected["decay"], rel=1e-12)
    for step, *values in expected["schedule"]:
        scale, momentum, decay_scale = scheduled(config, derived, int(step))
        decay = derived.weight_decay["matrices"] * decay_scale
        assert (scale, momentum, decay) == pytest.approx(values, rel=1e-9, abs=1e-15), step


def scheduled(config: Config, derived: Derived, step: int) -> tuple[float, float, float]:
    """Share of the peak learning rate, momentum of Muon, share of its decay."""
    assert config.optimizer.muon is not None
    steps, schedule = derived.steps, config.schedule
    scale = lr_scale(step, steps, derived.warmup_steps, schedule)
    momentum = muon_momentum(step, steps, config.optimizer.muon, schedule)
    return scale, momentum, muon_decay_scale(step, steps)


def test_backout_has_the_settings_of_smear_whose_group_it_shares() -> None:
    config = trainer_of("filled").config
    assert config.optimizer.backout == config.optimizer.smear


def test_initial_values_have_nanochats_distributions() -> None:
    config, derived = resolve(SPEEDRUN, SMALL)
    gpt = Trainer(config, derived, CPU).gpt
    for name, (mean, deviation) in TRACE["initial"].items():
        tensor = gpt.get_parameter(ours(name)).detach().double()
        assert tensor.shape.numel() > 1 or deviation == 0
        # five standard errors of a mean and of an SD, each of two independent draws
        margin = 5 * (2 / tensor.numel()) ** 0.5 * deviation
        assert tensor.mean().item() == pytest.approx(mean, abs=margin + 1e-7), name
        assert tensor.std(correction=0).item() == pytest.approx(deviation, abs=margin + 1e-7), name


@torch.no_grad()
def test_logits_token_losses_and_bits_per_byte_are_nanochats(filled: Trainer) -> None:
    expected, gpt = TRACE["outputs"], filled.gpt
    rows = inputs.rows(inputs.BPB_STEPS)
    tokens = torch.from_numpy(rows)
    logits = gpt.logits(tokens[:1, :-1])[0]
    assert list(logits.shape) == expected["shape"]
    few = len(expected["first"])
    assert logits[0, :few].tolist() == pytest.approx(expected["first"], abs=2e-6)
    assert logits[-1, -few:].tolist() == pytest.approx(expected["last"], abs=2e-6)
    assert logits.double().square().sum().item() == pytest.approx(expected["squares"], rel=1e-6)
    losses = gpt.token_losses(tokens[:1, :-1], tokens[:1, 1:].contiguous())
    assert losses[:few].tolist() == pytest.approx(expected["losses"], rel=1e-6)
    specials, single, _, triple = expected["bytes"]
    lengths = torch.tensor([*[1] * single, *[3] * triple, *[0] * specials])
    found = evaluate(gpt, rows, lengths, rows_per_forward=2)
    assert found.val_bpb == pytest.approx(expected["bpb"], rel=1e-6)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A token a byte, as the trace's."""
    specials = {name: 256 + at for at, name in enumerate(SPECIALS)}
    ordinary = tuple(bytes([value]) for value in range(256))
    return Tokenizer(pattern=SPLIT_PATTERN, ordinary=ordinary, specials=specials, bos=SPECIALS[0])


def test_rows_of_the_loader_are_nanochats(tokenizer: Tokenizer, tmp_path: Path) -> None:
    expected = TRACE["loader"]
    tokenizer.save(tmp_path / "tokenizer.json")
    settings = DataSettings(
        source=str(inputs.write_documents(tmp_path / "documents")),
        tokenizer=str(tmp_path / "tokenizer.json"),
        vocab_size=tokenizer.vocab_size,
        order="file",
        context_tokens=inputs.CONTEXT,
        validation_rows=1,
        cache_dir=str(tmp_path / "cache"),
    )
    rows = prepare(settings, lambda _: None).rows("train", expected["rows"])
    tokens = rows.tokens(0, expected["rows"]).astype("<i8")
    assert expected["epochs"] > 2
    for row, first in zip(tokens, expected["first"], strict=False):
        assert row[: len(first)].tolist() == first
    blocks = np.split(tokens, len(expected["sha256"]))
    digests = [hashlib.sha256(block.tobytes()).hexdigest()[:16] for block in blocks]
    assert digests == expected["sha256"]


@pytest.fixture(scope="module")
def evaluated(
    filled: Trainer, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> EvaluationResult:
    tasks = inputs.questions() | inputs.continuations(TRACE["core"]["continuations"])
    folder = inputs.write_bundle(tmp_path_factory.mktemp("bundle"), tasks)
    cache = {"data.cache_dir": str(tmp_path_factory.mktemp("cache"))}
    config, derived = resolve(SPEEDRUN, {**SMALL, **cache, "core": {"bundle": str(folder)}})
    return Evaluation(config, derived, tokenizer, lambda _: None)(filled.gpt, filled.kernels)


def test_losses_and_decisions_of_core_are_nanochats(evaluated: EvaluationResult) -> None:
    outcomes, expected = evaluated.outcomes, TRACE["core"]
    names = [task.task.name for task in evaluated.result.tasks]
    assert len(outcomes.task) == len(expected["answers"])
    for at, answer in enumerate(expected["answers"]):
        assert names[outcomes.task[at]] == answer["task"]
        assert outcomes.example[at] == answer["row"]
        own = outcomes.losses[outcomes.first_row[at] : outcomes.first_row[at + 1]]
        np.testing.assert_allclose(own, answer["losses"], rtol=TOLERANCE, err_msg=str(answer))
        assert bool(outcomes.correct[at]) == answer["correct"], answer
    accuracy = {task.task.name: task.accuracy for task in evaluated.result.tasks}
    assert accuracy == pytest.approx(expected["accuracy"])
    assert evaluated.result.core == pytest.approx(expected["core"])


def test_every_parameter_of_nanochat_is_one_of_ours_and_in_its_group(filled: Trainer) -> None:
    assert {ours(name) for name in TRACE["initial"]} == dict(filled.gpt.named_parameters()).keys()
    labels = {*GROUPS, "backout", "matrices"}
    assert group_by_label(filled.gpt).keys() == labels
