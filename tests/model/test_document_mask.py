"""Attention that stays inside a document: against loops, alone in a row, and in each back-end."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import create_block_mask

from model.arch.init import initialise
from model.attention import AUTO, BACKENDS, MASKS, choose, flex, sdpa, why_not
from model.config import Config
from model.config.derive import derive
from model.config.reader import load_config
from model.config.resolve import resolve
from model.config.shapes import TRAINED_SPECIAL_TOKENS
from model.core.eval_model import EvalModel
from model.data.tokenizer import SPECIALS
from model.errors import ConfigErrors, MachineError
from model.gpt import GPT
from model.kernels import REFERENCE
from model.kernels import choose as choose_kernels
from model.tricks.document_mask import documents_of, require_bos
from model.tricks.window_warmup import apply_long_window

STACK = Path(__file__).parents[2] / "ablations" / "configs" / "speedrun.yaml"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BOS, VOCAB = 55, 64  # of a trained vocabulary of 64 tokens
GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),
]
SMALL = {
    "dial.depth": 4,
    "dial.batch_tokens": 80,
    "model.width": 32,
    "model.head_width": 8,
    "model.context_tokens": 40,
    "model.windows.short_tokens": 5,
    "model.vocab_size": VOCAB,
    "model.init": "gpt2",
    "system.precision": "fp32",
    "system.device": "cpu",
    "system.compile": False,
}
# what looks one token back does so across documents too
NO_LOOK_BACK = {"model.smear": None}
COMPANY: dict[str, dict[str, Any]] = {
    "alone": {},
    "paired heads": {"model.paired_heads": {}},
    "half rotary, gates, XSA": {
        "model.rotary.half": {},
        "model.sparse_attention_gate": {},
        "model.xsa": True,
        "model.unet_skips": {},
    },
}


def config_with(**overrides: Any) -> Config:
    return load_config(STACK, {**SMALL, "model.document_mask": {}, **overrides})


def built(config: Config) -> GPT:
    model = GPT(config, derive(config).sizes, REFERENCE)
    initialise(model, seed=5)
    return model


def packed(*lengths: int) -> list[Tensor]:
    """Documents of so many tokens, BOS first."""
    generator = torch.Generator().manual_seed(sum(lengths))
    texts = [torch.randint(BOS, (length - 1,), generator=generator) for length in lengths]
    return [torch.cat((torch.tensor([BOS]), text)) for text in texts]


def test_documents_are_counted_by_their_first_token() -> None:
    tokens = torch.tensor([[3, BOS, 4, BOS, BOS, 5], [BOS, 1, 2, 3, 4, 5]])
    assert documents_of(tokens, BOS).tolist() == [[0, 1, 1, 2, 3, 3], [1, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("window", [0, 3, 40])
def test_attention_is_a_softmax_over_keys_of_the_same_document(window: int) -> None:
    generator = torch.Generator().manual_seed(window)
    q, k, v = (torch.randn(2, 12, 2, 4, generator=generator).double() for _ in range(3))
    documents = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 2, 3, 3, 3, 3], [1] * 12])
    got = sdpa.attend(q, k, v, window, sdpa.document_mask(documents, window))
    for b, t, h in ((b, t, h) for b in range(2) for t in range(12) for h in range(2)):
        seen = [s for s in range(12)
                if 0 <= t - s <= window and documents[b, s] == documents[b, t]]  # fmt: skip
        weights = [math.exp((q[b, t, h] @ k[b, s, h]).item() / 2) for s in seen]
        expected = sum(w * v[b, s, h] for w, s in zip(weights, seen, strict=True)) / sum(weights)
        torch.testing.assert_close(got[b, t, h], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("together", COMPANY)
def test_a_document_in_a_row_is_as_if_it_were_alone(together: str) -> None:
    model = built(config_with(**NO_LOOK_BACK, **COMPANY[together]))
    documents = packed(9, 17, 14)
    row = torch.cat(documents)[None]
    got = model.stream(row)[0].split([len(each) for each in documents])
    for mine, document in zip(got, documents, strict=True):
        alone = model.stream(document[None])[0]
        torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(got[1], built(config_with(**NO_LOOK_BACK, **COMPANY[together],
        **{"model.document_mask": None})).stream(row)[0, 9:26], atol=1e-3)  # fmt: skip


def test_a_mask_follows_windows_that_grow() -> None:
    config = config_with(**NO_LOOK_BACK, **{
        "model.context_tokens": 512, "dial.batch_tokens": 512, "model.windows.short_tokens": 128,
        "schedule.window_warmup": {"shares": [0.5]},
    })  # fmt: skip
    model, (document,) = built(config), packed(400)
    row = torch.cat((torch.tensor([BOS, 1]), document))[None]
    for window in (256, 512):
        apply_long_window(model, config, window)
        got, alone = model.stream(row)[0, 2:], model.stream(document[None])[0]
        torch.testing.assert_close(got, alone, rtol=1e-3, atol=1e-4)


def test_validation_and_training_see_the_same_mask() -> None:
    model, row = built(config_with()), torch.cat(packed(20, 21))[None]
    inputs, targets = row[:, :-1], row[:, 1:].contiguous()
    losses = model.token_losses(inputs, targets)
    torch.testing.assert_close(model(inputs, targets), losses.mean(), rtol=1e-6, atol=1e-6)


def test_prompts_of_one_document_are_as_without_the_mask() -> None:
    config = config_with()
    model, (prompt,) = built(config), packed(33)
    without = built(config_with(**{"model.document_mask": None}))
    assert torch.equal(model.stream(prompt[None]), without.stream(prompt[None]))
    twin = EvalModel(model, config, derive(config).sizes, REFERENCE)
    torch.testing.assert_close(twin.stream(prompt[None]), model.stream(prompt[None]))


# --- block masks ---

CASES = [(256, 63), (200, 64), (300, 500), (384, 0), (512, 130), (640, 300)]  # T, window


def drawn_documents(tokens: int) -> Tensor:
    """Rows of one document, of a few, and of many."""
    generator = torch.Generator().manual_seed(tokens)
    starts = torch.rand(3, tokens, generator=generator) < torch.tensor([[0.0], [0.01], [0.1]])
    return starts.cumsum(dim=1)


def full_blocks(mask: Any) -> Tensor:
    counts, which = mask.full_kv_num_blocks, mask.full_kv_indices.long()
    listed = torch.arange(which.size(-1)) < counts[..., None]
    return torch.zeros_like(which).scatter_add(-1, which, listed.long())


@pytest.mark.parametrize(("tokens", "window"), CASES)
def test_blocks_by_first_and_last_document_are_those_of_the_whole_mask(
    tokens: int, window: int
) -> None:
    mask = flex.document_mask(drawn_documents(tokens), window)
    torchs = create_block_mask(mask.mask_mod, 3, None, tokens, tokens, device="cpu")
    assert torch.equal(mask.to_dense(), torchs.to_dense())
    assert torch.equal(full_blocks(mask), full_blocks(torchs))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("tokens", "window"), CASES)
def test_flex_computes_what_sdpa_computes(tokens: int, window: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    q, k, v = (torch.randn(3, tokens, 2, 16, generator=generator) for _ in range(3))
    documents = drawn_documents(tokens)
    with torch.no_grad():
        got, expected = (
            BACKENDS[name](q, k, v, window, MASKS[name](documents, window))
            for name in ("flex", "sdpa")
        )
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, inside its compiler
def test_a_compiled_layer_takes_the_mask_of_each_batch_without_compiling_anew() -> None:
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(flex.attend, fullgraph=True, dynamic=False, backend="eager")
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(3, 256, 2, 16, generator=generator) for _ in range(3))
    for seed in range(3):
        documents = (torch.rand(3, 256, generator=generator) < 0.02).cumsum(1) + seed
        expected = sdpa.attend(q, k, v, 100, sdpa.document_mask(documents, 100))
        with torch.no_grad():
            got = compiled(q, k, v, 100, flex.document_mask(documents, 100))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("compiled", [pytest.param(c, marks=GPU) for c in (False, True)])
@pytest.mark.parametrize(("tokens", "window"), CASES)
def test_flex_on_a_gpu_has_output_and_gradients_of_the_reference(
    tokens: int, window: int, compiled: bool
) -> None:
    torch._dynamo.reset()
    documents = drawn_documents(tokens).to(CUDA)
    generator = torch.Generator().manual_seed(tokens)
    *values, grad = (torch.randn(3, tokens, 2, 64, generator=generator).to(CUDA) for _ in range(4))
    results = []
    for name in ("flex", "sdpa"):
        attend = BACKENDS[name]
        if compiled:
            attend = torch.compile(attend, fullgraph=True, dynamic=False)
        inputs = [value.bfloat16().requires_grad_() for value in values]
        out = attend(*inputs, window, MASKS[name](documents, window))
        results.append([out, *torch.autograd.grad(out, inputs, grad.bfloat16())])
    for got, expected in zip(*results, strict=True):
        assert ((got - expected).norm() / expected.norm().clamp_min(1.0)).item() < 2e-2


# --- what is refused ---


def test_auto_passes_over_back_ends_without_document_masks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    given = CUDA, 128, torch.bfloat16
    assert choose("auto", *given, documents=True) == "flex"
    assert choose("auto", CPU, 128, torch.float32, documents=True) == "sdpa"
    for name in {*AUTO, "flash3"} - {*MASKS}:
        reason, hint = why_not(name, *given, documents=True) or ("", "")
        assert reason == f"{name} does not support document masks"
        assert "auto, flex or sdpa, or model.document_mask: null" in hint
    config = load_config(STACK, {"model.document_mask": {}, "system.attention": "flash4"})
    with pytest.raises(MachineError, match="flash4 does not support document masks"):
        choose_kernels(config, derive(config).sizes, CUDA)


def test_bos_is_the_tokenizers_by_rule_and_has_to_be_given_for_a_file() -> None:
    assert len(SPECIALS) == TRAINED_SPECIAL_TOKENS
    trained = load_config(STACK, {"model.document_mask": {}})
    require_bos(trained, 32_768 - 9)
    gpt2 = {"data.tokenizer": "gpt2", "model.vocab_size": 50_257, "model.document_mask": {}}
    require_bos(load_config(STACK, gpt2), 50_256)
    require_bos(load_config(STACK, {}), 7)  # off: whatever it is
    with pytest.raises(ConfigErrors, match=r"Set model\.document_mask\.bos_id: 7\."):
        require_bos(trained, 7)
    file = {"data.tokenizer": "mine.json", "model.document_mask": {}}
    with pytest.raises(ConfigErrors, match=r"bos_id: expected the BOS id of the tokenizer"):
        resolve(str(STACK), file)
    resolve(str(STACK), {**file, "model.document_mask.bos_id": 0})
    with pytest.raises(ConfigErrors, match=r"0 to below vocab_size"):
        resolve(str(STACK), {**file, "model.document_mask.bos_id": 32_768})
