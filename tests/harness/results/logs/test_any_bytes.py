"""Logs and tables of any content: an error with a hint, or runs whose numbers are measurements."""

import contextlib
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.comparison.compare import CompareOptions, compare
from harness.comparison.noise_model import NoiseModel
from harness.errors import HarnessError
from harness.metrics import is_measured
from harness.results.logs import read_sides, regex, text
from tests.fixtures.damaged import damaged

MODDED = "".join(
    f"step:{step}/20 train_time:{step * 10}ms step_avg:10.00ms\n"
    + (f"step:{step}/20 val_loss:{9 - step / 4:.4f} train_time:{step * 10}ms\n" * (step % 5 == 0))
    for step in range(1, 21)
)
LLMC = "".join(f"s:{step} trl:4.1 lr:0.1\ns:{step} tel:{9 - step / 4:.4f}\n" for step in range(9))
HEADER = (
    "Tue May 19 20:01:01 2026\nRunning PyTorch 2.10.0+cu128 compiled for CUDA 12.8\n"
    "| NVIDIA-SMI 570.1     Driver Version: 570.2     CUDA Version: 12.8     |\n"
    "|   0  NVIDIA H100 80GB HBM3          On  |   00000000:05:00.0 Off |   0 |\n"
)
NANOCHAT = (
    '2026-11-22 07:37:26,068 - nanochat.common - Distributed world size: 1\n  "n_layer": 8,\n'
    "GPU: NVIDIA H100 | x\nTotal batch size 262,144 => x\nTokens : Scaling params ratio: 1.50\n"
    + "".join(
        f"step {step:05d}/00020 (1%) | dt: 200.00ms | total time: 0.{step:02d}m\n"
        + f"Step {step:05d} | Validation bpb: 1.{30 - step:02d}\n" * (step % 5 == 0)
        for step in range(1, 21)
    )
    + "Step 00020 | CORE metric: 0.1\nPeak memory usage: 28956.58MiB\nTotal training time: 0.20m\n"
)
OTHER = "".join(f"train loss {9 - n / 9}\nval loss {5 - n / 9:.4f} at {n}\n" for n in range(9))
CSV = "run,step,planned_steps,seed,val_loss,train_time_s\n" + "".join(
    f"r{n % 2},{n},9,{n % 2},{4 - n / 9:.3f},{n}\n" for n in range(1, 9)
)
CHART = '"Step","a - val_loss","b - val_loss"\n1,"4.0","4.1"\n2,"3.9","3.8"\n'
ROWS = '[{"_step": 1, "val/loss": 4.0, "seed": 1}, {"_step": 2, "val/loss": 3.5, "seed": 1}]'
COLUMNS = '{"step": [1, 2], "val_loss": [4.0, 3.5]}'
LINES = '{"step": 1, "val_loss": 4.0}\n{"step": 2, "val_loss": NaN}\n'
PATTERNS = regex.parse(["val_loss=val loss {number}", r"bleu=at (\S+)"])

bounded = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    (folder / "modded-nanogpt.txt").write_text(HEADER + MODDED)
    (folder / "nanochat.txt").write_text(NANOCHAT)
    (folder / "other.txt").write_text(OTHER)
    (folder / "table.csv").write_text(CSV.replace("r1,", "r0,"))
    return folder


def check(folder, name, data):
    """Reads a file of this content and compares it with a good one, if it can be read."""
    (folder / name).write_bytes(data)
    try:
        (runs, _) = read_sides([str(folder / name)], [str(folder / "other.txt")], PATTERNS)
    except HarnessError:
        return
    for run in runs:
        assert all(is_measured(key, value) for key, value in run.metrics.items()), run
        shown = [pair for at in run.evaluations for pair in at.metrics.items()]
        assert all(is_measured(key, value) for key, value in shown), run
        assert run.started_at is None or math.isfinite(run.started_at)
        assert run.ending is None or run.ending.strip()
    family = {run.family for run in runs}.pop()
    same = "table.csv" if family == "table" else f"{family}.txt"
    options = CompareOptions(margins={"val_loss": 0.01} if family != "nanochat" else {})
    with contextlib.suppress(HarnessError):
        sides = read_sides([str(folder / same)], [str(folder / name)], PATTERNS)
        compare(*sides, options, NoiseModel([]))


@bounded
@given(data=damaged(HEADER + MODDED, LLMC, NANOCHAT, OTHER))
def test_a_log_of_any_bytes_is_an_error_or_a_run(folder, data):
    check(folder, "a.log", data)


@bounded
@given(
    data=damaged(CSV, CHART, ROWS, COLUMNS, LINES), suffix=st.sampled_from(("csv", "json", "jsonl"))
)
def test_a_table_of_any_bytes_is_an_error_or_runs(folder, data, suffix):
    check(folder, f"a.{suffix}", data)


@bounded
@given(data=damaged(HEADER + MODDED, NANOCHAT, OTHER), block=st.integers(1, 700))
def test_a_log_of_any_bytes_in_blocks_of_any_size(folder, data, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK_CHARACTERS", block)
        patch.setattr(text, "HEADER_CHARACTERS", 300)
        check(folder, "b.log", data)


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
@settings(bounded, max_examples=100)
@given(pattern=st.text(alphabet=r"ab()[]\|?*+{}^$.,0-9:<>P=number ", max_size=12))
def test_any_pattern_is_an_error_or_reads_any_log(pattern):
    with contextlib.suppress(HarnessError):
        final = regex.read_metrics(OTHER[:100], regex.parse([f"x={pattern}"]))
        assert all(math.isfinite(value) for value in final.metrics.values())
