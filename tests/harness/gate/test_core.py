"""Gates and CORE: soft CORE is judged by the noise model's margin, CORE is informational."""

import json
import sys

import msgspec
import pytest

from harness.__main__ import main
from harness.gate import baseline
from harness.gate.baseline import ReplicateSet
from harness.results.recipe import recipe_scale
from harness.results.record import Record
from harness.runner.replicates import describe_recipe
from tests.fixtures.faulty_harness import FaultyTrainer

NOISE_MODEL = """\
scale,metric,gpu,source,sd,df,runs,groups,origin,note
"{scale}",val_bpb,simulated,seed,0.00046,60,80,20,measured,
"""
SOFT_ROW = """\
"{scale}",core_soft,simulated,seed,0.004,60,80,20,measured,
"""
SMALL = {"core.examples": 100, "dial.depth": 2, "dial.steps": 5}  # as `leave_run` has them
ENOUGH = 6  # runs of a baseline that make a row of soft CORE in the noise model


@pytest.fixture
def gate(leave_run, store, tmp_path, capfd, monkeypatch):
    """`harness gate` against a baseline of `runs` runs; `known`: the noise model has a row of soft
    CORE.
    """
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def call(
        *options: object, runs: int = ENOUGH - 1, known: bool = False, faults: dict | None = None
    ) -> tuple[int, dict]:
        paths = [leave_run(seed, at=100.0 * seed) for seed in range(1, runs + 1)]
        records = [msgspec.json.decode(path.read_bytes(), type=Record) for path in paths]
        recipe = describe_recipe(FaultyTrainer(), "base", None, {**SMALL, **(faults or {})})
        if faults:
            records = [msgspec.structs.replace(one, identity=recipe.identity) for one in records]
        replicates = ReplicateSet(records=records, trainer="fake", config=recipe.config)
        baseline.append(tmp_path / "baselines", "small", replicates, why="a test")
        if "no_answers" in options:
            for path in (store.root / "core").iterdir():
                path.unlink()
        rows = NOISE_MODEL + SOFT_ROW * known
        noise_model = tmp_path / "noise.csv"
        noise_model.write_text(rows.format(scale=recipe_scale(records[0])))
        argv = ["harness", "gate", "--baseline", "small", "--json"]
        argv += [str(option) for option in options if option != "no_answers"]
        argv += [
            "--margin",
            "val_bpb=0.003",
            "--store",
            str(store.root),
            "--noise-model",
            str(noise_model),
        ]
        monkeypatch.setattr(sys, "argv", [*argv, "--baselines", str(tmp_path / "baselines")])
        with pytest.raises(SystemExit) as ending:
            main()
        return int(ending.value.code or 0), json.loads(capfd.readouterr().out)

    return call


def results(gate: dict) -> dict[str, dict]:
    return {one["result"]["metric"]: one["result"] for one in gate["metrics"]}


@pytest.mark.slow
def test_no_change_passes_in_soft_core_and_core_is_informational(gate, tmp_path):
    code, result = gate("--markdown", tmp_path / "summary.md", known=True)
    found = results(result)
    assert code == 0, result["reason"]
    assert found["core_soft"]["outcome"] == "pass"
    assert found["core_soft"]["margin"] == pytest.approx(2 * 0.004)
    assert (found["core"]["outcome"], found["core"]["margin"]) == (None, None)
    assert result["core"]["a"]["runs"] == ENOUGH - 1
    assert not any(task["marked"] for task in result["core"]["tasks"])
    text = (tmp_path / "summary.md").read_text()
    assert "<summary>CORE task by task</summary>" in text
    assert "| colours | 100 |" in text


def test_planted_harm_that_the_loss_does_not_show_is_a_regression_in_soft_core(gate):
    code, result = gate("--candidate-set", "plant.skill=-0.4", known=True)
    found = results(result)
    assert code == 10
    assert (found["val_bpb"]["outcome"], found["core_soft"]["outcome"]) == ("pass", "regression")
    assert "soft CORE" in result["reason"]
    assert all(total["high"] < 0 for total in result["core"]["totals"])


@pytest.mark.parametrize(("runs", "planned"), [(ENOUGH - 1, "val_bpb"), (ENOUGH, "core_soft")])
def test_runs_are_planned_for_soft_core_once_the_noise_model_has_six_runs(gate, runs, planned):
    (part,) = gate("--plan", runs=runs)[1]["parts"]
    assert part["metric"] == planned
    assert part["n_b"] > 0


def test_soft_core_is_informational_until_the_noise_model_has_six_runs(gate):
    code, result = gate()
    found = results(result)["core_soft"]
    assert (code, found["outcome"], found["margin"]) == (0, None, None)
    assert found["low"] < found["estimate"] < found["high"]
    assert "no margin: the noise model has no row" in " ".join(found["notes"])


def test_a_candidate_on_another_bundle_could_not_run_and_names_the_field(gate):
    code, result = gate("--candidate-set", "core.bundle=other")
    assert (code, result["outcome"]) == (4, "could not run")
    assert "core.bundle" in result["reason"]


def test_a_candidate_without_core_is_judged_by_the_rest_with_a_note(gate):
    code, result = gate("--candidate-set", "core.examples=0")
    assert code == 0
    assert "core_soft" not in results(result)
    assert any("the candidate did not" in note for note in result["notes"])


def test_a_candidate_whose_score_is_missing_does_not_pass(gate):
    code, result = gate(faults={"fail.nan_metric": True})  # in both configurations
    assert code == 10
    assert "no core_soft" in result["reason"]


def test_a_baseline_without_stored_answers_is_noted(gate):
    code, result = gate("no_answers")
    assert code == 0
    assert result["core"] is None
    assert any("no answers of the baseline" in note for note in result["notes"])
