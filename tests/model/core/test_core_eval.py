"""CORE at the end of a run, on the command line, and over two ranks: the same outcomes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.speed.core import main as benchmark
from harness.comparison.core import scores
from harness.results import core_answers
from harness.runner.trainer import with_value
from model import train, val_eval
from model.config import Config, Core
from model.config.identity import config_id
from model.config.resolve import resolve
from model.core.bundle import Bundle
from model.core_eval import main
from model.errors import ConfigErrors
from model.runtime.run_dir import METRICS
from tests.fixtures import warm_python

from .conftest import write_bundle

ROOT = Path(__file__).parents[3]
STACK = ROOT / "ablations" / "configs" / "speedrun_tiny_cpu.yaml"


@pytest.fixture(scope="module")
def run(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run with CORE, as a process, and its bundle."""
    bundle = write_bundle(tmp_path_factory.mktemp("core") / "bundle")
    out = bundle.parent / "run"
    settings = {
        "dial.steps": 4,
        "dial.batch_tokens": 512,
        "dial.depth": 2,
        "model.vocab_size": 512,
        "data.source": str(text_folder),
        "data.cache_dir": str(tmp_path_factory.getbasetemp() / "cache"),
        "eval.tokens": 512,
        "eval.every_steps": None,
        "optimizer.weight_average": {"decay": 0.5, "start": 0.5, "blend": 0.75},
        "checkpoint.every_steps": 2,
        "system.calibration_s": 0,
        "system.threads": 1,
        "core": {"bundle": str(bundle), "every_steps": 3},
    }
    argv = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
    done = warm_python.run(["-m", "model.train", f"--config={STACK}", f"--out={out}", *argv])
    assert done.returncode == 0, done.stderr[-2000:]
    assert "core_soft" in done.stdout
    return out, bundle


def columns(path: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(path)
    names = ("value", "margin", "correct", "example")
    return {name: table[name].to_numpy(zero_copy_only=False) for name in names}


def test_a_run_leaves_metrics_event_and_outcomes(run: tuple[Path, Path]) -> None:
    out, bundle = run
    table = pq.read_table(out / "core.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "task": "string",
        "example": "int32",
        "correct": "bool",
        "value": "float",
        "chance": "float",
        "margin": "float",
        "losses": "list<element: float>",
    }
    core = json.loads(table.schema.metadata[b"core"])
    assert core["bundle"] == Bundle(bundle).sha256
    assert (core["max_per_task"], core["long_prompts"], core["baselines"]) == (
        None,
        "full",
        "v1",
    )
    assert core["tasks"]["odd"].keys() == {"kind", "shots", "baseline", "seconds", "examples"}
    assert core["tasks"]["odd"]["baseline"] == 0.3
    result = json.loads((out / "result.json").read_text())
    assert set(result["metrics"]) == set(METRICS)
    metrics = result["metrics"]
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    earlier, event = [line for line in events if line["event"] == "core"]
    assert (earlier["step"], event["step"]) == (3, 4)
    assert sorted(event["unscored"]) == [["odd", 4], ["odd", 5]]
    assert (out / "core-00000003.parquet").exists()
    assert (event["core"], event["core_soft"]) == (metrics["core"], metrics["core_soft"])
    frame = table.to_pydict()
    soft = []
    for name in core["tasks"]:
        rows = [i for i, task in enumerate(frame["task"]) if task == name]
        assert len(rows) == core["tasks"][name]["examples"]
        scores = [(frame["value"][i] - frame["chance"][i]) / (1 - frame["chance"][i]) for i in rows]
        soft.append(np.mean(scores))
    assert metrics["core_soft"] == pytest.approx(np.mean(soft), abs=1e-6)
    phases = {line["name"]: line["seconds"] for line in events if line["event"] == "phase"}
    assert phases["core"] >= metrics["core_s"] > 0
    steps_s = sum(line["step_s"] for line in events if line["event"] == "step")
    assert steps_s == pytest.approx(metrics["train_time_s"], abs=1e-4)


def test_the_harness_reads_the_outcomes_and_finds_the_scores_of_the_run(
    run: tuple[Path, Path],
) -> None:
    out, _ = run
    found = scores([core_answers.read(out / core_answers.NAME)])
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    _, event = [line for line in events if line["event"] == "core"]
    for name in ("core", "core_soft"):
        assert getattr(found, name) == pytest.approx(event[name], abs=1e-6)
        assert getattr(found, f"{name}_se") == pytest.approx(event[f"{name}_se"], abs=1e-6)


def test_the_command_finds_in_a_checkpoint_what_the_run_found(
    run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = run
    again = tmp_path / "again.parquet"
    assert main([str(out), "--out", str(again)]) == 0
    assert "core_soft" in capsys.readouterr().out
    before, now = columns(out / "core.parquet"), columns(again)
    for name, values in before.items():
        np.testing.assert_array_equal(values, now[name])
    assert main([str(out), "--step", "2"]) == 0
    earlier = columns(out / "core-00000002.parquet")
    assert not np.array_equal(earlier["value"], before["value"])


def test_outcomes_are_never_overwritten_and_missing_checkpoints_named(
    run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = run
    assert main([str(out)]) == 2
    assert "outcomes are never overwritten" in capsys.readouterr().err
    assert main([str(out), "--step", "3"]) == 2
    assert "a whole checkpoint of step 3; got step-00000002, step-00000004" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_two_ranks_share_the_work_and_find_the_same(run: tuple[Path, Path], tmp_path: Path) -> None:
    out, _ = run
    both = tmp_path / "both.parquet"
    port = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *port]
    command = [*launcher, "-m", "model.core_eval", str(out), "--out", str(both)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("core_soft") == 1, "printed once"
    alone, shared = columns(out / "core.parquet"), columns(both)
    np.testing.assert_array_equal(alone["example"], shared["example"])
    for name in ("value", "margin"):
        np.testing.assert_allclose(shared[name], alone[name], atol=1e-5)


@pytest.mark.usefixtures("handlers_restored")
def test_a_faulty_bundle_ends_a_run_before_it_trains(
    run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = run[0] / "config.json", tmp_path / "run"
    nowhere = f"--set=core.bundle={tmp_path / 'nowhere'}"
    assert train.main([f"--config={config}", f"--out={out}", nowhere]) == 1
    assert "expected a CORE bundle" in capsys.readouterr().err
    events = (out / "events.jsonl").read_text()
    assert '"startup"' in events
    assert '"step"' not in events


def test_the_benchmark_reports_speeds_and_decisions_that_differ(
    run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, bundle = run
    argv = ["--run", str(out), "--bundle", str(bundle), "--max-per-task", "6"]
    core = tmp_path / "core.json"
    assert benchmark([*argv, "--anchor-examples", "12", "--json", str(core)]) == 0
    assert "one at a time" in capsys.readouterr().out
    (row,) = json.loads(core.read_text())["rows"]
    assert row["flips"] == []
    assert row["anchor_examples"] == 12 < row["examples"] == 24
    assert row["largest_difference_nats"] < 1e-4
    assert row["anchor_s"] > 0 < row["cached_s"]


def test_the_identity_follows_the_questions_and_not_their_folder() -> None:
    plain = config_id(Config())
    here, there = (config_id(Config(core=Core(bundle=folder))) for folder in ("a", "b"))
    assert here == there == config_id(Config(core=Core()))
    assert plain != here != config_id(Config(core=Core(max_per_task=100)))


def test_an_invalid_option_is_refused_with_its_field() -> None:
    with pytest.raises(ConfigErrors, match=r"core\.long_prompts: expected crop_left"):
        resolve(None, {"core": {"long_prompts": "full"}})
    with pytest.raises(ConfigErrors, match=r"core\.max_per_task: expected more than 0"):
        resolve(None, {"core": {"max_per_task": 0}})


def test_val_eval_measures_the_final_checkpoint_as_the_run_did(run, capsys) -> None:
    out, _ = run
    argv = ["--config", str(out / "config.json"), "--out", str(out)]
    assert val_eval.main(argv) == 0
    measured = json.loads(capsys.readouterr().out)
    metrics = json.loads((out / "result.json").read_text())["metrics"]
    assert measured["step"] == 4
    for name in ("val_loss", "val_bpb"):
        assert measured[name] == pytest.approx(metrics[name], rel=1e-6)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("requested.dial.steps", 8, "expected a checkpoint of step 8"),
        ("requested.model.value_embeddings", None, "as this code builds them"),
    ],
)
def test_val_eval_refuses_another_step_and_another_model(
    run, tmp_path, capsys, path, value, reason
):
    out, _ = run
    config = with_value(json.loads((out / "config.json").read_text()), path, value)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert val_eval.main(["--config", str(tmp_path / "config.json"), "--out", str(out)]) == 2
    assert reason in capsys.readouterr().err
