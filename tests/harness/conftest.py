"""Fixtures: studies for the simulated trainer, temporary stores, the command line."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from harness import files
from harness.__main__ import main
from harness.config.study_file import StudyFile, parse_study
from harness.results.core_answers import CoreSettings
from harness.results.record import Identity, LaunchInfo, Record, RunPlan, collect_record
from harness.results.record import ProcessEnd as ProcessEnded
from harness.results.store import Store
from harness.results.study_plan import plan_id
from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer import core
from harness.runner.fake_trainer.train import Curve, bits_per_byte, environment
from harness.runner.trainer import TRAINERS
from harness.study.resolve import resolve
from tests.fixtures import faulty_harness
from tests.fixtures import faulty_trainer as faults
from tests.fixtures.faulty_harness import FaultyTrainer

ROOT = Path(__file__).resolve().parents[2]
BASE = """\
dial: {depth: 2, steps: 20, batch_tokens: 4096}
eval: {every_steps: 10}
windows: SSSL
residual_scalars: true
value_embeddings: true
optimizer: {matrices: muon}
"""
STUDY = """\
study: quick
question: Does the harness work?
trainer: fake
base: base.yaml
arms: {leave_one_out: [windows, muon]}
seeds: [1, 2]
limits: {run_minutes: 1}
"""


@pytest.fixture(scope="session", autouse=True)
def faulty_trainer():
    """`fake` is the simulated trainer with more ways to fail: tests/fixtures/faulty_trainer.py."""
    faults.add_fields()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TRAINERS, "fake", FaultyTrainer)
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def study_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a base and a study, with lines of the study replaced or added; returns its path."""

    def write(base: str = "", **lines: str) -> Path:
        (tmp_path / "base.yaml").write_text(BASE + base)
        kept = [line for line in STUDY.splitlines() if line.partition(":")[0] not in lines]
        text = "\n".join(kept + [f"{key}: {value}" for key, value in lines.items()]) + "\n"
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def resolved(store: Store, study_file):
    """Resolves a study file with the simulated trainer."""

    def make(base: str = "", **lines: str):
        path = study_file(base, **lines)
        file: StudyFile = parse_study(path.read_text(), str(path))
        return resolve(file, path, store, FaultyTrainer(), command="", now=1.0)

    return make


@pytest.fixture
def record():
    """Makes the record of a planned run."""

    def make(planned, study, status="completed", wall_s=60.0):
        arm = study.arm(planned.arm)
        return Record(
            plan_id=planned.plan_id,
            attempt="a",
            trainer="fake",
            seed=planned.seed,
            identity=arm.identity,
            status=status,
            reason="it broke",
            metrics={"val_bpb": 1.0},
            steps=arm.derived["steps"],
            tokens=10,
            derived={},
            tricks={},
            environment={},
            environment_id="m",
            boot_id="b",
            concurrent_runs=0,
            started_at=1.0,
            ended_at=2.0,
            wall_s=wall_s,
            trainer_s=wall_s,
            gpus=0,
            launch=LaunchInfo(),
        )

    return make


@pytest.fixture
def leave_run(store: Store) -> Callable[..., Path]:
    """Stores a simulated run with CORE without starting a process; returns its record file."""

    def make(seed: int, at: float = 1.0, **overrides: object) -> Path:
        sets = {"core.examples": 100, "dial.depth": 2, "dial.steps": 5, **overrides}
        config = fake.load(None, {**sets, "seed": seed})
        identity = msgspec.convert(fake.identity(config), Identity)
        plan = RunPlan(
            plan_id=plan_id(identity, seed),
            attempt="a",
            trainer="fake",
            seed=seed,
            identity=identity,
            derived=fake.derived(config),
            tricks=fake.tricks(config),
            launch=LaunchInfo(),
            started_at=at,
            boot_id="b",
        )
        run_dir = store.run_dir(plan.plan_id, plan.attempt)
        run_dir.mkdir(parents=True)
        loss = Curve(config, None).loss(5)
        answers = core.answers(config, loss)
        core.write(run_dir / "core.parquet", config, answers)
        metrics = {"val_loss": loss, "val_bpb": bits_per_byte(loss), **core.metrics(answers)}
        result = {"status": "completed", "steps": 5, "tokens": 5, "metrics": metrics}
        files.write_json(run_dir / "result.json", result)
        files.write_json(run_dir / "launch.json", msgspec.to_builtins(plan))
        files.write_json(run_dir / "environment.json", environment())
        ended = ProcessEnded(returncode=0, cause=None, ended_at=at + 1, trainer_s=1.0)
        store.commit(collect_record(run_dir, plan, ended), run_dir)
        return store.root / "records" / f"{plan.plan_id}.json"

    return make


class Ended(NamedTuple):
    """The exit code and the output of a command."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def harness(store: Store, capfd, monkeypatch) -> Callable[..., Ended]:
    """Runs the command line in this process, which saves the time to import it."""
    monkeypatch.chdir(ROOT)

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["harness", *command(*arguments, store=store)[2:]])
        with pytest.raises(SystemExit) as ending:
            main()
        out, err = capfd.readouterr()
        return Ended(int(ending.value.code or 0), out, err)

    return call


def command(*arguments: object, store: Store) -> list[str]:
    """A command line for a store; studies without HTML, which takes seconds."""
    if arguments[0] == "study":
        arguments = (*arguments, "--no-html")
    program = [sys.executable, faulty_harness.__file__]
    return [*program, *map(str, arguments), "--store", str(store.root)]


@pytest.fixture
def argv_of(store: Store) -> Callable[..., list[str]]:
    """A command line for the store, to run in a new process."""
    return lambda *arguments: command(*arguments, store=store)


@pytest.fixture
def start(store: Store):
    """Starts the command line without waiting; kills its processes at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            command(*arguments, store=store),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
    for pid in trainers_of(store):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in started:
        process.communicate()


class Slowed:
    """Takes long steps until `end` is called. `lines`: of a base; `options`: of a command."""

    def __init__(self, until: Path) -> None:
        self._until = until
        self.lines = f"pace: {{sleep_ms: 50, until_file: {until}}}\n"
        self.options = ("--set", "pace.sleep_ms=50", "--set", f"pace.until_file={until}")

    def end(self) -> None:
        """Every later step takes no time."""
        self._until.touch()


@pytest.fixture
def slowed(tmp_path: Path) -> Slowed:
    """Slow trainers, so that a test can act while they run."""
    return Slowed(tmp_path / "fast-from-now")


@pytest.fixture
def trainers(store: Store) -> Callable[[], list[int]]:
    """The pids of the trainers that currently run for the store."""
    return lambda: trainers_of(store)


def trainers_of(store: Store) -> list[int]:
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        ours = any(str(store.root.resolve() / "plans") in argument for argument in argv)
        programs = {str(faulty_harness.SCRIPT), "harness.runner.fake_trainer.train"}
        if ours and state != "Z" and programs & set(argv):
            pids.append(int(entry.name))
    return pids


# --- full jobs ------------------------------------------------------------------------------------

H100 = {"name": "NVIDIA H100 80GB HBM3"}


@pytest.fixture
def full_record():
    """Makes a completed record of eight GPUs; any field or metric by name."""
    base = Record(
        plan_id="p1",
        attempt="a",
        trainer="native",
        seed=1,
        identity=Identity(config_id="c1", code_id="k1", data_id="d1", protocol=1),
        status="completed",
        metrics={"val_bpb": 0.718, "val_loss": 2.39, "core": 0.2626, "core_soft": 0.2},
        steps=20,
        tokens=20_000,
        derived={
            "sizes": {"layers": 24},
            "parameters_total": 1_384_122_122,
            "tokens": 5_838_471_168,
            "flops_per_token": 4_775_225_472,
            "steps": 20,
        },
        tricks={"muon": True, "softcap": True, "unet_skips": False},
        environment={"gpus": [H100] * 8, "torch": "2.11.0", "driver": "580.1", "precision": "fp8"},
        environment_id="e1",
        boot_id="b1",
        concurrent_runs=0,
        started_at=1_773_480_000.0,
        ended_at=1_773_487_200.0,
        wall_s=7200.0,
        trainer_s=7190.0,
        gpus=8,
        launch=LaunchInfo(ranks=8),
        core=CoreSettings(
            bundle="b", tokenizer="t", max_per_task=None, long_prompts="crop", baselines="x"
        ),
    )

    def make(**changes):
        metrics = {k: changes.pop(k) for k in list(changes) if k in base.metrics}
        changed = msgspec.structs.replace(base, **changes)
        return msgspec.structs.replace(changed, metrics={**changed.metrics, **metrics})

    return make


@pytest.fixture
def full_events():
    """Makes the events of a run: steps of one length, the first eleven of another."""

    def make(steps=20, step_s=100.0, early_s=500.0, extra=()):
        events, time_s = [], 0.0
        for step in range(1, steps + 1):
            time_s += early_s if step <= 11 else step_s
            events.append({"event": "step", "step": step, "train_time_s": time_s, "loss": 3.0})
        return [*events, *extra]

    return make


@pytest.fixture
def git_checkout(tmp_path):
    """A repository with one file, committed."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "a.py").write_text("one\n")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for arguments in (["init", "-q"], ["add", "a.py"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True)
    return folder


# --- short logs of other trainers -----------------------------------------------------------------

SMI = """\
| NVIDIA-SMI 570.1     Driver Version: {driver}     CUDA Version: 12.8     |
|   0  NVIDIA H100 80GB HBM3          On  |   00000000:05:00.0 Off |                    0 |
| N/A   39C    P0            120W /  700W |    1519MiB /  81559MiB |      0%      Default |
|   1  NVIDIA H100 80GB HBM3          On  |   00000000:06:00.0 Off |                    0 |
| N/A   45C    P0            126W /  700W |    1519MiB /  81559MiB |      0%      Default |
"""


@pytest.fixture
def modded_log(tmp_path: Path) -> Callable[..., Path]:
    """Writes a log of modded-nanogpt: an evaluation every 250 steps and at the end."""

    def write(
        name: str,
        loss: float | str = 3.28,
        *,
        time_s: float = 100.0,
        steps: int = 1000,
        stop: int | None = None,
        driver: str = "570.211.01",
        minute: int = 0,
        extra: str = "",
    ) -> Path:
        lines = [
            "Running PyTorch 2.10.0+cu128 compiled for CUDA 12.8",
            f"Tue May 19 20:{minute:02d}:01 2026       ",
            SMI.format(driver=driver),
        ]
        reached = steps if stop is None else stop
        for step in range(1, reached + 1):
            at_ms = round(1000 * time_s * step / steps)
            lines.append(f"step:{step}/{steps} train_time:{at_ms}ms step_avg:1.00ms")
            if step == steps or step % 250 == 0:
                shown = loss if step == steps else "4.0000"
                lines.append(f"step:{step}/{steps} val_loss:{shown} train_time:{at_ms}ms")
        if stop is None:
            lines.append("peak memory allocated: 29148 MiB reserved: 45120 MiB")
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n" + extra)
        return path

    return write


@pytest.fixture
def nanochat_log(tmp_path: Path) -> Callable[..., Path]:
    """Writes a log of nanochat's base training, colours included."""

    def write(
        name: str,
        bpb: float | str = 1.32,
        *,
        layers: int = 8,
        ratio: float = 1.5,
        steps: int = 20,
        stop: int | None = None,
        dt_ms: float = 200.0,
        core: float | None = None,
    ) -> Path:
        lines = [
            "2026-11-22 07:37:26,068 - nanochat.common - \x1b[32m\x1b[1mINFO\x1b[0m - "
            "Distributed world size: 1",
            "GPU: NVIDIA H100 80GB HBM3 | Peak FLOPS (BF16): 9.89e+14",
            f'  "n_layer": {layers},',
            "Total number of training tokens: 62,914,560",
            f"Tokens : Scaling params ratio: {ratio:.2f}",
            "Total batch size 262,144 => gradient accumulation steps: 2",
            "Step 00000 | Validation bpb: 3.157030",
        ]
        for step in range(1, (steps if stop is None else stop) + 1):
            lines.append(
                f"step {step:05d}/{steps:05d} (1.00%) | loss: 10.39 | lrm: 0.05 | "
                f"dt: {dt_ms:.2f}ms | tok/sec: 1,310,720 | total time: {step / 1000:.2f}m"
            )
        if stop is None:
            lines.append(f"Step {steps:05d} | Validation bpb: {bpb}")
            if core is not None:
                lines.append(f"Step {steps:05d} | CORE metric: {core:.4f}")
            lines.append("Peak memory usage: 28956.58MiB")
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
        return path

    return write
