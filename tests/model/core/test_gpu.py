"""On a GPU in bf16, in every attention back-end and with the fused kernels of a block: the
decisions of one example at a time."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.speed.core_reference import decide, examples
from model.attention import BACKENDS, why_not
from model.config import Core
from model.config.resolve import resolve
from model.core.eval_model import EvalModel
from model.core.evaluation import Evaluation
from model.core.source import at_initialisation
from model.kernels import Kernels, choose

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # kernel packages warn as they import and compile
]

STACK = Path(__file__).parents[3] / "ablations" / "configs" / "speedrun.yaml"
CLEAR_NATS = 1e-2  # of bf16
SMALL = {
    "dial.depth": 4,
    "model.context_tokens": 512,
    "model.vocab_size": 512,
    "model.init": "gpt2",  # zero projections would leave nothing to decide
    "dial.batch_tokens": 16_384,
}


@pytest.mark.parametrize("name", BACKENDS)
def test_bf16_decides_as_one_example_at_a_time(name: str, trained: Any, bundle: Path) -> None:
    config, derived = resolve(str(STACK), {**SMALL, "system.attention": name})
    device, tokenizer = torch.device("cuda"), trained.prepared.tokenizer
    problem = why_not(name, device, derived.sizes.head_width, torch.bfloat16)
    if problem is not None:
        pytest.skip(problem[0])
    data = replace(config.data, cache_dir=str(trained.cache))
    config = replace(config, core=Core(bundle=str(bundle)), data=data)
    gpt = at_initialisation(config, derived, device)
    kernels = choose(config, derived.sizes, device)
    found = Evaluation(config, derived, tokenizer, print)(gpt, kernels)
    assert found.kernels.attention == ("flash2" if name == "flex" else name)
    assert (found.kernels.qkv, found.kernels.products) == (kernels.qkv, kernels.products)
    one_by_one = EvalModel(gpt, config, derived.sizes, Kernels(attention=name)).gpt
    outcomes, names = found.outcomes, [task.task.name for task in found.result.tasks]
    place = {
        (names[task], int(example)): at
        for at, (task, example) in enumerate(zip(outcomes.task, outcomes.example, strict=True))
    }
    flips = []
    for example in examples(bundle, None):
        decision = decide(
            example, one_by_one, lambda text: [tokenizer.bos_id, *tokenizer.encode(text)], device
        )
        at = place[decision.task, decision.example]
        losses = outcomes.losses[outcomes.first_row[at] : outcomes.first_row[at + 1]]
        np.testing.assert_allclose(losses, decision.losses, atol=0.05)
        if bool(outcomes.correct[at]) != decision.correct and abs(decision.margin) > CLEAR_NATS:
            flips.append((decision, outcomes.margin[at]))
    assert flips == []
