"""With --evaluate-with base, a loss is what the base's code measures, not what a run reports."""

import json
import sys

import msgspec
import pytest

from harness.__main__ import main
from harness.errors import TrainerError, UsageError
from harness.gate.evaluation import BaseEvaluator
from harness.gate.request import GateRequest, check_request
from harness.gate.result import SideIdentity
from harness.gate.sides import GateSide
from harness.results.store import Store
from harness.runner.process import Stop
from harness.runner.replicates import describe_recipe, run_or_reuse
from harness.runner.replies import Catalogue
from harness.runner.trainer import FakeTrainer
from tests.harness.runner.test_sandbox import needs_bwrap

CONFIG = {"dial": {"depth": 2, "steps": 8, "batch_tokens": 4096}, "eval": {"every_steps": 4}}


@pytest.fixture(scope="module")
def side(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "config.json"
    file.write_text(json.dumps(CONFIG))
    trainer = FakeTrainer()
    recipe = describe_recipe(trainer, "x", str(file), {})
    identity = SideIdentity(code_id=recipe.identity.code_id, config_id=recipe.identity.config_id)
    return GateSide(trainer=trainer, recipe=recipe, identity=identity)


@pytest.fixture(scope="module")
def made(side, tmp_path_factory):
    """An evaluator, and a run that it can evaluate."""
    store = Store(tmp_path_factory.mktemp("store"))
    evaluator = BaseEvaluator(side, store, 60)
    job = evaluator.keeping_checkpoint(side.recipe.job(3))
    record = run_or_reuse(store, side.trainer, job, Stop(), timeout_s=60)
    assert record.status == "completed"
    return evaluator, store, job, record


def test_the_bases_measurement_replaces_the_runs_claim_once_and_for_all(made, side):
    evaluator, store, job, record = made
    config = side.recipe.job(3).config
    lie = {**record.metrics, "val_loss": 0.5, "val_bpb": 0.1, "core": 0.9}
    claimed = msgspec.structs.replace(record, metrics=lie)
    assert evaluator.unusable(job.plan_id) == set()
    evaluated, note = evaluator.evaluated(claimed, config)
    for name in ("val_loss", "val_bpb"):
        assert evaluated.metrics[name] == pytest.approx(record.metrics[name], abs=1e-9)
    assert evaluated.metrics["core"] is None
    assert evaluated.metrics["tokens_per_s"] == record.metrics["tokens_per_s"]
    assert "reported a val_loss of 0.5" in note
    assert not (store.run_dir(job.plan_id, record.attempt) / "checkpoints").exists()
    again, note = evaluator.evaluated(record, config)  # from the store
    assert again.metrics["val_loss"] == evaluated.metrics["val_loss"]
    assert note is None


def test_a_run_without_its_checkpoint_is_made_again(made, side):
    _, store, _, _ = made
    job = side.recipe.job(4)
    record = run_or_reuse(store, side.trainer, job, Stop(), timeout_s=60)
    evaluator = BaseEvaluator(side, store, 60)
    assert evaluator.unusable(job.plan_id) == {f"{job.plan_id}/{record.attempt}"}
    with pytest.raises(TrainerError, match="--evaluate-with candidate"):
        evaluator.evaluated(record, job.config)


def test_a_trainer_without_the_verb_is_named(made, side, monkeypatch):
    monkeypatch.setattr(FakeTrainer, "catalogue", lambda self: Catalogue())
    with pytest.raises(TrainerError, match="one without the verb val_eval"):
        BaseEvaluator(side, made[1], 60)


@pytest.mark.parametrize("loss", ["0.0", "-1.0", '"low"', "NaN", "1e999"])
def test_a_loss_that_is_no_measurement_is_refused(tmp_path, loss):
    package = tmp_path / "odd"
    package.mkdir()
    (package / "val_eval.py").write_text(f'print(\'{{"val_loss": {loss}, "val_bpb": 1.0}}\')')

    class Odd(FakeTrainer):
        package = "odd"

    with pytest.raises(TrainerError, match="val_eval"):
        Odd(tmp_path).evaluate(tmp_path / "c", tmp_path, 30)


def test_a_margin_of_a_metric_that_the_base_does_not_measure_is_refused(tmp_path):
    request = GateRequest(
        config=tmp_path, base="main", evaluate_with="base", margins={"core": 0.01}
    )
    with pytest.raises(UsageError, match="one of the losses"):
        check_request(request)


def gate(tmp_path, monkeypatch, capfd, *options: str):
    """A gate of a planted loss whose checkpoints the base's code measures."""
    (tmp_path / "base.yaml").write_text(json.dumps(CONFIG))
    argv = ["harness", "gate", str(tmp_path / "base.yaml"), "--trainer", "fake", "--base", "."]
    argv += ["--evaluate-with", "base", "--store", str(tmp_path / "runs"), "--json", *options]
    argv += ["--margin", "val_bpb=0.01", "--candidate-set", "plant.loss=0.2"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ending:
        main()
    out, err = capfd.readouterr()
    assert out, err
    return ending.value.code, json.loads(out)


def test_a_gate_measures_both_sides_with_the_bases_code(tmp_path, capfd, monkeypatch):
    code, result = gate(tmp_path, monkeypatch, capfd)
    assert code == 10
    assert "losses: measured by the base's code on final checkpoints" in result["notes"]
    files = list((tmp_path / "runs/evaluations").glob("*/*.json"))
    assert len(files) == 2 * len(result["candidate_runs"])


@needs_bwrap
def test_a_gate_in_a_sandbox_measures_as_outside(tmp_path, capfd, monkeypatch):
    code, result = gate(tmp_path, monkeypatch, capfd, "--sandbox")
    assert code == 10
    assert "trainers ran in a sandbox" in result["notes"]
