"""The contract that every trick of the catalogue keeps, on and off."""

import io
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.arch.init import initialise
from model.arch.parameter import declaration_of
from model.config import Config
from model.config.catalogue import TRICKS, active
from model.config.derive import derive, flops_per_token
from model.config.parameters import parameters
from model.config.reader import load_config
from model.config.resolve import resolve
from model.config.stages import stage_at
from model.errors import ConfigErrors
from model.evaluate import evaluate
from model.gpt import GPT
from model.kernels import REFERENCE
from model.optim.labels import Optimizers, group_by_label
from model.trainer import Trainer

BASES = Path(__file__).parents[2] / "ablations" / "configs"
SMALL = {
    "dial.depth": 4,
    "dial.batch_tokens": 320,
    "model.width": 128,
    "model.context_tokens": 160,
    "model.vocab_size": 512,
    "system.precision": "fp32",
    "system.device": "cpu",
    "system.compile": False,
}
CPU = torch.device("cpu")
STACK = BASES / "speedrun.yaml"
# switching one of these off changes how another table is drawn, because that table takes its part
REDRAWN = {"untied_head": {"embedding.weight"}}


def config_with(base: Path | None, overrides: dict[str, object]) -> Config:
    return load_config(base, {**SMALL, **overrides})


def built(config: Config, seed: int = 7) -> GPT:
    model = GPT(config, derive(config).sizes, REFERENCE)
    initialise(model, seed)
    return model


def batch(config: Config, rows: int = 2, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, config.model.context_tokens + 1)
    return torch.randint(0, config.model.vocab_size, shape, generator=generator)


def loss_of(model: GPT, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens[:, :-1], tokens[:, 1:].contiguous())


def token_losses_of(model: GPT, tokens: torch.Tensor) -> torch.Tensor:
    return model.token_losses(tokens[:, :-1], tokens[:, 1:].contiguous())


class Operations(TorchDispatchMode):
    """Counts the operations that reach the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def operations_of(config: Config) -> Counter[str]:
    model, tokens = built(config), batch(config)
    loss_of(model, tokens)  # fills the caches of masks and angles
    with Operations() as operations:
        loss_of(model, tokens)
    return operations.counts


def turned(name: str, on: bool) -> Config:
    """The trick off in the full stack, or on alone (with what it requires) in the bare model."""
    trick = TRICKS[name]
    if not on:
        stack = active(config_with(STACK, {}))
        needed = {path: value for other in trick.requires if not stack[other]
                  for path, value in TRICKS[other].on.items()}  # fmt: skip
        return config_with(STACK, {**needed, **trick.off})
    return config_with(None, {**required(name), **trick.on})


def required(name: str) -> dict[str, object]:
    """Overrides that switch on what the trick requires."""
    return {path: on for needed in TRICKS[name].requires for path, on in TRICKS[needed].on.items()}


def company(name: str) -> tuple[str, ...]:
    """The trick and all others, but for those in conflict with it or with one before them."""
    chosen = [name]
    for other in TRICKS:
        clashes = [one for one in chosen if other in TRICKS[one].conflicts]
        clashes += [one for one in chosen if one in TRICKS[other].conflicts]
        if other != name and not clashes:
            chosen.append(other)
    return tuple(sorted(chosen))


MODEL_TRICKS = [name for name, trick in TRICKS.items() if next(iter(trick.on)).startswith("model.")]
ADDED_MODULES = {
    "residual_scalars": "residual_scalars",
    "backout": "backout",
    "unet_skips": "unet_skips",
    "value_embeddings": "value_embedding",
    "smear": "smear",
    "bigram_hash_embedding": "bigram_hash_embedding",
    "sparse_attention_gate": "sparse_gate",
    "learnable_xsa": "learnable_xsa",
    "swiglu": "swiglu",
    "mudd_connections": "mudd_connections",
    "mudd_gates": "mudd_connections.gates",
}
STEPS = 3
SHORT = {"dial.depth": 2, "dial.steps": STEPS}
STAGED = (
    *("batch_size_schedule", "sequence_length_schedule"),
    *("window_warmup_yarn", "multi_token_prediction"),
)
LONGER = {
    # three windows of different length; and two shapes of three equal ones
    "window_warmup_yarn": {"model.context_tokens": 512, "dial.batch_tokens": 1024},
    "sequence_length_schedule": {"schedule.context_stages": {"pieces": [4, 2, 1]}},
}
OUT_OF_RANGE = [
    ("windows", "model.windows.pattern", "SX"),
    ("windows", "model.windows.short_tokens", 161),
    ("muon", "optimizer.muon.momentum", 1.0),
    ("muon_normuon", "optimizer.muon.normuon.beta2", 1.0),
    ("adamw_cautious_decay", "optimizer.adamw_cautious_decay.labels", ["no_such"]),
    ("weight_average", "optimizer.weight_average.decay", 1.0),
    ("value_embeddings", "model.value_embeddings.gate_channels", 129),
    ("bigram_hash_embedding", "model.bigram_hash_embedding.table_multiple", 0),
    ("smear", "model.smear.gate_channels", 0),
    ("softcap", "model.softcap.cap", 0.0),
    ("logit_rescale", "model.logit_rescale.scale", 0.0),
    ("rotary", "model.rotary.base", 0.0),
    ("half_rotary", "model.rotary.half.base", -1.0),
    ("mudd_connections", "model.mudd_connections.sources", [99]),
    ("mudd_gates", "model.mudd_connections.gates.hidden", 0),
    ("document_mask", "model.document_mask.bos_id", 512),
    ("dropped_layers", "model.dropped_layers.attention", [99]),
    ("dropped_layers", "model.dropped_layers.mlp", [4]),
    ("paired_heads", "model.paired_heads.every", 0),
    ("sparse_attention_gate", "model.sparse_attention_gate.gate_channels", 0),
    ("learnable_xsa", "model.learnable_xsa.layers", [99]),
    ("qk_norm", "model.qk_norm.scale", 0.0),
    ("fp8", "model.fp8", {"head": 1}),
    ("wide_heads", "model.head_width", 0),
    ("table_rates", "optimizer.head.beta2", 1.0),
    ("warmdown", "schedule.warmdown.fraction", 1.1),
    ("warmdown", "schedule.warmdown.final_lr", -0.1),
    ("tables_every_second_step", "optimizer.table_interval_steps", 0),
    ("tie_then_untie", "schedule.untie.fraction", -0.1),
    ("batch_size_schedule", "schedule.batch_stages.factors", [0.0, 1.0, 1.5]),
    ("sequence_length_schedule", "schedule.context_stages.pieces", [3]),
    ("window_warmup_yarn", "schedule.window_warmup.shares", [0.5, 1.5]),
    ("multi_token_prediction", "schedule.multi_token.weights", [1.0, -0.5]),
    ("no_clipping", "optimizer.clip", -1.0),
]
ANY_NUMBER = {"residual_scalars", "backout", "unet_skips"}
"""Their settings are initial factors, which may be any number."""
COMPANIES = sorted({company(name) for name in TRICKS})


@pytest.mark.parametrize("name", TRICKS)
def test_off_and_on_are_seen_as_such(name: str) -> None:
    assert active(turned(name, on=True))[name]
    assert not active(turned(name, on=False))[name]
    assert not any(active(Config()).values())


@pytest.mark.parametrize("name", ADDED_MODULES)
def test_off_leaves_no_parameter_buffer_or_key(name: str) -> None:
    model = built(turned(name, on=False))
    assert not [key for key in model.state_dict() if ADDED_MODULES[name] in key]
    assert not list(model.buffers())


def test_bare_model_runs_the_operations_of_a_plain_gpt2_and_no_more() -> None:
    config = config_with(None, {})
    model, tokens = built(config), batch(config)
    with Operations() as plain:
        expected = plain_gpt2(dict(model.named_parameters()), tokens, layers=4, heads=2)
    assert operations_of(config) == plain.counts
    torch.testing.assert_close(loss_of(model, tokens), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted({*MODEL_TRICKS} - {"zero_init", "untied_head"}))
def test_off_costs_no_operation_that_on_would_add(name: str) -> None:
    """Bare model plus the trick minus the trick is the bare model, operation by operation; bare but
    for what the trick requires."""
    bare = operations_of(config_with(None, required(name)))
    on = operations_of(turned(name, on=True))
    off_again = {**required(name), **TRICKS[name].on, **TRICKS[name].off}
    assert operations_of(config_with(None, off_again)) == bare
    if name not in ("wide_heads", "half_rotary"):  # other shapes or angles, same operations
        assert on != bare


@pytest.mark.parametrize("name", TRICKS)
def test_every_parameter_has_one_label_and_a_finite_gradient(name: str) -> None:
    config = turned(name, on=True)
    model = built(config)
    labels = group_by_label(model)
    assert sum(len(group) for group in labels.values()) == len(list(model.parameters()))
    Optimizers(model, config, derive(config))  # asserts the table exhaustive both ways
    loss_of(model, batch(config)).backward()
    for key, tensor in model.named_parameters():
        assert tensor.grad is not None, key
        assert tensor.grad.isfinite().all(), key


@pytest.mark.parametrize("name", MODEL_TRICKS)
def test_on_moves_the_loss_unless_neutral_at_init(name: str) -> None:
    # a plain gpt2-style init, so that no zero projection hides a trick in the blocks
    off, on = config_with(None, required(name)), turned(name, on=True)
    # the loss of every token, because the mean of two rows can round to the same number; and that
    # mean, because what only training does is not in the others
    before, after = (
        torch.cat([token_losses_of(model, tokens), loss_of(model, tokens).detach()[None]])
        for model, tokens in ((built(config), batch(config)) for config in (off, on))
    )
    assert torch.equal(before, after) == TRICKS[name].neutral_at_init


@pytest.mark.parametrize("name", TRICKS)
def test_toggling_leaves_all_other_initial_values_bit_identical(name: str) -> None:
    full, without = built(config_with(STACK, {})), built(turned(name, on=False))
    if name == "zero_init":  # it is the distribution itself
        return
    redrawn, kept = REDRAWN.get(name, set()), dict(without.named_parameters())
    shared = [key for key, _ in full.named_parameters() if key in kept and key not in redrawn]
    assert len(shared) > 20
    for key in shared:
        if kept[key].shape == full.get_parameter(key).shape:
            assert torch.equal(full.get_parameter(key), kept[key]), key
        else:
            assert name == "wide_heads", key
            assert key.endswith("value_embedding.gate")  # one row a head


@pytest.mark.parametrize("name", TRICKS)
def test_counts_by_formula_are_those_of_the_built_model(name: str) -> None:
    for on in (True, False):
        config = turned(name, on)
        assert_counts_are_those_of(GPT(config, derive(config).sizes, REFERENCE), config)


def assert_counts_are_those_of(model: GPT, config: Config) -> None:
    expected = {p.name: (p.shape, p.label) for p in parameters(config, derive(config).sizes)}
    actual = {
        key: (tuple(tensor.shape), declaration_of(tensor).label)
        for key, tensor in model.named_parameters()
    }
    assert actual == expected


@pytest.mark.parametrize("name", TRICKS)
def test_flops_equal_a_slow_count_over_layers_and_windows(name: str) -> None:
    config = turned(name, on=True)
    assert_flops_are_those_of(GPT(config, derive(config).sizes, REFERENCE), config)


def assert_flops_are_those_of(model: GPT, config: Config) -> None:
    derived = derive(config)
    matmul = sum(
        tensor.numel()
        for key, tensor in model.named_parameters()
        if (key.startswith("blocks.") and "table" not in key)
        or key == "smear.gate"
        or (key.startswith("mudd_connections.") and tensor.ndim == 2)
    )
    matmul += (model.head or model.embedding).weight.numel()
    attention = 0
    for block in model.blocks:
        if block.attention is None:
            continue
        visible = min(block.attention.window, config.model.context_tokens)
        # forward and backward (3 times) of two products of 2 K FLOPs a visible key and head
        attention += 3 * 2 * 2 * block.attention.head_width * block.attention.heads * visible
    assert derived.flops_per_token == 6 * matmul + attention
    assert derived.flops_per_token == flops_per_token(matmul, derived.sizes)


@pytest.mark.parametrize("together", COMPANIES, ids=range(len(COMPANIES)))
def test_all_tricks_that_do_not_conflict_work_together(together: tuple[str, ...]) -> None:
    overrides = {path: on for name in together for path, on in TRICKS[name].on.items()}
    # a width of two wide heads, because paired heads need an even number
    config, derived = resolve(None, {**SMALL, **overrides, "model.width": 256})
    assert all(active(config)[name] for name in together)
    model = built(config)
    Optimizers(model, config, derived)
    loss = loss_of(model, batch(config))
    loss.backward()
    assert loss.isfinite()
    for key, tensor in model.named_parameters():
        assert tensor.grad is not None, key
        assert tensor.grad.isfinite().all(), key
    assert_counts_are_those_of(model, config)
    assert_flops_are_those_of(model, config)


@pytest.mark.parametrize("name", [name for name, trick in TRICKS.items() if trick.requires])
def test_a_missing_requirement_fails_before_anything_runs(name: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        resolve(None, {**SMALL, **TRICKS[name].on})
    (needed, *_) = (path for path in TRICKS[TRICKS[name].requires[0]].on)
    assert needed in str(caught.value)


@pytest.mark.parametrize("name", TRICKS)
def test_alone_it_trains_through_its_stages_is_evaluated_and_resumed(name: str) -> None:
    on = {**required(name), **TRICKS[name].on, **LONGER.get(name, {})}
    config = config_with(None, {**SHORT, **on})
    trainer = Trainer(config, derive(config), CPU)
    stages = trainer.derived.stages
    assert {stage_at(stages, step) for step in range(STEPS)} == {*stages}
    assert len(stages) == (STEPS if name in STAGED else 1)
    file = io.BytesIO()
    for step in range(STEPS):
        if step == STEPS - 1:
            torch.save(trainer.state_dict(), file)
        assert trained_on(trainer, step).isfinite()
    file.seek(0)
    resumed = Trainer(replace(config, seed=config.seed + 1), trainer.derived, CPU)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    trained_on(resumed, STEPS - 1)
    assert evaluation_of(trainer) == evaluation_of(resumed)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRICKS)
def test_in_pairs_it_trains_through_their_stages(name: str) -> None:
    """With every later trick of the catalogue that it has no conflict with."""
    others = list(TRICKS)[list(TRICKS).index(name) + 1 :]
    for other in others:
        if other in TRICKS[name].conflicts or name in TRICKS[other].conflicts:
            continue
        on = {**required(name), **required(other), **TRICKS[name].on, **TRICKS[other].on}
        longer = {**LONGER.get(name, {}), **LONGER.get(other, {})}
        # two wide heads, and a layer of each kind that any two tricks need
        config = config_with(None, {**SHORT, "dial.depth": 4, "model.width": 256, **on, **longer})
        trainer = Trainer(config, derive(config), CPU)
        losses = [trained_on(trainer, step).item() for step in range(STEPS)]
        evaluation_of(trainer)
        assert all(map(math.isfinite, losses)), f"{name} with {other}: {losses}"


def trained_on(trainer: Trainer, step: int) -> torch.Tensor:
    """The loss of a step on rows of its stage."""
    rows = len(trainer.derived.rows(step))
    return trainer.step(step, batch(trainer.config, rows, seed=step))[0]


def evaluation_of(trainer: Trainer) -> tuple[float, float]:
    """Validation loss and bits per byte behind the last step, all tokens being a byte."""
    trainer.finish()
    rows, of_one_byte = batch(trainer.config, 3).numpy(), torch.ones(512, dtype=torch.int64)
    with trainer.averaged_weights():
        found = evaluate(trainer.gpt, rows, of_one_byte, trainer.derived.device_batch_rows)
    assert math.isfinite(found.val_bpb)
    return found.val_loss, found.val_bpb


@pytest.mark.parametrize(("name", "path", "value"), OUT_OF_RANGE)
def test_a_setting_out_of_its_range_is_refused(name: str, path: str, value: object) -> None:
    overrides = {**required(name), **TRICKS[name].on, path: value}
    with pytest.raises(ConfigErrors) as caught:
        derive(config_with(None, overrides))
    assert path in str(caught.value)


def test_every_setting_of_a_trick_has_a_range() -> None:
    settings = {
        name
        for name, trick in TRICKS.items()
        if any(isinstance(on, dict | float) or type(on) is int for on in trick.on.values())
    }
    assert settings - ANY_NUMBER == {name for name, _, _ in OUT_OF_RANGE} - {"no_clipping"}


def test_of_a_choice_by_name_only_the_chosen_name_is_on() -> None:
    for name in ("relu_squared", "leaky_relu_squared", "swiglu"):
        config = config_with(STACK, TRICKS[name].on)
        on = {trick for trick, is_on in active(config).items() if is_on}
        assert on & {"relu_squared", "leaky_relu_squared", "swiglu"} == {name}


def test_a_requirement_and_a_conflict_of_the_catalogue_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needy = replace(TRICKS["smear"], requires=("backout",), conflicts=("rotary",))
    monkeypatch.setitem(TRICKS, "smear", needy)
    resolve(None, {"model.smear": {}, "model.backout": {}})
    with pytest.raises(ConfigErrors, match="smear: expected backout on; got backout off"):
        resolve(None, {"model.smear": {}})
    with pytest.raises(ConfigErrors, match="smear: expected rotary off; got rotary on"):
        resolve(None, {"model.smear": {}, "model.backout": {}, "model.rotary": {}})


def test_requires_and_conflicts_name_known_tricks() -> None:
    for trick in TRICKS.values():
        assert {*trick.requires, *trick.conflicts} <= TRICKS.keys()
        assert (Path(__file__).parents[2] / "model" / trick.file).exists()
        assert trick.on.keys() == trick.off.keys()


def plain_gpt2(
    weights: dict[str, torch.Tensor], tokens: torch.Tensor, *, layers: int, heads: int
) -> torch.Tensor:
    """GPT-2 written straight down, as the reference for numbers and operations."""
    F = torch.nn.functional
    inputs, targets = tokens[:, :-1], tokens[:, 1:].contiguous()

    def norm(x: torch.Tensor, at: str) -> torch.Tensor:
        weight, bias = weights[f"{at}.weight"], weights[f"{at}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, 1e-5)

    def linear(x: torch.Tensor, at: str) -> torch.Tensor:
        return F.linear(x, weights[f"{at}.weight"], weights[f"{at}.bias"])

    def joint(x: torch.Tensor, at: str) -> torch.Tensor:
        parts = [f"{at}.{part}" for part in ("query", "key", "value")]
        weight = torch.cat([weights[f"{part}.weight"] for part in parts])
        return F.linear(x, weight, torch.cat([weights[f"{part}.bias"] for part in parts]))

    x = F.embedding(inputs, weights["embedding.weight"])
    x = x + weights["positions.weight"][: x.size(1)]
    for layer in range(layers):
        at = f"blocks.{layer}"
        h = norm(x, f"{at}.attention_norm")
        q, k, v = joint(h, f"{at}.attention").unflatten(-1, (3, heads, -1)).unbind(-3)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(out.transpose(1, 2).flatten(-2), f"{at}.attention.out")
        h = norm(x, f"{at}.mlp_norm")
        h = F.gelu(linear(h, f"{at}.mlp.up"), approximate="tanh")
        x = x + linear(h, f"{at}.mlp.down")
    x = norm(x, "final_norm")
    logits = F.linear(x.flatten(0, 1), weights["embedding.weight"])[..., :512]
    losses = F.cross_entropy(logits, targets.flatten(), reduction="none")
    return losses.mean()
