"""Whole runs of a tiny model as processes: their files, and the status of each end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from model.arch.init import generator_seed, initialise
from model.arch.parameter import make_parameter
from model.config.derive import derive
from model.config.parameters import Normal, Parameter
from model.config.reader import load_config
from model.evaluate import evaluate
from model.runtime.run_dir import METRICS, RunDirectory
from model.trainer import Trainer
from tests.fixtures import warm_python

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def argv(out: Path, overrides: dict[str, Any]) -> list[str]:
    settings = [f"--set={path}={json.dumps(value)}" for path, value in overrides.items()]
    return ["--config", str(write_base(out)), "--out", str(out), *settings]


def start(
    out: Path, overrides: dict[str, Any], *more: str, pass_fds: Sequence[int] = ()
) -> warm_python.Program:
    command = ["-m", "model.train", *argv(out, overrides), *more]
    return warm_python.start(command, pass_fds=pass_fds)


def write_base(out: Path) -> Path:
    path = out.with_suffix(".yaml")
    path.write_text("seed: 1\n")
    return path


def finished(out: Path, overrides: dict[str, Any]) -> tuple[int, dict[str, Any], str]:
    process = start(out, overrides)
    log = "".join(process.communicate(timeout=120))
    return int(process.returncode or 0), json.loads((out / "result.json").read_text()), log


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_a_run_leaves_the_whole_contract(tmp_path: Path, tiny: dict[str, Any]) -> None:
    out = tmp_path / "run"
    code, result, log = finished(out, {**tiny, "eval.every_steps": 2, "dial.steps": 12})
    assert code == 0, log
    assert result["status"] == "completed"
    assert (result["steps"], result["tokens"]) == (12, 12 * 256)
    assert set(result["metrics"]) == set(METRICS)
    assert 0 < result["metrics"]["val_bpb"] < 10
    assert result["metrics"]["tokens_per_s"] > 0
    config = json.loads((out / "config.json").read_text())
    assert config["requested"]["dial"]["steps"] == 12
    assert config["identity"]["data_id"] is None or len(config["identity"]["data_id"]) == 64
    environment = json.loads((out / "environment.json").read_text())
    assert environment["attention_backend"] == "sdpa"
    assert [line["step"] for line in events(out, "step")] == list(range(1, 13))
    assert [line["step"] for line in events(out, "evaluation")] == [2, 4, 6, 8, 10, 12]
    assert {"startup", "data", "build", "train"} <= {line["name"] for line in events(out, "phase")}
    steps_s = sum(line["step_s"] for line in events(out, "step"))
    assert steps_s == pytest.approx(result["metrics"]["train_time_s"], abs=1e-4)
    (alone,) = events(out, "ranks")  # which waits for nobody
    assert (alone["step"], alone["compute_s"]) == (12, [pytest.approx(steps_s / 12, abs=1e-5)])


def test_a_finished_directory_is_not_written_again(tmp_path: Path, tiny: dict[str, Any]) -> None:
    out = tmp_path / "run"
    finished(out, tiny)
    before = (out / "result.json").read_bytes()
    process = start(out, tiny)
    log = "".join(process.communicate(timeout=60))
    assert process.returncode == 2
    assert "results are never overwritten" in log
    assert (out / "result.json").read_bytes() == before


def test_a_diverging_run_has_its_status(tmp_path: Path, tiny: dict[str, Any]) -> None:
    wild = {"optimizer.matrices": {"lr": 1e30}, "optimizer.clip": None, "dial.steps": 30}
    code, result, _ = finished(tmp_path / "run", {**tiny, **wild, "schedule.warmup_steps": 0})
    assert code == 1
    assert result["status"] == "diverged"
    assert "at step" in result["reason"]
    assert result["metrics"]["train_loss"] is None


def test_a_faulty_configuration_is_a_failed_run_with_a_hint(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    code, result, log = finished(tmp_path / "run", {**tiny, "model.wdith": 64})
    assert code == 2
    assert result["status"] == "failed"
    assert result["hint"] == "Did you mean width?"
    assert "Traceback" not in log


def test_a_back_end_that_cannot_run_stops_the_run(tmp_path: Path, tiny: dict[str, Any]) -> None:
    code, result, _ = finished(tmp_path / "run", {**tiny, "system.attention": "flex"})
    assert code == 1
    assert "no backward pass on the CPU" in result["reason"]
    assert result["hint"] == "Set system.attention: sdpa."


@pytest.mark.parametrize("module", ["model.train", "model.data"])
def test_a_missing_package_is_an_error_with_a_hint_and_no_traceback(
    tmp_path: Path, tiny: dict[str, Any], module: str
) -> None:
    hidden = "import sys, runpy; sys.modules['torch'] = sys.modules['rustbpe'] = None; "
    code = f"{hidden}runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    argv = {
        "model.train": [
            "--config",
            str(write_base(tmp_path / "run")),
            "--out",
            str(tmp_path / "run"),
        ],
        "model.data": ["prepare"],
    }[module]
    for path, value in {**tiny, "data.cache_dir": str(tmp_path / "empty")}.items():
        argv += ["--set", f"{path}={json.dumps(value)}"]
    command = [sys.executable, "-c", code, *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert "pip install 'speedrun-harness[train]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space as Linux does")
def test_running_out_of_memory_has_its_status(tmp_path: Path, tiny: dict[str, Any]) -> None:
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)); "
        "from model.train import main; sys.exit(main(sys.argv[1:]))"
    )
    large = {"dial.batch_tokens": 64 * 262_144, "system.device_batch_rows": 262_144}
    out = tmp_path / "run"
    warm_python.run(["-c", limited, *argv(out, {**tiny, **large, "dial.steps": 1})])
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "out_of_memory"
    assert "device_batch_rows" in result["hint"]


def wait_for_steps(out: Path, process: warm_python.Program) -> None:
    for _ in range(600):
        path = out / "events.jsonl"
        if path.exists() and '"event": "step"' in path.read_text():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    pytest.fail("no step in a minute")


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_a_signal_ends_in_an_interrupted_result(
    tmp_path: Path, tiny: dict[str, Any], number: signal.Signals
) -> None:
    out = tmp_path / "run"
    process = start(out, {**tiny, "dial.steps": 1_000_000, "data.order": "file"} | SHORT_EPOCHS)
    wait_for_steps(out, process)
    process.send_signal(number)
    process.communicate(timeout=60)
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert number.name in result["reason"]
    assert result["steps"] == len(events(out, "step")) > 0


# enough steps to be interrupted, few enough that their rows are planned in no time
SHORT_EPOCHS = {"dial.steps": 20_000}


def test_end_of_file_on_the_watch_descriptor_ends_the_run(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    read, write = os.pipe()
    settings = {**tiny, **SHORT_EPOCHS}
    process = start(out, settings, "--watch-fd", str(read), pass_fds=[read])
    os.close(read)
    wait_for_steps(out, process)
    os.close(write)
    process.communicate(timeout=60)
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert "gone" in result["reason"]


def test_same_seed_gives_the_same_losses_and_another_seed_others(tiny: dict[str, Any]) -> None:
    def losses(seed: int) -> list[float]:
        config = load_config(None, {**tiny, "seed": seed, "optimizer.muon": {}})
        trainer = Trainer(config, derive(config), CPU)
        tokens = torch.randint(0, 512, (4, 65), generator=torch.Generator().manual_seed(1))
        return [trainer.step(i, tokens)[0].item() for i in range(3)]

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_accumulated_gradients_equal_those_of_the_whole_batch(tiny: dict[str, Any]) -> None:
    tokens = torch.randint(0, 512, (4, 65), generator=torch.Generator().manual_seed(1))
    gradients = []
    for rows in (1, 4):
        config = load_config(None, {**tiny, "system.device_batch_rows": rows})
        trainer = Trainer(config, derive(config), CPU)
        trainer.gradients(tokens)
        gradients.append(trainer.gpt.blocks[0].mlp.up.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_validation_equals_a_slow_sum_and_leaves_specials_out(tiny: dict[str, Any]) -> None:
    config = load_config(None, tiny)
    model = Trainer(config, derive(config), CPU).gpt
    rows = torch.randint(0, 512, (3, 65), generator=torch.Generator().manual_seed(1))
    lengths = torch.randint(1, 6, (512,), generator=torch.Generator().manual_seed(2))
    lengths[500:] = 0
    got = evaluate(model, rows.numpy(), lengths, 2)
    nats = size = count = 0.0
    for row in rows:
        logits = model.logits(row[None, :-1])[0].detach().double()
        for position, target in enumerate(row[1:].tolist()):
            if lengths[target] > 0:
                nats -= logits[position].log_softmax(-1)[target].item()
                size += lengths[target].item()
                count += 1
    assert got.val_loss == pytest.approx(nats / count, rel=1e-6)
    assert got.val_bpb == pytest.approx(nats / size / 0.6931471805599453, rel=1e-6)


def test_initial_values_depend_on_seed_and_name_alone() -> None:
    class Two(torch.nn.Module):
        def __init__(self, *names: str, dtype: torch.dtype = torch.float32) -> None:
            super().__init__()
            for name in names:
                declared = Parameter(name, (8, 4), "matrices", Normal(1.0), in_compute_type=True)
                setattr(self, name, make_parameter(declared, dtype))

    first, second, half = Two("a", "b"), Two("b", "c", "a"), Two("a", dtype=torch.bfloat16)
    for model in (first, second, half):
        initialise(model, 3)
    assert torch.equal(first.a, second.a)
    assert torch.equal(first.b, second.b)
    assert torch.equal(first.a.bfloat16(), half.a)
    assert not torch.equal(first.a, first.b)
    assert generator_seed(3, "a") != generator_seed(4, "a")


def test_only_the_first_end_of_a_run_is_written(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.metrics["val_loss"] = float("nan")
    assert run.finish("interrupted", "SIGTERM")
    assert not run.finish("completed")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert result["metrics"]["val_loss"] is None
    run.event("step", step=1)  # a late event is dropped, not an error
