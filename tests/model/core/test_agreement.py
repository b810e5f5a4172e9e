"""Every decision equals that of one example at a time, by an evaluator that shares no code with
`model.core`: benchmarks/speed/core_reference.py."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.speed.core_reference import Decision, decide, examples
from model.config import Core
from model.core.evaluation import Evaluation, EvaluationResult
from model.errors import DataError

CLEAR_NATS = 1e-5  # of fp32; below it the order of summation may decide
NOISE = 1e-4


def evaluated(trained: Any, folder: Path, **settings: Any) -> EvaluationResult:
    config = replace(trained.config, core=Core(bundle=str(folder), **settings))
    evaluation = Evaluation(config, trained.derived, trained.prepared.tokenizer, print)
    return evaluation(trained.trainer.gpt, trained.trainer.kernels)


def reference(
    trained: Any, folder: Path, max_per_task: int | None, keep: int | None = None
) -> Iterator[Decision]:
    tokenizer, gpt = trained.prepared.tokenizer, trained.trainer.gpt

    def encode(text: str) -> list[int]:
        return [tokenizer.bos_id, *tokenizer.encode(text)]

    for example in examples(folder, max_per_task):
        yield decide(example, gpt, encode, torch.device("cpu"), keep)


def disagreements(found: EvaluationResult, decisions: Iterator[Decision]) -> tuple[int, list[str]]:
    """How many were compared; each example whose losses, margin or decision differ."""
    outcomes, names = found.outcomes, [task.task.name for task in found.result.tasks]
    pairs = zip(outcomes.task, outcomes.example, strict=True)
    place = {(names[task], int(example)): at for at, (task, example) in enumerate(pairs)}
    different, compared = [], 0
    for decision in decisions:
        at = place.pop((decision.task, decision.example))
        losses = outcomes.losses[outcomes.first_row[at] : outcomes.first_row[at + 1]]
        if np.isnan(decision.losses).any():
            assert np.isnan(losses).tolist() == np.isnan(decision.losses).tolist()
            continue
        compared += 1
        near = np.allclose(losses, decision.losses, atol=NOISE, rtol=0)
        near &= abs(outcomes.margin[at] - decision.margin) < NOISE
        flipped = bool(outcomes.correct[at]) != decision.correct
        if not near or (flipped and abs(decision.margin) > CLEAR_NATS):
            different.append(f"{decision}, here {losses}, {outcomes.margin[at]}")
    assert not place, "examples that the reference does not ask"
    return compared, different


def test_a_bundle_with_every_oddity_is_decided_as_one_example_at_a_time(
    trained: Any, bundle: Path
) -> None:
    found = evaluated(trained, bundle)
    compared, different = disagreements(found, reference(trained, bundle, None))
    assert different == []
    assert compared == found.outcomes.task.size - 2  # two have a row without a token of its own


def test_cut_prompts_are_decided_as_one_example_at_a_time(trained: Any, bundle: Path) -> None:
    found = evaluated(trained, bundle, long_prompts="crop_left")
    whole = evaluated(trained, bundle)
    context = trained.derived.sizes.context
    _, different = disagreements(found, reference(trained, bundle, None, keep=context))
    assert different == []
    assert not np.array_equal(found.outcomes.margin, whole.outcomes.margin), "nothing was cut"


def test_the_other_table_of_baselines_moves_core_and_no_decision(
    trained: Any, bundle: Path
) -> None:
    first, second = (evaluated(trained, bundle, baselines=table) for table in ("v1", "v2"))
    np.testing.assert_array_equal(first.outcomes.correct, second.outcomes.correct)
    assert second.result.core < first.result.core
    path = bundle / "eval_meta_data.csv"
    text = path.read_text(encoding="utf-8").replace(" DCLM v2", "")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="the column Random baseline DCLM v2, for"):
        evaluated(trained, bundle, baselines="v2")


def test_five_examples_of_every_real_task_are_decided_as_one_at_a_time(
    trained: Any, real_bundle: Path, tmp_path: Path
) -> None:
    """Short ones with one shot, for the time they take; the slow test has them as they are."""
    for path in (real_bundle / "eval_data").glob("*/*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:100]
        short = tmp_path / "eval_data" / path.parent.name / path.name
        short.parent.mkdir(parents=True, exist_ok=True)
        short.write_text("".join(sorted(lines, key=len)[:5]), encoding="utf-8")
    shutil.copy(real_bundle / "eval_meta_data.csv", tmp_path)
    settings = (real_bundle / "core.yaml").read_text(encoding="utf-8")
    one_shot = re.sub(r"num_fewshot: \[\d+\]", "num_fewshot: [1]", settings)
    (tmp_path / "core.yaml").write_text(one_shot, encoding="utf-8")
    found = evaluated(trained, tmp_path)
    compared, different = disagreements(found, reference(trained, tmp_path, None))
    assert different == []
    assert compared == 5 * 22


@pytest.mark.slow
def test_two_hundred_examples_of_every_real_task_are_decided_as_one_at_a_time(
    trained: Any, real_bundle: Path
) -> None:
    found = evaluated(trained, real_bundle, max_per_task=200)
    compared, different = disagreements(found, reference(trained, real_bundle, 200))
    print(f"{compared} examples compared")
    assert different == []
    assert compared > 4000
