"""Records what nanochat computes on fixed inputs, so that a test finds where this trainer differs.

    python tests/model/golden/make_nanochat_trace.py CHECKOUT [OUT]

CHECKOUT is a checkout of nanochat at the commit that `speedrun` reproduces (NANOCHAT_COMMIT). Its
own modules run, on one CPU thread in fp32 and without compiling: model, optimizer groups,
schedules, loader, bits per byte and CORE. Of its training script, which trains when imported, the
statements that derive batch, rates, decay and schedules are cut out and run. OUT, nanochat.json
beside this file by default, holds numbers; tests/model/test_golden.py compares them.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))
SCRATCH = tempfile.TemporaryDirectory()  # nanochat makes its folder when it is imported
os.environ.update(TORCHDYNAMO_DISABLE="1", NANOCHAT_DTYPE="float32", NANOCHAT_BASE_DIR=SCRATCH.name)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from tests.model.golden import inputs  # noqa: E402

NANOCHAT_COMMIT = "92d63d4e8bb4df75c3b71618f31ddde2378b2bcd"
UPDATES_AT = (0, 1, 2, 5, 11, 19)
"""Steps whose updates are recorded: in warm-up, plateau and warm-down."""
DEPTHS = (8, 12, 16, 20, 24, 26)
SHAPE_VOCAB = 32_768
SCHEDULE_DEPTH, SCHEDULE_POINTS = 12, 20
LOADER_ROWS, BLOCK_ROWS, FIRST_TOKENS = 1_500, 100, 12
BOS, SPECIALS = 256, 9
FIRST_FEW = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument(
        "out", type=Path, nargs="?", default=Path(__file__).parent / "nanochat.json"
    )
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.checkout))
    torch.set_num_threads(1)
    trace = {
        "commit": commit_of(arguments.checkout),
        "torch": torch.__version__,
        "initial": initial_distributions(),
        "derived": {str(depth): derived(arguments.checkout, depth) for depth in DEPTHS},
        "training": {kind: training(arguments.checkout, kind) for kind in inputs.KINDS},
        "outputs": outputs(),
        "loader": loader(),
        "core": core(),
    }
    arguments.out.write_text(json.dumps(trace, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.1f} kB")


def commit_of(checkout: Path) -> str:
    """The commit of a checkout; of an archive without history, the one it has to be."""
    if not (checkout / ".git").exists():
        return NANOCHAT_COMMIT
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if found != NANOCHAT_COMMIT:
        sys.exit(f"expected nanochat at {NANOCHAT_COMMIT}; got {found}. Check that commit out.")
    return found


def small_model(kind: str) -> Any:
    """nanochat's GPT in the sizes of `inputs`, filled by it."""
    from nanochat.gpt import GPT, GPTConfig

    sizes = {"n_layer": inputs.LAYERS, "n_head": inputs.HEADS, "n_kv_head": inputs.HEADS}
    sizes |= {"n_embd": inputs.WIDTH, "sequence_len": inputs.CONTEXT, "vocab_size": inputs.VOCAB}
    with quiet():
        model = GPT(GPTConfig(**sizes))
        torch.manual_seed(0)
        model.init_weights()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(torch.from_numpy(inputs.values(name, tuple(tensor.shape), kind)))
    return model


def initial_distributions() -> dict[str, list[float]]:
    """Mean and SD of each parameter as nanochat's own initialisation draws it."""
    model = small_model("zeros")
    torch.manual_seed(1)
    model.init_weights()
    return {
        name: [rounded(tensor.mean().item()), rounded(tensor.std(correction=0).item())]
        for name, tensor in model.named_parameters()
    }


def derived(checkout: Path, depth: int) -> dict[str, Any]:
    """What nanochat's training script settles from a depth, and its schedules over that run."""
    script = TrainingScript(checkout, {"depth": depth}, vocab_size=SHAPE_VOCAB)
    found = script.settle(script.names["build_model_meta"](depth))
    return {
        "parameters": found["param_counts"],
        "scaling_parameters": found["num_scaling_params"],
        "flops_per_token": found["num_flops_per_token"],
        "planned_tokens": found["target_tokens"],
        "batch_tokens": found["total_batch_size"],
        "steps": found["num_iterations"],
        "groups": groups_of(found["optimizer"]),
        "decay": found["weight_decay_scaled"],
        "schedule": schedule(found) if depth == SCHEDULE_DEPTH else [],
    }


def schedule(found: dict[str, Any]) -> list[list[float]]:
    """Step, share of the peak learning rate, momentum and decay, at the edges and in between."""
    steps = found["num_iterations"]
    names = ("get_lr_multiplier", "get_muon_momentum", "get_weight_decay")
    points = {0, 39, 40, 399, 400, steps - 1, *range(0, steps, steps // SCHEDULE_POINTS)}
    return [[at, *(found[name](at) for name in names)] for at in sorted(points)]


class TrainingScript:
    """The part of scripts/base_train.py between a model and its schedules."""

    def __init__(self, checkout: Path, options: dict[str, object], vocab_size: int) -> None:
        from nanochat.gpt import GPT, GPTConfig

        self.body = ast.parse((checkout / "scripts" / "base_train.py").read_text()).body
        names: dict[str, Any] = {"argparse": argparse, "math": math, "torch": torch}
        names |= {"GPT": GPT, "GPTConfig": GPTConfig, "vocab_size": vocab_size}
        names |= {"COMPUTE_DTYPE": torch.float32, "resuming": False, "print0": lambda *_: None}
        self.names = names
        self.run([each for each in self.body if ast.unparse(each).startswith("parser")])
        argv = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        names["args"] = names["parser"].parse_args(argv)
        self.run([each for each in self.body if defines(each, "build_model_meta")])

    def settle(self, model: Any) -> dict[str, Any]:
        """Runs it for a model: all that it then knows."""
        self.names["model"] = model
        first = next(i for i, each in enumerate(self.body) if starts(each, "param_counts ="))
        last = next(i for i, each in enumerate(self.body) if defines(each, "get_weight_decay"))
        with quiet():
            self.run([s for s in self.body[first : last + 1] if "loader" not in ast.unparse(s)])
        return self.names

    def set_step(self, step: int) -> None:
        """Its own loop over the groups before each step of the optimizer."""
        names = self.names
        names["lrm"] = names["get_lr_multiplier"](step)
        names["muon_momentum"] = names["get_muon_momentum"](step)
        names["muon_weight_decay"] = names["get_weight_decay"](step)
        loops = (node for each in self.body for node in ast.walk(each) if isinstance(node, ast.For))
        self.run([next(each for each in loops if "param_groups" in ast.unparse(each.iter))])

    def run(self, statements: list[Any]) -> None:
        module = ast.Module(body=statements, type_ignores=[])
        exec(compile(module, "base_train.py", "exec"), self.names)


def defines(statement: ast.stmt, name: str) -> bool:
    """Whether a statement defines the function of this name."""
    return isinstance(statement, ast.FunctionDef) and statement.name == name


def starts(statement: ast.stmt, text: str) -> bool:
    """Whether a statement begins so."""
    return ast.unparse(statement).startswith(text)


def groups_of(optimizer: Any) -> list[dict[str, Any]]:
    """The optimizer's groups: settings, and the number of values in each."""
    kept = ("kind", "initial_lr", "betas", "eps", "beta2", "ns_steps", "weight_decay")
    return [
        {
            **{key: group[key] for key in kept if key in group},
            "shapes": sorted({tuple(tensor.shape) for tensor in group["params"]}),
            "values": sum(tensor.numel() for tensor in group["params"]),
        }
        for group in optimizer.param_groups
    ]


def training(
    checkout: Path, kind: str, steps: int = inputs.STEPS, **options: object
) -> dict[str, Any]:
    """Losses of every step, and the norm of each parameter's update at some of them."""
    model = small_model(kind)
    script = TrainingScript(checkout, {**inputs.OPTIONS, **options}, vocab_size=inputs.VOCAB)
    optimizer = script.settle(model)["optimizer"]
    rows, losses, updates = torch.from_numpy(inputs.rows(steps)), [], {}
    settings = []
    for step in range(steps):
        batch = rows[step * inputs.BATCH_ROWS : (step + 1) * inputs.BATCH_ROWS]
        before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
        losses.append(accumulate(model, batch))
        script.set_step(step)
        settings.append([*(g["lr"] for g in optimizer.param_groups), *muon_settings(optimizer)])
        optimizer.step()
        model.zero_grad(set_to_none=True)
        if step in UPDATES_AT:
            updates[str(step)] = [
                rounded((tensor.detach() - before[name]).double().norm().item())
                for name, tensor in model.named_parameters()
            ]
    return {"losses": losses, "updates": updates, "settings": settings, "names": [*before]}


def accumulate(model: Any, batch: torch.Tensor) -> float:
    """One row a pass, as the device batch asks; returns the mean loss in nats."""
    total = 0.0
    for row in batch.split(1):
        loss = model(row[:, :-1], row[:, 1:].contiguous()) / len(batch)
        loss.backward()
        total += loss.item()
    return total


def muon_settings(optimizer: Any) -> tuple[float, float]:
    """Momentum and decay of this step, the same for all groups of Muon."""
    (both,) = {
        (group["momentum"], group["weight_decay"])
        for group in optimizer.param_groups
        if group["kind"] == "muon"
    }
    return both


def outputs() -> dict[str, Any]:
    """Of the filled model: some logits, their sums, the loss of single tokens, bits per byte."""
    from nanochat.loss_eval import evaluate_bpb

    model, rows = small_model("filled"), torch.from_numpy(inputs.rows(inputs.BPB_STEPS))
    tokens, targets = rows[:, :-1], rows[:, 1:].contiguous()
    with torch.no_grad():
        logits = model(tokens[:1])[0]
        losses = model(tokens[:1], targets[:1], loss_reduction="none")
    lengths = torch.tensor([*([1] * 200), *([3] * (inputs.VOCAB - 209)), *([0] * 9)])
    batches = list(zip(tokens.split(2), targets.split(2), strict=True))
    return {
        "shape": list(logits.shape),
        "first": logits[0, :FIRST_FEW].tolist(),
        "last": logits[-1, -FIRST_FEW:].tolist(),
        "sum": logits.double().sum().item(),
        "squares": logits.double().square().sum().item(),
        "losses": losses[:FIRST_FEW].tolist(),
        "bytes": lengths.bincount(minlength=4).tolist(),
        "bpb": evaluate_bpb(model, batches, len(batches), lengths),
    }


class ByteTokenizer:
    """A token a byte, then BOS and other specials: what nanochat asks of a tokenizer."""

    def get_bos_token_id(self) -> int:
        return BOS

    def encode(self, texts: list[str], prepend: int, num_threads: int = 1) -> list[list[int]]:
        return [[prepend, *text.encode()] for text in texts]

    __call__ = encode


def loader() -> dict[str, Any]:
    """Rows of nanochat's loader over the documents of `inputs`, for more than an epoch."""
    from nanochat import dataloader, dataset

    dataset.DATA_DIR = str(inputs.write_documents(Path(SCRATCH.name) / "base_data_climbmix"))
    make = dataloader.tokenizing_distributed_data_loader_with_state_bos_bestfit
    batches = make(ByteTokenizer(), 1, inputs.CONTEXT, "train", device="cpu")
    found = []
    for _ in range(LOADER_ROWS):
        tokens, targets, state = next(batches)
        found.append(np.append(tokens[0].numpy(), targets[0, -1].item()))
    rows = np.stack(found).astype("<i8")
    blocks = range(0, LOADER_ROWS, BLOCK_ROWS)
    return {
        "rows": LOADER_ROWS,
        "epochs": state["epoch"],
        "first": rows[:FIRST_FEW, :FIRST_TOKENS].tolist(),
        "sha256": [
            hashlib.sha256(rows[at : at + BLOCK_ROWS].tobytes()).hexdigest()[:16] for at in blocks
        ],
    }


def core() -> dict[str, Any]:
    """Every question of a small CORE bundle to the filled model: losses and whether it is right."""
    from nanochat import core_eval
    from scripts import base_eval

    model, items = small_model("filled"), []
    for name in range(200):
        context = inputs.phrase(f"start {name}", 5)
        if (follows := next_character(model, context)) is not None and len(items) < FIRST_FEW:
            items.append({"context": f" {context} ", "continuation": follows})
    items += [{"context": inputs.phrase(f"wrong {n}", 4), "continuation": "no"} for n in range(3)]
    tasks = inputs.questions() | inputs.continuations(items)
    inputs.write_bundle(Path(SCRATCH.name) / "eval_bundle", tasks)
    answers: list[dict[str, Any]] = []
    watch(core_eval, answers)
    with quiet():
        result = base_eval.evaluate_core(model, ByteTokenizer(), torch.device("cpu"))
    names = [name for name, task in tasks.items() for _ in task["items"]]
    return {
        "continuations": items,
        "answers": [{"task": n, **each} for n, each in zip(names, answers, strict=True)],
        "accuracy": result["results"],
        "core": result["core_metric"],
    }


def next_character(model: Any, context: str) -> str | None:
    """The model's first choice behind a text, where that is a letter."""
    with torch.no_grad():
        best = model(torch.tensor([[BOS, *context.encode()]]))[0, -1].argmax().item()
    return chr(best) if best < 128 and chr(best).isalpha() else None


def watch(core_eval: Any, answers: list[dict[str, Any]]) -> None:
    """Has nanochat's evaluation leave row, mean losses and decision of every question."""
    own = {name: getattr(core_eval, name) for name in ("forward_model", "evaluate_example")}
    seen: dict[str, Any] = {}

    def forward_model(model: Any, tokens: torch.Tensor) -> Any:
        seen["losses"], predictions = own["forward_model"](model, tokens)
        return seen["losses"], predictions

    def spans(batch: Any) -> Any:
        def wrapped(tokenizer: Any, prompts: list[str]) -> Any:
            tokens, seen["starts"], seen["ends"] = batch(tokenizer, prompts)
            return tokens, seen["starts"], seen["ends"]

        return wrapped

    def evaluate_example(index: int, model: Any, tokenizer: Any, data: Any, *rest: Any) -> bool:
        right = own["evaluate_example"](index, model, tokenizer, data, *rest)
        pairs = zip(seen["losses"], seen["starts"], seen["ends"], strict=True)
        losses = [row[start - 1 : end - 1].mean().item() for row, start, end in pairs]
        answers.append({"row": data[index]["row"], "losses": losses, "correct": bool(right)})
        return right

    for kind in ("mc", "schema", "lm"):
        name = f"batch_sequences_{kind}"
        setattr(core_eval, name, spans(getattr(core_eval, name)))
    core_eval.forward_model, core_eval.evaluate_example = forward_model, evaluate_example


def rounded(value: float) -> float:
    """Seven digits, as many as fp32 holds."""
    return float(f"{value:.7g}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """nanochat's messages are no part of the trace."""
    with contextlib.redirect_stdout(None):
        yield


if __name__ == "__main__":
    main()
