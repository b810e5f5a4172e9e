"""One evaluation of CORE from configuration to numbers, for the trainer and the command line.

`Evaluation` opens the bundle and makes every prompt's tokens: before a run trains, so that a faulty
line or a missing file is said then and not hours later. Calling it evaluates a model as it is now.
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
from model.core.layout import Layout, laid_out
from model.core.outcomes import Outcomes, Result, decided, summed_up
from model.core.prompt_cache import questions_of
from model.core.score import scored
from model.data.atomic import Progress
from model.data.tokenizer import Tokenizer
from model.distributed.ranks import ALONE, Ranks
from model.errors import DataError
from model.gpt import GPT
from model.kernels import Kernels


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """What an evaluation found; the same on every rank."""

    outcomes: Outcomes
    result: Result
    asked: dict[str, Any]
    """What has to be equal for two evaluations to be compared."""
    kernels: Kernels
    """What ran."""
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """As result.json has them."""
        result = self.result
        return {"core": result.core, "core_soft": result.core_soft, "core_s": self.seconds}

    def as_json(self) -> dict[str, Any]:
        """As events.jsonl has it."""
        errors = {"core_se": self.result.core_se, "core_soft_se": self.result.core_soft_se}
        accuracy = {task.task.name: round(task.accuracy, 6) for task in self.result.tasks}
        ran = {place: getattr(self.kernels, place) for place in ("attention", "qkv", "products")}
        how = {**self.asked, **ran, "unscored": self._unscored()}
        return {**self.metrics, **errors, **how, "accuracy": accuracy}

    def _unscored(self) -> list[tuple[str, int]]:
        """Questions with a row that has no token of its own, which is never chosen."""
        outcomes = self.outcomes
        empty = np.add.reduceat(np.isnan(outcomes.losses), outcomes.first_row[:-1]) > 0
        names = [task.task.name for task in self.result.tasks]
        return [(names[outcomes.task[q]], int(outcomes.example[q])) for q in np.flatnonzero(empty)]


class Evaluation:
    """Everything but the model."""

    def __init__(self, config: Config, derived: Derived, tokenizer: Tokenizer, told: Progress):
        """Raises DataError for a bundle or a vocabulary that is not as it must be."""
        assert config.core is not None
        self.config, self.derived, settings = config, derived, config.core
        cache = Path(config.data.cache_dir).expanduser()
        folder = settings.bundle and Path(settings.bundle).expanduser()
        self.bundle = Bundle(folder or published_bundle(cache, told))
        _require_baselines(self.bundle, settings)
        self.questions = questions_of(self.bundle, tokenizer, settings.max_per_task, cache, told)
        full = config.model.rotary is not None and settings.long_prompts != "crop_left"
        self.keep_tokens = None if full else config.model.context_tokens
        self.layout_of(ALONE)  # a continuation that is longer than the context is said now
        self.asked = {
            "bundle": self.bundle.sha256,
            "tokenizer": tokenizer.sha256,
            "max_per_task": settings.max_per_task,
            "long_prompts": "full" if full else "crop_left",
            "baselines": settings.baselines,
        }

    def layout_of(self, ranks: Ranks) -> Layout:
        """Batches as large as those that the run trains with."""
        tokens = self.derived.device_batch_rows * self.derived.sizes.context
        keep = self.keep_tokens
        return laid_out(self.questions, keep_tokens=keep, batch_tokens=tokens, ranks=ranks.count)

    def __call__(self, gpt: GPT, kernels: Kernels, ranks: Ranks = ALONE) -> Evaluated:
        """Evaluates the model as it is; `kernels` are those that it trains with."""
        began = time.perf_counter()
        device = gpt.embedding.weight.device
        twin = EvalModel(gpt, self.config, self.derived.sizes, kernels)
        scores = scored(twin, self.questions, self.layout_of(ranks), device, ranks)
        outcomes = decided(self.questions, scores)
        table = str(self.asked["baselines"])
        return Evaluated(
            outcomes=outcomes,
            result=summed_up(self.bundle.tasks, outcomes, table, scores.seconds),
            asked=self.asked,
            kernels=twin.kernels,
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
