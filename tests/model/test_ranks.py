"""Ranks train the same model: equal losses on 1, 2 and 4, by torchrun and gloo on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.distributed.ranks import ALONE, VARIABLES, Ranks, from_environment
from model.errors import MachineError

ROOT = Path(__file__).parents[2]
STEPS = 20
SETTINGS = {
    "dial.depth": 3,  # three layers, so that stacks of 3 and 12 do not divide by 2 and 4 alike
    "dial.steps": STEPS,
    "dial.batch_tokens": 8 * 128,
    "model.context_tokens": 128,
    "model.width": 64,
    "model.head_width": 32,
    "model.vocab_size": 1024,
    "eval.tokens": 7 * 128,
    "eval.at_start": True,
    "system.precision": "fp32",
    "system.compile": False,
    "system.threads": 1,
    "system.calibration_s": 0.01,
}


def trained(
    tmp_path: Path, base: str, ranks: int, changes: dict[str, object]
) -> tuple[list[float], list[float]]:
    """Training losses and validation losses of a run over `ranks` ranks."""
    out = tmp_path / f"over_{ranks}"
    settings = {**SETTINGS, **changes}
    options = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
    launcher = [sys.executable, "-m"]
    if ranks > 1:
        port = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        launcher += ["torch.distributed.run", f"--nproc-per-node={ranks}", *port, "-m"]
    command = ["model.train", f"--config=ablations/configs/{base}.yaml", f"--out={out}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *command, *options], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    steps = [event["loss"] for event in events if event["event"] == "step"]
    evaluations = [event["val_loss"] for event in events if event["event"] == "evaluation"]
    assert len(steps) == STEPS
    return steps, evaluations


@pytest.mark.parametrize(
    ("base", "ranks", "changes"),
    [
        pytest.param("speedrun_tiny_cpu", 2, {}, marks=pytest.mark.slow, id="two_plain_ranks"),
        # compiling runs backward passes that no step follows
        pytest.param("speedrun_tiny_cpu", 2, {"system.compile": True}, marks=pytest.mark.slow),
        pytest.param("speedrun_tiny_cpu", 4, {}, marks=pytest.mark.slow),
        # gradients that wait for the next step, and two tables that are one at first
        pytest.param(
            "speedrun_tiny_cpu",
            2,
            {"schedule.untie": {}, "optimizer.table_interval_steps": 2},
            marks=pytest.mark.slow,
        ),
        # masks over a rank's own rows, and averages that evaluations see
        pytest.param(
            "speedrun_tiny_cpu",
            2,
            {
                "optimizer.adamw_cautious_decay": {},
                "optimizer.weight_average": {"decay": 0.8, "start": 0.5},
            },
            marks=pytest.mark.slow,
            id="cautious_and_averaged",
        ),
        # every label under AdamW, a tied head, gradients clipped at every step
        pytest.param("gpt2_tiny_cpu", 2, {"optimizer.clip": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_the_same_batch_over_more_ranks_gives_the_same_losses(
    tmp_path: Path, base: str, ranks: int, changes: dict[str, object]
) -> None:
    alone, alone_validation = trained(tmp_path, base, 1, changes)
    losses, validation = trained(tmp_path, base, ranks, changes)
    assert losses[0] == pytest.approx(alone[0], rel=1e-6)
    assert losses == pytest.approx(alone, rel=1e-4)
    assert validation == pytest.approx(alone_validation, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_two_gpus_give_the_losses_of_one(tmp_path: Path) -> None:
    on_gpus = {"system.device": "cuda", "schedule.untie": {}, "optimizer.table_interval_steps": 2}
    alone, alone_validation = trained(tmp_path, "speedrun_tiny_cpu", 1, on_gpus)
    losses, validation = trained(tmp_path, "speedrun_tiny_cpu", 2, on_gpus)
    assert losses[0] == pytest.approx(alone[0], rel=1e-6)
    assert losses == pytest.approx(alone, rel=1e-3)  # sums on a GPU come in any order
    assert validation == pytest.approx(alone_validation, rel=1e-3)


def test_a_share_is_whole_and_even() -> None:
    ranks = [Ranks(rank=rank, count=4) for rank in range(4)]
    assert [ranks[0].padded(length) for length in (1, 4, 6)] == [4, 4, 8]
    for length in (0, 3, 7, 8):
        shares = [range(length)[each.share(length)] for each in ranks]
        assert [index for share in shares for index in share] == list(range(length))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_half_of_torchruns_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert from_environment() == ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MachineError, match="torchrun --nproc-per-node"):
        from_environment()
