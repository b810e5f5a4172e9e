"""A small bundle with every oddity that the real one has, and a small model that was trained."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.config import Config
from model.config.derive import Derived
from model.config.resolve import resolve
from model.data.prepare import Prepared, prepare
from model.data.settings import DataSettings
from model.trainer import Trainer

ROOT = Path(__file__).parents[3]
REAL_BUNDLE = ROOT.parent / "shared" / "core"
STEPS = 30

TEXT = "the value of a name is bound when its block runs and lost when that block ends"
TOKENS = TEXT.split(" ")


def choice(query: str, choices: list[str], gold: int) -> dict[str, Any]:
    return {"query": query, "choices": choices, "gold": gold}


MULTIPLE = [
    choice(f"Question: {' '.join(TOKENS[i:])}?", [f"{word} {i}" for word in TOKENS[:4]], i % 4)
    for i in range(12)
]
ODD = [
    choice("Equal ones:", ["is a name", "a block", "a block", "the end"], 3),
    choice("One begins another:", ["the block", "the block ends", "a name"], 2),
    choice("White space behind it: ", ["a name ", "a name", "the end\n"], 1),
    choice("Long: " + "the block runs and ends; " * 60, ["a name", "the end", "lost"], 0),
    choice("One is where the other begins:", ["the block", "the block ends"], 1),
    choice("All the same:", ["name", "name"], 0),
]
SCHEMAS = [
    {
        "context_options": [
            f"{' '.join(TOKENS[i : i + 6])} because name",
            f"The {TOKENS[i]} because",
        ],
        "continuation": f"{TOKENS[i]} is bound.",
        "gold": i % 2,
    }
    for i in range(6)
]
CONTINUED = [
    {"context": f"  {' '.join(TOKENS[i:])} ", "continuation": f"{TOKENS[i]}{' ' * (i % 2)}"}
    for i in range(8)
] + [{"context": "block " * 200, "continuation": "block"}]


def write_bundle(folder: Path) -> Path:
    """Four tasks of all kinds, with and without shots."""
    tasks = [
        ("multiple", "multiple_choice", 2, "\nAnswer: ", MULTIPLE, 25),
        ("odd", "multiple_choice", 0, None, ODD, 30),
        ("schemas", "schema", 1, None, SCHEMAS, 50),
        ("continued", "language_modeling", 3, None, CONTINUED, 0),
    ]
    listed, lines = [], ["Eval Task,Random baseline,Random baseline DCLM v2"]
    for name, kind, shots, delimiter, items, baseline in tasks:
        path = folder / "eval_data" / kind / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
        listed.append(
            {
                "label": name,
                "dataset_uri": f"{kind}/{name}.jsonl",
                "num_fewshot": [shots],
                "icl_task_type": kind,
                **({"continuation_delimiter": delimiter} if delimiter else {}),
            }
        )
        lines.append(f"{name},{baseline},{baseline + 5}")
    (folder / "core.yaml").write_text(json.dumps({"icl_tasks": listed}), encoding="utf-8")
    (folder / "eval_meta_data.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def real_bundle() -> Path:
    if not (REAL_BUNDLE / "core.yaml").exists():
        pytest.skip(f"no CORE data at {REAL_BUNDLE}")
    return REAL_BUNDLE


@dataclass(frozen=True)
class Trained:
    """A model with some skill, what it was trained with, and a folder for its caches."""

    config: Config
    derived: Derived
    prepared: Prepared
    trainer: Trainer
    cache: Path


@pytest.fixture(scope="session")
def trained(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    cache = tmp_path_factory.getbasetemp() / "cache"
    config, derived = resolve(
        str(ROOT / "ablations" / "configs" / "speedrun_tiny_cpu.yaml"),
        {
            "dial.steps": STEPS,
            "dial.batch_tokens": 1024,
            "model.vocab_size": 512,
            "model.context_tokens": 256,
            "model.windows.short_tokens": 32,
            "data.source": str(text_folder),
            "data.cache_dir": str(cache),
            "eval.tokens": 512,
            "system.threads": 1,
        },
    )
    prepared = prepare(DataSettings.from_config(config), print)
    trainer = Trainer(config, derived, torch.device("cpu"))
    rows = prepared.rows("train", derived.stages[-1].last_row)
    for step in range(STEPS):
        taken = derived.rows(step)
        tokens = rows.tokens(taken.start, taken.stop)
        trainer.step(step, torch.from_numpy(tokens.astype(np.int64)))
    return Trained(config, derived, prepared, trainer, cache)
