"""Checkpoints: a run that was killed, stopped or lost its disk continues to the same
numbers, and never from a checkpoint that is damaged or another run's."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import directory as checkpoint
from model.checkpoint.directory import MANIFEST, Manifest, folder_of, listed, rank_file
from model.checkpoint.staging import read_tensors, write_tensors
from model.checkpoint.writer import CheckpointWriter
from model.config import Checkpointing, Config
from model.config.derive import derive
from model.config.identity import config_id, kernel_versions
from model.config.reader import load_config
from model.runtime.run_dir import RunDirectory
from model.train import main
from model.trainer import Trainer
from tests.fixtures import warm_python

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
STEPS, EVERY = 24, 4
NEWEST = "step-00000012"


@pytest.fixture(scope="module")
def overrides(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small model with both optimizers, states of every kind, and checkpoints."""
    return {
        "seed": 1,
        "dial.depth": 2,
        "dial.steps": STEPS,
        "dial.batch_tokens": 256,
        "model.width": 64,
        "model.context_tokens": 64,
        "model.vocab_size": 512,
        "model.tied_head": False,
        "model.value_embeddings": {},
        "optimizer.muon": {},
        "optimizer.muon.normuon": {},
        "optimizer.adamw_cautious_decay": {},
        "optimizer.weight_average": {"decay": 0.7, "start": 0.3, "every_steps": 2},
        "data.source": str(text_folder),
        "data.cache_dir": str(tmp_path_factory.getbasetemp() / "cache"),
        "eval.tokens": 512,
        "eval.every_steps": 3,
        "checkpoint.every_steps": EVERY,
        "checkpoint.keep": STEPS,
        "system.device": "cpu",
        "system.compile": False,
        "system.calibration_s": 0,
        "system.threads": 1,
    }


@pytest.fixture(scope="module")
def uninterrupted(overrides: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was left alone, on a disk that is quick enough for every checkpoint."""
    out, log = tmp_path_factory.mktemp("uninterrupted") / "run", RunDirectory.event

    def log_behind_the_disk(run: RunDirectory, kind: str, **fields: Any) -> None:
        log(run, kind, **fields)
        if kind == "step" and fields["step"] % EVERY == EVERY - 1:
            while len(listed(folder_of(run.path))) < fields["step"] // EVERY:
                time.sleep(0.001)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RunDirectory, "event", log_behind_the_disk)
        assert train(out, overrides) == 0
    return out


@pytest.fixture
def killed(uninterrupted: Path, tmp_path: Path) -> Path:
    """What a kill in the middle of step 15 leaves: checkpoints up to step 12, half an event."""
    out = shutil.copytree(uninterrupted, tmp_path / "run")
    (out / "result.json").unlink()
    for path in listed(folder_of(out)):
        if path.name > NEWEST:
            shutil.rmtree(path)
    (out / "events.jsonl").write_text(logged(out).partition('"step": 15,')[0])
    return out


@pytest.fixture(autouse=True, scope="module")
def _signals() -> Iterator[None]:
    """A run that is made in this process listens to signals; afterwards pytest does again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def argv(out: Path, overrides: dict[str, Any]) -> list[str]:
    base = out.parent / "base.yaml"
    base.write_text("seed: 1\n")
    sets = [f"--set={path}={json.dumps(value)}" for path, value in overrides.items()]
    return ["--config", str(base), "--out", str(out), *sets]


def train(out: Path, overrides: dict[str, Any], *more: str) -> int:
    """A whole run in this process; its exit code."""
    return main([*argv(out, overrides), *more])


# python -c KILLED STEP ...: model.train with these options, killed once it has logged that step and
# has a checkpoint, mostly while it writes another
KILLED = """
import os, signal, sys, time
from model.checkpoint.directory import folder_of, listed
from model.runtime.run_dir import RunDirectory
from model.train import main

log, step = RunDirectory.event, int(sys.argv.pop(1))

def log_and_die(run, kind, **fields):
    log(run, kind, **fields)
    if kind == "step" and fields["step"] == step:
        while not listed(folder_of(run.path)):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)

RunDirectory.event = log_and_die
main(sys.argv[1:])
"""


def killed_at_step(step: int, out: Path, overrides: dict[str, Any], *more: str) -> None:
    """A separate process, killed by SIGKILL."""
    done = warm_python.run(["-c", KILLED, str(step), *argv(out, overrides), *more])
    assert done.returncode == -signal.SIGKILL, done.stderr


def logged(out: Path) -> str:
    path = out / "events.jsonl"
    return path.read_text() if path.exists() else ""


def all_events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged(out).splitlines()]


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in all_events(out) if event["event"] == kind]


def numbers(out: Path) -> list[tuple[Any, ...]]:
    """The losses of training and validation, step by step."""
    names = ("event", "step", "tokens", "loss", "val_loss", "val_bpb", "lr_scale")
    kinds = ("step", "evaluation")
    return [tuple(e.get(n) for n in names) for e in all_events(out) if e["event"] in kinds]


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_text())


def state(out: Path) -> dict[str, Any]:
    """What the run ended with; the generators of a run in this process began wherever they were."""
    whole = read_tensors(listed(folder_of(out))[0] / rank_file(0))
    return {name: whole[name] for name in ("model", "optimizers")}


def require_same_end(out: Path, other: Path) -> None:
    assert numbers(out) == numbers(other)
    for name in ("train_loss", "val_loss", "val_bpb"):
        assert result(out)["metrics"][name] == result(other)["metrics"][name]
    require_equal(state(out), state(other))


def require_equal(one: Any, other: Any) -> None:
    """Bit by bit, through nested states."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            require_equal(one[name], other[name])
    elif isinstance(one, list | tuple):
        for mine, its in zip(one, other, strict=True):
            require_equal(mine, its)
    else:
        assert one == other


def test_a_killed_process_resumes_to_bit_identical_numbers(
    overrides: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    killed_at_step(10, out, overrides)
    assert train(out, overrides, "--resume") == 0
    require_same_end(out, uninterrupted)
    assert result(out)["metrics"]["resumes"] == 1
    assert [0 < event["step"] < 10 for event in events(out, "resumed")] == [True]


@pytest.mark.slow
@pytest.mark.parametrize("first", [2, 7, 13, 19])
def test_wherever_and_however_often_it_is_killed(
    overrides: dict[str, Any], uninterrupted: Path, tmp_path: Path, first: int
) -> None:
    out, often = tmp_path / "run", {**overrides, "checkpoint.every_steps": 1}
    killed_at_step(first, out, often)
    for step in (first + 2, first + 4):
        killed_at_step(step, out, often, "--resume")
    assert train(out, often, "--resume") == 0
    require_same_end(out, uninterrupted)


def test_sigterm_leaves_a_checkpoint_and_an_interrupted_result_that_resumes(
    overrides: dict[str, Any],
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, log = tmp_path / "run", RunDirectory.event

    def log_and_terminate(run: RunDirectory, kind: str, **fields: Any) -> None:
        log(run, kind, **fields)
        if kind == "step" and fields["step"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "event", log_and_terminate)
        assert train(out, {**overrides, "checkpoint.every_steps": None}) == 1
    left = result(out)
    assert (left["status"], left["steps"]) == ("interrupted", 6)
    assert left["hint"] == "Re-run the same command with --resume to continue after step 6."
    assert [path.name for path in listed(folder_of(out))] == ["step-00000006"]
    assert train(out, overrides, "--resume") == 0
    require_same_end(out, uninterrupted)
    assert [event["earlier_status"] for event in events(out, "resumed")] == ["interrupted"]


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_from_its_first_step(
    overrides: dict[str, Any],
    killed: Path,
    uninterrupted: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(folder_of(killed))
    assert train(killed, overrides, "--resume") == 0
    require_same_end(killed, uninterrupted)
    assert "no checkpoint to resume from" in capfd.readouterr().out


def truncate(path: Path) -> None:
    file = path / rank_file(0)
    os.truncate(file, file.stat().st_size - 1)


def flip_a_bit(path: Path) -> None:
    file = path / rank_file(0)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def remove_tensors(path: Path) -> None:
    (path / rank_file(0)).unlink()


def halve_the_manifest(path: Path) -> None:
    file = path / MANIFEST
    file.write_text(file.read_text()[:200])


HARMS = (truncate, flip_a_bit, remove_tensors, halve_the_manifest)


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(
    overrides: dict[str, Any], killed: Path, uninterrupted: Path, harm: Any
) -> None:
    harm(folder_of(killed) / NEWEST)
    assert train(killed, overrides, "--resume") == 0
    require_same_end(killed, uninterrupted)
    assert [event["step"] for event in events(killed, "resumed")] == [8]
    assert NEWEST in events(killed, "checkpoint_damaged")[0]["path"]
    assert (folder_of(killed) / f"{NEWEST}.damaged").is_dir()


def test_without_a_whole_checkpoint_nothing_is_started_over(
    overrides: dict[str, Any], killed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in listed(folder_of(killed)):
        truncate(path)
    before = logged(killed)
    assert train(killed, overrides, "--resume") == 1
    assert "expected a whole checkpoint" in capfd.readouterr().err
    assert logged(killed).startswith(before)
    assert not (killed / "result.json").exists()


@pytest.mark.parametrize(
    ("requested", "reason"),
    [
        (
            {"optimizer.muon.lr": 0.03},
            "optimizer.muon.lr 0.03; got optimizer.muon.lr (its default)",
        ),
        ({"seed": 2}, "seed 2; got seed 1"),
    ],
)
def test_another_runs_checkpoint_is_refused_by_the_field_that_differs(
    overrides: dict[str, Any],
    killed: Path,
    capfd: pytest.CaptureFixture[str],
    requested: dict[str, Any],
    reason: str,
) -> None:
    before = files(killed)
    assert train(killed, {**overrides, **requested}, "--resume") == 1
    assert reason in capfd.readouterr().err
    assert files(killed) == before


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("data_id", "0" * 64, "got data 000000000000"),
        ("protocol", 0, "expected a checkpoint of protocol"),
        ("code_id", "0" * 64, "--other-code"),
    ],
)
def test_other_data_protocol_or_code_is_refused(
    overrides: dict[str, Any],
    killed: Path,
    capfd: pytest.CaptureFixture[str],
    field: str,
    value: Any,
    reason: str,
) -> None:
    rewrite_identity(folder_of(killed) / NEWEST, field, value)
    before = files(killed)
    assert train(killed, overrides, "--resume") == 1
    assert reason in capfd.readouterr().err
    assert files(killed) == before


def files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def rewrite(path: Path, field: str, value: Any) -> None:
    values = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**values, field: value}))


def rewrite_identity(path: Path, field: str, value: Any) -> None:
    identity = json.loads((path / MANIFEST).read_text())["identity"]
    rewrite(path, "identity", {**identity, field: value})


def test_code_of_another_torch_is_refused_with_both_versions(
    overrides: dict[str, Any], killed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    packages = {**kernel_versions(), "torch": "1.0"}
    rewrite_identity(folder_of(killed) / NEWEST, "code_id", "0" * 64)
    rewrite_identity(folder_of(killed) / NEWEST, "packages", packages)
    assert train(killed, overrides, "--resume") == 1
    assert f"(torch 1.0, now {kernel_versions()['torch']})" in capfd.readouterr().err


def test_other_code_that_builds_another_model_is_refused_with_the_reason(
    overrides: dict[str, Any], killed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = folder_of(killed) / NEWEST
    rewrite_identity(path, "code_id", "0" * 64)
    state = read_tensors(path / rank_file(0))
    state["model"]["elsewhere.weight"] = state["model"].pop("embedding.weight")
    rewrite(path, "files", {rank_file(0): asdict(write_tensors(path / rank_file(0), state))})
    assert train(killed, overrides, "--resume", "--other-code") == 1
    assert "elsewhere.weight" in capfd.readouterr().err
    assert not (killed / "result.json").exists()


def test_other_code_resumes_with_the_option_and_records_it(
    overrides: dict[str, Any], killed: Path, uninterrupted: Path
) -> None:
    rewrite_identity(folder_of(killed) / NEWEST, "code_id", "0" * 64)
    assert train(killed, overrides, "--resume", "--other-code") == 0
    require_same_end(killed, uninterrupted)
    assert [event["same_code"] for event in events(killed, "resumed")] == [False]


def test_data_that_changed_since_is_refused_once_it_is_prepared(
    overrides: dict[str, Any],
    killed: Path,
    text_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    other = shutil.copytree(text_folder, tmp_path / "text")
    first = min(other.iterdir())
    first.write_text(first.read_text() + "One sentence more.")
    elsewhere = {"data.source": str(other), "data.cache_dir": str(tmp_path / "cache")}
    assert train(killed, {**overrides, **elsewhere}, "--resume") == 1
    assert "expected a checkpoint of data" in capfd.readouterr().err
    assert not (killed / "result.json").exists()


def test_a_new_run_is_not_started_among_anothers_checkpoints(
    overrides: dict[str, Any], killed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = files(killed)
    assert train(killed, overrides) == 2
    assert "Resume it with --resume" in capfd.readouterr().err
    assert files(killed) == before


@pytest.mark.parametrize("status", ["completed", "diverged"])
def test_a_run_at_its_end_has_nothing_to_resume(
    overrides: dict[str, Any], killed: Path, capfd: pytest.CaptureFixture[str], status: str
) -> None:
    (killed / "result.json").write_text(json.dumps({"status": status}))
    before = files(killed)
    assert train(killed, overrides, "--resume") == 2
    assert f"got a result.json with status {status}" in capfd.readouterr().err
    assert files(killed) == before


def test_a_run_that_is_still_at_work_is_not_resumed_beside_it(
    overrides: dict[str, Any], killed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    at_work = RunDirectory(killed, resume=True)
    assert train(killed, overrides, "--resume") == 2
    assert "in use by a running process" in capfd.readouterr().err
    at_work.finish("interrupted")


def test_a_full_disk_costs_a_checkpoint_and_neither_the_run_nor_earlier_ones(
    overrides: dict[str, Any], killed: Path, uninterrupted: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # the disk takes no larger file
    try:
        assert train(killed, overrides, "--resume") == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert numbers(killed) == numbers(uninterrupted)
    assert events(killed, "checkpoint_failed")[-1]["step"] == STEPS
    assert "File too large" in events(killed, "checkpoint_failed")[0]["refused"]
    names = {path.name for path in folder_of(killed).iterdir()}
    assert names == {"step-00000004", "step-00000008", NEWEST}


def test_a_disk_at_work_holds_nothing_up_and_gets_what_was_saved(tmp_path: Path) -> None:
    settings = Checkpointing(every_steps=1, keep=1)
    writer = CheckpointWriter(tmp_path, settings, CPU)
    disk = threading.Event()
    writer._thread.submit(disk.wait)  # until it is set, the thread writes nothing
    weight = torch.ones(3)
    writer.save({"weight": weight}, manifest(1))
    weight.zero_()
    assert not writer.due(2, last=False)
    assert writer.take_results() == []
    assert not any(tmp_path.iterdir())
    disk.set()
    writer.close()
    assert [outcome.step for outcome in writer.take_results()] == [1]
    assert read_tensors(listed(tmp_path)[0] / rank_file(0))["weight"].tolist() == [1, 1, 1]


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    (tmp_path / "step-00000001.unfinished").mkdir()  # of a process that was killed
    with CheckpointWriter(tmp_path, Checkpointing(every_steps=1, keep=2), CPU) as writer:
        for step in (1, 2, 3):
            writer.save({"step": torch.tensor(step)}, manifest(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize(
    ("settings", "due"),
    [
        (Checkpointing(), []),
        (Checkpointing(every_steps=3), [3, 6, 8]),
        (Checkpointing(every_minutes=1e-9), [1, 2, 3, 4, 5, 6, 7, 8]),
        (Checkpointing(every_minutes=60), [8]),
        (Checkpointing(every_minutes=60, every_steps=4), [4, 8]),
    ],
)
def test_checkpoints_fall_due_by_steps_by_time_and_at_the_end(
    tmp_path: Path, settings: Checkpointing, due: list[int]
) -> None:
    with CheckpointWriter(tmp_path, settings, CPU) as writer:
        saved = []
        for step in range(1, 9):
            if writer.due(step, last=step == 8):
                writer.save_now({}, manifest(step))
                saved.append(step)
    assert saved == due


def test_what_refuses_a_resumption_imports_no_torch() -> None:
    imports = "import model.checkpoint.directory, model.runtime.process, sys"
    check = f"{imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


def test_how_checkpoints_are_kept_is_no_part_of_an_identity() -> None:
    kept = {"checkpoint.every_steps": 5, "checkpoint.keep": 9, "checkpoint.at_stop": False}
    assert config_id(load_config(None, kept)) == config_id(Config())


def test_random_numbers_continue_after_a_resume(overrides: dict[str, Any]) -> None:
    config = load_config(None, overrides)
    trainer = Trainer(config, derive(config), CPU)
    state = trainer.state_dict()
    drawn = torch.rand(3)
    trainer.load_state_dict(state)
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_does_not_wait_and_the_copy_is_of_the_earlier_state(tmp_path: Path) -> None:
    weight = torch.ones(1 << 26, device="cuda")
    with CheckpointWriter(tmp_path, Checkpointing(every_steps=1), weight.device) as writer:
        writer.save({"weight": weight}, manifest(1))
        weight.zero_()
    assert read_tensors(listed(tmp_path)[0] / rank_file(0))["weight"].min() == 1


def manifest(step: int) -> Manifest:
    return Manifest(
        step=step,
        tokens=step,
        next_row=step,
        metrics={},
        counters={},
        environment_id="",
        identity=checkpoint.identity_of(Config(), None),
    )
