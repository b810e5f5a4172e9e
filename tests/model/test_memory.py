"""The estimate of a run's memory against what graphs really keep, and against measured peaks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import Config
from model.config.derive import Derived, derive, largest_fitting_rows
from model.config.kernel_eligibility import FUSED
from model.config.memory import EAGER_LOGIT_BYTES, copied_bytes, memory_of
from model.config.reader import load_config
from model.config.resolve import resolve
from model.gpt import GPT
from model.trainer import Trainer

BASES = Path(__file__).parents[2] / "ablations" / "configs"
SPEEDRUN = str(BASES / "speedrun.yaml")
GIB = 2**30
SMALL = {
    "dial.depth": 4,
    "dial.steps": 3,
    "dial.batch_tokens": 2048,
    "model.width": 128,
    "model.head_width": 32,
    "model.context_tokens": 512,
    "model.vocab_size": 1024,
    "system.device": "cpu",
}


@pytest.mark.parametrize(("depth", "rows", "measured"), [(8, 64, 28.3), (12, 32, 28.1)])
def test_the_estimate_meets_measured_peaks(depth: int, rows: int, measured: float) -> None:
    """LOG.md, 2026-11-22: on an H100, with a head that still kept all logits in bf16."""
    overrides = {"dial.depth": depth, "system.device_batch_rows": rows}
    config, derived = resolve(SPEEDRUN, overrides)
    parts = memory_of(config, derived.sizes, derived.parameters, rows)
    assert parts.peak / GIB == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(
    ("depth", "rows", "measured_gb"), [(8, 64, 17.65), (12, 32, 20.96), (24, 16, 46.38)]
)
def test_the_estimate_meets_measured_peaks_of_fused_kernels(
    depth: int, rows: int, measured_gb: float
) -> None:
    """LOG.md, 2026-11-22: on an H100, every fused kernel on."""
    overrides = {"dial.depth": depth, "system.device_batch_rows": rows}
    _, derived = resolve(SPEEDRUN, overrides)
    assert derived.memory_fused_bytes / 1e9 == pytest.approx(measured_gb, rel=0.06)
    assert derived.memory_fused_bytes < derived.memory_bytes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, inside its compiler
@pytest.mark.parametrize(
    "base",
    ["speedrun", *(pytest.param(b, marks=pytest.mark.slow) for b in ("gpt2", "speedrun_fp8"))],
)
def test_compiled_blocks_keep_the_streams_that_are_counted(base: str) -> None:
    config, derived = small(base, **{"system.precision": "bf16"})
    parts = memory_of(config, derived.sizes, derived.parameters, derived.device_batch_rows)
    # torch's own split into forward and backward, without generating code
    kept = kept_bytes(config, derived, "aot_eager_decomp_partition")
    logits = 2 * 2048 * derived.sizes.vocab
    copies = copied_bytes(config, derived.parameters)
    assert kept == pytest.approx(parts.activations + logits + copies, rel=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, inside its compiler
@pytest.mark.parametrize(
    "overrides",
    [
        {"model.xsa": True},
        {"model.sparse_attention_gate": {}},
        {"model.xsa": True, "model.sparse_attention_gate": {}},
        {"model.bigram_hash_embedding": {}},
        {"model.activation": "swiglu"},
    ],
)
def test_compiled_tricks_keep_the_streams_that_are_counted(overrides: dict[str, Any]) -> None:
    kept, counted = [], []
    for values in ({}, overrides):
        # wide enough that what is not a stream (gates, norms' statistics) hardly counts
        wide = {"model.width": 384, "model.head_width": 64}
        config, derived = small("speedrun", **wide, **values)
        torch._dynamo.reset()
        kept.append(kept_bytes(config, derived, "aot_eager_decomp_partition"))
        copies = 2 * (derived.parameters["matrices"] + derived.parameters["embedding"])
        counted.append(stream_bytes(config, derived) + copies)
    stream = 2 * 2048 * 384
    assert kept[1] - kept[0] == pytest.approx(counted[1] - counted[0], abs=stream / 2)


def stream_bytes(config: Config, derived: Derived) -> int:
    rows = derived.device_batch_rows
    return memory_of(config, derived.sizes, derived.parameters, rows).activations


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("base", ["speedrun", "gpt2"])
def test_the_eager_estimate_is_not_below_what_is_kept(base: str, precision: str) -> None:
    config, derived = small(base, **{"system.precision": precision, "system.compile": False})
    parts = memory_of(config, derived.sizes, derived.parameters, derived.device_batch_rows)
    kept = kept_bytes(config, derived, None)
    logits = 2048 * derived.sizes.vocab * EAGER_LOGIT_BYTES
    estimate = parts.activations + logits + 2 * derived.parameters["matrices"]
    assert kept <= estimate <= 2 * kept


def test_the_peak_is_the_larger_of_the_moments_that_do_not_coincide() -> None:
    config, derived = resolve(SPEEDRUN, {"dial.depth": 24, "system.device_batch_rows": 1})
    parts = memory_of(config, derived.sizes, derived.parameters, 1)
    assert parts.update > parts.activations + max(parts.head, parts.backward)
    assert parts.peak == parts.states + parts.gradients + parts.update
    assert derived.memory_bytes == parts.peak
    assert derived.memory_parts == parts.as_json()


def test_where_no_fused_kernel_may_run_there_is_one_estimate() -> None:
    of_torch = {f"system.{place}_kernel": "torch" for place in FUSED}
    for keeping in (of_torch, {"system.precision": "fp32"}, {"system.device": "cpu"}):
        _, derived = resolve(SPEEDRUN, {"dial.depth": 12, **keeping})
        assert derived.memory_fused_bytes == derived.memory_bytes


def test_the_most_rows_that_fit_keep_the_batch() -> None:
    config, derived = resolve(SPEEDRUN, {"dial.depth": 12})
    rows = largest_fitting_rows(config, derived, 16 * GIB)
    assert rows is not None
    assert 0 < rows < derived.device_batch_rows
    _, fewer = resolve(SPEEDRUN, {"dial.depth": 12, "system.device_batch_rows": rows})
    assert fewer.memory_bytes <= 16 * GIB
    assert fewer.batch_tokens == derived.batch_tokens
    _, more = resolve(SPEEDRUN, {"dial.depth": 12, "system.device_batch_rows": 2 * rows})
    assert more.memory_bytes > 16 * GIB
    assert largest_fitting_rows(config, derived, 1 * GIB) is None


def small(base: str, **overrides: Any) -> tuple[Config, Derived]:
    config = load_config(BASES / f"{base}.yaml", {**SMALL, **overrides})
    return config, derive(config)


def kept_bytes(config: Config, derived: Derived, backend: str | None) -> int:
    """What the forward pass leaves for the backward pass, parameters themselves left out."""
    model = small_model(config)
    if backend is not None:
        model.compile_regions(backend)
    own = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.randint(0, 1024, (derived.device_batch_rows, derived.sizes.context + 1))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(tokens[:, :-1], tokens[:, 1:].contiguous())
        assert loss.requires_grad
    return sum(sizes.values())


def small_model(config: Config) -> GPT:
    plain = replace(config, system=replace(config.system, compile=False))
    return Trainer(plain, derive(plain), torch.device("cpu")).gpt
