"""What nanochat and this trainer are both given: weights, rows, documents, questions.

Everything is drawn by NumPy's RandomState, whose streams never change, seeded by the SHA-256 of a
name, so that the trace stores only what nanochat computes from it. Parameters have nanochat's names
here. Sizes are small, and none of them is special: the vocabulary is no multiple of 64, windows are
shorter than the context, and the pattern of windows begins a second time. NumPy only.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAYERS, WIDTH, HEADS, CONTEXT, VOCAB = 6, 128, 2, 256, 500
HEAD_WIDTH = WIDTH // HEADS
STEPS, BATCH_ROWS, BPB_STEPS = 20, 2, 4
KINDS = ("filled", "initial")
"""`filled`: nothing is zero, so that every path counts from the first step. `initial`: nanochat's
own distributions with projections of attention that start at zero, so that its gradients are below
the floors of Muon at first; those of the MLP do not, because where all are zero the stream is a
multiple of the embedding, the gradients of its factors are nothing but rounding, and Adam makes
whole steps of them, another on every machine. `zeros`, of no trace, has both at zero, as nanochat
has."""

# nanochat's command line. Rates are 4 times its own: the rule for batches of 2 rows divides them
# by 32, and larger ones let rounding grow to 1e-5 in 20 steps, here and in nanochat alike. The 20
# steps see warm-up, plateau and warm-down.
RATES = {"matrix-lr": 0.08, "embedding-lr": 1.2, "unembedding-lr": 0.032, "scalar-lr": 2.0}
OPTIONS = {
    "depth": LAYERS,
    "head-dim": HEAD_WIDTH,
    "max-seq-len": CONTEXT,
    "device-batch-size": 1,
    "total-batch-size": BATCH_ROWS * CONTEXT,
    "num-iterations": STEPS,
    "warmup-steps": 5,
    **RATES,
}

FILLED = {
    "wte": (0.0, 0.8),
    "lm_head": (0.0, 0.05),
    "attn.c_proj": (0.0, 0.05),
    "mlp.c_proj": (0.0, 0.03),
    "ve_gate": (0.0, 0.3),
    "value_embeds": (0.0, 0.5),
    "attn.c_": (0.0, 0.09),
    "mlp.c_fc": (0.0, 0.09),
    "resid_lambdas": (1.0, 0.1),
    "x0_lambdas": (0.2, 0.1),
    "smear_gate": (0.0, 0.3),
    "smear_lambda": (0.5, 0.1),
    "backout_lambda": (0.3, 0.1),
}
"""Centre and spread by the first part of a name that fits."""
GATE = (0.01, 0.0058)  # mean and SD of a uniform draw from 0 to 0.02
INITIAL = {
    "wte": (0.0, 0.8),
    "lm_head": (0.0, 0.001),
    "attn.c_proj": (0.0, 0.0),
    "mlp.c_proj": (0.0, 0.03),
    "ve_gate": GATE,
    "value_embeds": (0.0, WIDTH**-0.5),
    "attn.c_": (0.0, WIDTH**-0.5),
    "mlp.c_fc": (0.0, 0.4 * WIDTH**-0.5),
    "resid_lambdas": (1.1, 0.0),
    "x0_lambdas": (0.125, 0.0),
    "smear_gate": GATE,
    "smear_lambda": (0.0, 0.0),
    "backout_lambda": (0.2, 0.0),
}
SPREADS = {"filled": FILLED, "initial": INITIAL, "zeros": {**INITIAL, "mlp.c_proj": (0.0, 0.0)}}

SENTENCE = "the value of a name is bound when its block runs and lost when that block ends"
VOCABULARY = SENTENCE.split(" ")


def frozen(name: str) -> np.random.RandomState:
    """A generator that a name decides."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.RandomState(int.from_bytes(digest[:4], "little"))


def values(name: str, shape: tuple[int, ...], kind: str) -> NDArray[np.float32]:
    """A parameter's values, by nanochat's name of it."""
    spreads = SPREADS[kind]
    centre, spread = next(spreads[part] for part in spreads if part in name)
    drawn = frozen(name).standard_normal(shape)
    return (centre + spread * drawn).astype(np.float32)


def rows(steps: int) -> NDArray[np.int64]:
    """(steps x BATCH_ROWS, CONTEXT + 1) tokens; small ones are frequent."""
    drawn = frozen("rows").random_sample((steps * BATCH_ROWS, CONTEXT + 1))
    return (VOCAB * drawn**2).astype(np.int64)


def parquet_files() -> dict[str, list[list[str]]]:
    """File name -> row groups of documents; the last file is for validation."""
    generator = frozen("documents")
    groups = {"shard_0": [700, 450], "shard_1": [300, 650, 129], "shard_2": [40]}
    return {
        f"{name}.parquet": [[_document(generator) for _ in range(size)] for size in sizes]
        for name, sizes in groups.items()
    }


def _document(generator: np.random.RandomState) -> str:
    count = 1 + int(60 * generator.random_sample() ** 2)
    return " ".join(VOCABULARY[at] for at in generator.randint(len(VOCABULARY), size=count))


def phrase(name: str, count: int) -> str:
    """A made-up phrase; the same for one name."""
    return " ".join(VOCABULARY[at] for at in frozen(name).randint(len(VOCABULARY), size=count))


def questions() -> dict[str, dict[str, Any]]:
    """Tasks of multiple choice and schema: kind, shots, delimiter, baseline, items. One prompt of
    `choices` is longer than the context, and some choices have more tokens than others."""
    choices = [
        {
            "query": f"Question {at}: {phrase(f'query {at}', 90 if at == 3 else 6)}?",
            "choices": [phrase(f"choice {at} {each}", 1 + each % 2) for each in range(4)],
            "gold": at % 4,
        }
        for at in range(10)
    ]
    schemas = [
        {
            "context_options": [f"{phrase(f'context {at} {each}', 4)} because" for each in (0, 1)],
            "continuation": f"{phrase(f'end {at}', 2)}.",
            "gold": at % 2,
        }
        for at in range(8)
    ]
    return {
        "choices": _task("multiple_choice", 2, "\nAnswer: ", 25, choices),
        "plain": _task("multiple_choice", 0, " ", 25, choices[:6]),
        "schemas": _task("schema", 1, " ", 50, schemas),
    }


def continuations(items: list[dict[str, str]]) -> dict[str, dict[str, Any]]:
    """Tasks of language modeling over items whose right continuation has to be found first."""
    return {
        "continued": _task("language_modeling", 0, "", 0, items),
        "shown": _task("language_modeling", 2, " ", 0, items),
    }


def _task(kind: str, shots: int, delimiter: str, baseline: int, items: list[Any]) -> dict[str, Any]:
    task = {"kind": kind, "shots": shots, "delimiter": delimiter, "baseline": baseline}
    return {**task, "items": items}


def write_bundle(folder: Path, tasks: dict[str, dict[str, Any]]) -> Path:
    """The tasks as a bundle of CORE; each item has its row of the file."""
    listed, lines = [], ["Eval Task,Random baseline"]
    for name, task in tasks.items():
        path = folder / "eval_data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        items = [json.dumps({**item, "row": row}) for row, item in enumerate(task["items"])]
        path.write_text("\n".join(items), encoding="utf-8")
        listed.append(
            {
                "label": name,
                "dataset_uri": f"{name}.jsonl",
                "num_fewshot": [task["shots"]],
                "icl_task_type": task["kind"],
                "continuation_delimiter": task["delimiter"],
            }
        )
        lines.append(f"{name},{task['baseline']}")
    (folder / "core.yaml").write_text(json.dumps({"icl_tasks": listed}), encoding="utf-8")
    (folder / "eval_meta_data.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def write_documents(folder: Path) -> Path:
    """The documents as parquet files with their row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for name, groups in parquet_files().items():
        schema = pa.schema([("text", pa.string())])
        with pq.ParquetWriter(folder / name, schema) as file:
            for group in groups:
                file.write_table(pa.table({"text": group}, schema=schema))
    return folder
