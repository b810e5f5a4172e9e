"""One evaluation of CORE from configuration to metrics, for the trainer and the command line.

`Evaluation` opens the bundle and encodes every prompt before a run trains, so that a faulty line or
a missing file is an error at the start. Calling it evaluates a model.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.config import Config, Core
from model.config.derive import Derived
from model.core.bundle import BASELINE_COLUMNS, BASELINES, Bundle
from model.core.eval_model import EvalModel
from model.core.fetch import published_bundle
from model.core.layout import Layout, plan_batches
from model.core.outcomes import Outcomes, Result, decide, summarise
from model.core.prompt_cache import load_questions
from model.core.score import score_rows
from model.data.atomic import Progress
from model.data.tokenizer import Tokenizer
from model.distributed.ranks import ALONE, Ranks
from model.errors import DataError
from model.gpt import GPT
from model.kernels import Kernels


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationResult:
    """The result of an evaluation, the same on every rank."""

    outcomes: Outcomes
    result: Result
    identity: dict[str, Any]
    """What must be equal for two evaluations to be comparable."""
    kernels: Kernels
    """The kernels that ran."""
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of result.json."""
        result = self.result
        return {"core": result.core, "core_soft": result.core_soft, "core_s": self.seconds}

    def as_json(self) -> dict[str, Any]:
        """The fields of the event in events.jsonl."""
        errors = {"core_se": self.result.core_se, "core_soft_se": self.result.core_soft_se}
        accuracy = {task.task.name: round(task.accuracy, 6) for task in self.result.tasks}
        ran = {place: getattr(self.kernels, place) for place in ("attention", "qkv", "products")}
        how = {**self.identity, **ran, "unscored": self._unscored()}
        return {**self.metrics, **errors, **how, "accuracy": accuracy}

    def _unscored(self) -> list[tuple[str, int]]:
        """Questions with a row without a token of its own, which is never chosen."""
        outcomes = self.outcomes
        empty = np.add.reduceat(np.isnan(outcomes.losses), outcomes.first_row[:-1]) > 0
        names = [task.task.name for task in self.result.tasks]
        return [(names[outcomes.task[q]], int(outcomes.example[q])) for q in np.flatnonzero(empty)]


class Evaluation:
    """An evaluation without its model."""

    def __init__(self, config: Config, derived: Derived, tokenizer: Tokenizer, progress: Progress):
        """Raises DataError for a faulty bundle or vocabulary."""
        assert config.core is not None
        self.config, self.derived, settings = config, derived, config.core
        cache = Path(config.data.cache_dir).expanduser()
        folder = settings.bundle and Path(settings.bundle).expanduser()
        self.bundle = Bundle(folder or published_bundle(cache, progress))
        _require_baselines(self.bundle, settings)
        self.questions = load_questions(
            self.bundle, tokenizer, settings.max_per_task, cache, progress
        )
        full = config.model.rotary is not None and settings.long_prompts != "crop_left"
        self.keep_tokens = None if full else config.model.context_tokens
        self.layout_of(ALONE)  # raises for a continuation longer than the context
        self.identity = {
            "bundle": self.bundle.sha256,
            "tokenizer": tokenizer.sha256,
            "max_per_task": settings.max_per_task,
            "long_prompts": "full" if full else "crop_left",
            "baselines": settings.baselines,
        }

    def layout_of(self, ranks: Ranks) -> Layout:
        """Batches as large as those of training."""
        tokens = self.derived.device_batch_rows * self.derived.sizes.context
        keep = self.keep_tokens
        return plan_batches(
            self.questions, keep_tokens=keep, batch_tokens=tokens, ranks=ranks.count
        )

    def __call__(self, gpt: GPT, kernels: Kernels, ranks: Ranks = ALONE) -> EvaluationResult:
        """Evaluate the model; `kernels` are those of its training."""
        began = time.perf_counter()
        device = gpt.embedding.weight.device
        eval_model = EvalModel(gpt, self.config, self.derived.sizes, kernels)
        scores = score_rows(eval_model, self.questions, self.layout_of(ranks), device, ranks)
        outcomes = decide(self.questions, scores)
        table = str(self.identity["baselines"])
        return EvaluationResult(
            outcomes=outcomes,
            result=summarise(self.bundle.tasks, outcomes, table, scores.seconds),
            identity=self.identity,
            kernels=eval_model.kernels,
            seconds=time.perf_counter() - began,
        )


def _require_baselines(bundle: Bundle, settings: Core) -> None:
    table = settings.baselines
    lacking = [task.name for task in bundle.tasks if table not in task.baselines]
    if lacking:
        raise DataError(
            path=str(bundle.folder / BASELINES),
            expected=f"the column {BASELINE_COLUMNS[table]}, for core.baselines: {table}",
            got="no such column",
            hint="Use core.baselines: v1, or leave core.bundle out for the published bundle.",
        )
