"""Gates of the simulated trainer: planted changes are detected, nothing else is, and every end has
its exit code.

The host drifts by 1 % throughout. The noise is half of what the noise model has, so that no outcome
depends on chance; error rates are in test_operating_characteristics.
"""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from scipy.stats import t, ttest_1samp

from benchmarks.statistics import gate_rates
from harness.__main__ import main
from harness.comparison.noise_model import NoiseRow
from harness.comparison.result import MetricResult
from harness.gate.ab_interleaved import TRAJECTORY_STEPS
from harness.gate.history import conclude, load
from harness.gate.metrics import compare_trajectories
from harness.gate.noise_sources import derived_rows, launch_rows
from harness.gate.result import SPEED, GateMetric, GateResult, SideIdentity
from harness.report.gate.result import build_result, side_lines
from harness.results.store import Store
from tests.fixtures import faulty_harness

ROOT = Path(__file__).resolve().parents[3]
BASE = """\
dial: {depth: 2, steps: 20, batch_tokens: 4096}
eval: {every_steps: 10}
windows: SSSL
noise: {loss_sd: 0.0006, speed_cv: 0.0006, host_drift: 0.01, host_drift_period_s: 5.0}
"""
NOISE_MODEL = """\
scale,metric,gpu,source,sd,df,runs,groups,origin,note
"fake 920k parameters, 82k tokens",val_bpb,simulated,seed,0.00046,60,80,20,measured,
"fake 920k parameters, 82k tokens",tokens_per_s,simulated,launch,0.0013,60,80,20,measured,
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with a baseline and a noise model with rows for the simulated trainer."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "base.yaml").write_text(BASE)
    (folder / "noise.csv").write_text(NOISE_MODEL)
    argv = ["baseline", "record", "quick", folder / "base.yaml", "--seeds", "1-8"]
    argv += ["--trainer", "fake", "--store", folder / "runs", "--baselines", folder / "baselines"]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *map(str, argv)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def place(recorded, tmp_path):
    """A copy of that folder for each test."""
    shutil.copytree(recorded, tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def gate(place, capfd, monkeypatch):
    """Runs `harness gate` in this process and returns the exit code and the JSON."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def call(*options: object, baseline: str = "quick", quality: bool = True) -> tuple[int, dict]:
        argv = ["harness", "gate", *map(str, options), "--store", str(place / "runs")]
        argv += ["--baseline", baseline] if baseline else []
        if quality:
            argv += ["--margin", "val_bpb=0.001"]  # two SDs: few runs are enough
        argv += ["--baselines", str(place / "baselines"), "--noise-model", str(place / "noise.csv")]
        monkeypatch.setattr(sys, "argv", [*argv, "--json"])
        with pytest.raises(SystemExit) as ending:
            main()
        out, err = capfd.readouterr()
        call.err = err
        return int(ending.value.code or 0), json.loads(out) if out.startswith("{") else {}

    return call


def outcomes(result: dict) -> dict[str, str | None]:
    return {one["result"]["metric"]: one["result"]["outcome"] for one in result["metrics"]}


def age(place: Path, seconds: float) -> None:
    """Moves every stored gate into the past, so that the next one is of another session."""
    for path in (place / "runs" / "gates").glob("*/*.json"):
        found = msgspec.json.decode(path.read_bytes(), type=GateResult)
        older = msgspec.structs.replace(
            found, started_at=found.started_at - seconds, ended_at=found.ended_at - seconds
        )
        path.write_bytes(msgspec.json.encode(older))


def test_no_change_passes_despite_host_drift(gate):
    code, result = gate("--base", ".")
    assert code == 0
    assert outcomes(result)["tokens_per_s"] == outcomes(result)["val_bpb"] == "pass"
    assert result["exit_code"] == 0


def test_a_planted_slowdown_is_unconfirmed_in_one_session_and_a_regression_in_a_second(gate, place):
    planted = ("--candidate-set", "plant.slowdown=0.01")
    code, result = gate(*planted)
    speed = next(one for one in result["metrics"] if one["result"]["metric"] == "tokens_per_s")
    assert code == 3
    assert speed["unconfirmed"]
    assert speed["result"]["high"] < 0 < speed["result"]["margin"]
    code, result = gate(*planted)
    assert code == 3, "the same session cannot confirm itself"
    age(place, 3600)
    code, result = gate(*planted)
    assert code == 10
    assert "tokens/s" in result["reason"]


def test_a_pass_after_an_unconfirmed_slowdown_is_inconclusive(gate, place):
    gate("--base", ".")
    age(place, 3600)
    (path,) = (place / "runs" / "gates").glob("*/1.json")
    stored = msgspec.json.decode(path.read_bytes(), type=GateResult)
    speeds = [one for one in stored.metrics if one.result.metric == "tokens_per_s"]
    changed = [msgspec.structs.replace(one, unconfirmed=True) for one in speeds]
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(stored, metrics=changed)))
    code, result = gate("--base", ".")
    assert code == 3
    assert any("the gates disagree" in (m["result"]["reason"] or "") for m in result["metrics"])


def test_no_confirm_counts_an_unconfirmed_slowdown(gate):
    code, result = gate("--candidate-set", "plant.slowdown=0.01", "--no-confirm")
    assert code == 10
    assert "unconfirmed" in result["reason"]


def test_a_planted_loss_of_two_margins_is_a_regression(gate):
    code, result = gate("--candidate-set", "plant.loss=0.004")
    assert code == 10
    assert outcomes(result) == {**outcomes(result), "val_bpb": "regression", "tokens_per_s": "pass"}


def test_waiting_for_the_data_loader_makes_the_speed_inconclusive(gate):
    code, result = gate("--candidate-set", "plant.loader_wait=0.01")
    assert code == 3
    speed = next(one for one in result["metrics"] if one["result"]["metric"] == "tokens_per_s")
    assert "loader" in speed["result"]["reason"]


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        ("fail.crash_at_step=2", "crashed"),
        ("fail.diverge_at_step=2", "diverged"),
        ("fail.out_of_memory_at_step=5", "out of memory"),
        ("fail.nan_metric=true", "no val_loss"),
    ],
)
def test_a_candidate_that_cannot_be_measured_is_a_regression_with_its_reason(gate, planted, reason):
    code, result = gate("--candidate-set", planted)
    assert code == 10
    assert reason in result["reason"]
    assert "Traceback" not in result["reason"]


@pytest.mark.parametrize(
    ("planted", "reason"),
    [("fail.killed_at_step=2", "SIGKILL"), ("fail.missing_package=true", "No module named")],
)
def test_a_fault_that_is_not_the_candidates_could_not_run(gate, planted, reason):
    code, result = gate("--candidate-set", planted)
    assert code == 4
    assert result["outcome"] == "could not run"
    assert reason in result["reason"]


def test_a_run_that_is_killed_could_not_run_either(gate, place):
    hurt, repaired = place / "hurt.yaml", place / "repaired"
    repaired.touch()
    hurt.write_text(BASE + f"fail: {{killed_at_step: 5, until_file: {repaired}}}\n")
    options = ["--trainer", "fake", "--seeds", "1,2", "--store", place / "runs"]
    options += ["--baselines", place / "baselines"]
    argv = [faulty_harness.__file__, "baseline", "record", "hurt", hurt, *options]
    recorded = subprocess.run(
        [sys.executable, *map(str, argv)], cwd=ROOT, capture_output=True, text=True
    )
    assert recorded.returncode == 0, recorded.stderr
    repaired.unlink()
    code, result = gate(baseline="hurt")
    assert code == 4
    assert "SIGKILL" in result["reason"]


def test_a_fault_that_the_base_shares_could_not_run(gate, place):
    bare = place / "broken.yaml"
    bare.write_text(BASE + "fail: {crash_at_step: 0}\n")
    planted = ("--candidate-set", "plant.slowdown=0.01")
    code, result = gate(bare, "--trainer", "fake", *planted, baseline="", quality=False)
    assert code == 4
    assert "side A" in result["reason"]


def test_a_damaged_store_ends_with_4_and_its_reason_and_under_bisect_with_125(gate, place):
    (place / "runs" / "gates" / "k").mkdir(parents=True)
    (place / "runs" / "gates" / "k" / "1.json").write_text("{")
    code, result = gate("--base", ".")
    assert (code, result["outcome"]) == (4, "could not run")
    assert "The file is damaged" in result["reason"]
    assert gate("--base", ".", "--bisect")[0] == 125


def test_the_json_states_that_a_baseline_was_edited_or_is_missing(gate, place):
    code, result = gate(baseline="nobody")
    assert (code, result["exit_code"], result["a"]["baseline"]) == (4, 4, "nobody")
    assert "expected a baseline under" in result["reason"]
    code, plan = gate("--plan", baseline="nobody")
    assert (code, plan["parts"]) == (4, [])
    assert "expected a baseline under" in plan["blocked"]
    (path,) = (place / "baselines").glob("*/*/quick.json")
    path.write_text(path.read_text().replace('"why": "', '"why": "not '))
    code, result = gate()
    assert (code, result["outcome"]) == (4, "could not run")
    assert "an edited entry" in result["reason"]


def test_a_machine_without_the_data_of_a_baseline_has_a_hint_to_name_its_folder(
    tmp_path, capfd, monkeypatch
):
    argv = ["harness", "gate", "--baseline", "d8", "--base", "HEAD", "--plan"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [*argv, "--store", str(tmp_path)])
    with pytest.raises(SystemExit) as ending:
        main()
    out = capfd.readouterr().out
    assert ending.value.code == 4
    assert "baseline nvidia-h100-80gb-hbm3x1/1/d8: expected its training data" in out
    assert "--set data=FOLDER" in out


def test_a_side_that_was_never_read_has_no_commit_code_or_configuration():
    side = SideIdentity(code_id="", config_id="", ref="main", baseline="d8")
    result = GateResult(
        key="", number=0, outcome="could not run", reason="", alpha=0.05, claim="ml",
        a=side, b=msgspec.structs.replace(side, ref="."), metrics=[],
    )  # fmt: skip
    assert side_lines(result) == ["A: main, baseline d8", "B: the present code, baseline d8"]


def test_bisect_skips_what_is_open_and_stops_at_wrong_usage(gate):
    assert gate("--candidate-set", "plant.loader_wait=0.01", "--bisect")[0] == 125
    assert gate("--candidate-set", "plant.slowdown=0.01", "--bisect")[0] == 10
    assert gate("--claims", "art", "--bisect")[0] == 128


def test_a_budget_too_small_for_any_decision_starts_nothing(gate, place):
    code, result = gate("--base", ".", "--budget-minutes", "0.0001")
    assert code == 3
    assert "nothing is started" in result["reason"]
    code, plan = gate("--base", ".", "--budget-minutes", "0.0001", "--plan")
    assert (code, plan["exit_code"]) == (4, 4)
    assert "nothing is started" in plan["blocked"]
    assert not (place / "runs" / "gates").exists()


ALWAYS_VALID = ("--always-valid", "--budget-minutes", "2")


def test_an_always_valid_gate_passes_no_change_and_names_its_rule(gate, place):
    code, result = gate("--base", ".", *ALWAYS_VALID, "--markdown", place / "summary.md")
    assert code == 0
    metrics = {one["result"]["metric"]: one for one in result["metrics"]}
    for name in ("tokens_per_s", "val_bpb"):
        metric = metrics[name]
        assert (metric["rule"], metric["result"]["outcome"]) == ("always_valid", "pass")
        assert metric["look"] == max(metric["result"]["n"][1], 1)
    assert {part["rule"] for part in result["plan"]["parts"]} == {"always_valid"}
    assert "always-valid mixture test" in (place / "summary.md").read_text()


@pytest.mark.parametrize(
    ("planted", "metric"), [("plant.loss=0.004", "val_bpb"), ("plant.slowdown=0.01", SPEED)]
)
def test_an_always_valid_gate_detects_what_is_planted(gate, planted, metric):
    code, result = gate("--candidate-set", planted, *ALWAYS_VALID, "--no-confirm")
    assert code == 10
    assert [name for name, found in outcomes(result).items() if found == "regression"] == [metric]


def test_an_always_valid_gate_without_a_budget_is_refused(gate):
    code, _ = gate("--base", ".", "--always-valid")
    assert code == 2
    assert "expected --budget-minutes beside it" in gate.err


def test_an_always_valid_plan_names_its_rule_and_shares_its_budget(gate):
    assert gate("--base", ".", "--plan", "--always-valid", "--budget-minutes", "2")[0] == 0
    assert "always-valid test after each launch, 60 s at most" in gate.err
    assert "always-valid test after each run" in gate.err
    assert "P(pass | no change) at least" in gate.err


def test_launches_leave_the_runs_the_time_they_need_for_a_decision(gate):
    launches, runs = gate("--base", ".", "--plan")[1]["parts"]
    all_launches_s = launches["n_b"] * launches["unit_s"]
    minutes = (all_launches_s + 0.5 * runs["unit_s"]) / 60  # room for these and not for one run
    fewer_launches, same_runs = gate("--base", ".", "--plan", "--budget-minutes", minutes)[1][
        "parts"
    ]
    assert fewer_launches["n_b"] == launches["n_b"] - 1
    assert same_runs["n_b"] == runs["n_b"] > 0


def test_a_plan_shows_runs_probabilities_and_cost_and_starts_nothing(gate, place):
    code, _ = gate("--base", ".", "--plan", "--price", "2.5")
    assert code == 0
    for text in ("P(pass | no change)", "MDE", "looks after", "cost: $"):
        assert text in gate.err
    assert not (place / "runs" / "gates").exists()


def test_settings_of_both_sides_may_not_change_what_the_baseline_measured(gate):
    other = ("--set", "dial.steps=30")
    for argv in (other, (*other, "--candidate-set", "plant.loss=0.001")):
        code, result = gate(*argv)
        assert code == 4
        assert "config_id" in result["reason"]
    assert gate("--set", "dial.steps=20", "--base", ".")[0] == 0, "what it has anyway"


def test_a_claimed_speed_up_has_to_be_shown(gate):
    code, result = gate("--base", ".", "--claims", "systems")
    assert code == 3
    assert any("claimed faster" in (one["result"]["reason"] or "") for one in result["metrics"])
    assert gate("--candidate-set", "plant.slowdown=-0.02", "--claims", "systems")[0] == 0


def test_a_refactoring_has_to_keep_every_loss(gate):
    code, result = gate("--base", ".", "--claims", "refactor", quality=False)
    assert code == 0
    assert outcomes(result)["loss_trajectory"] == "pass"
    assert (
        gate("--candidate-set", "plant.loss=0.004", "--claims", "refactor", quality=False)[0] == 10
    )


def test_a_gate_of_unchanged_code_measures_the_spread_of_its_losses(gate, place):
    gate("--base", ".", "--claims", "refactor", "--margin", "tokens_per_s=0.002", quality=False)
    (stored,) = load(Store(place / "runs"))
    assert all(len(one.losses[0]) == TRAJECTORY_STEPS for one in stored.launches)
    row = next(
        row for row in derived_rows(Store(place / "runs")) if row.metric == "loss_trajectory"
    )
    assert (row.source, row.df) == ("nondeterminism", 2 * len(stored.launches) - 1)
    assert row.sd < 1e-12


def test_on_a_gpu_losses_may_differ_as_much_as_launches_of_unchanged_code():
    def outcome(apart: float, row: NoiseRow | None) -> str | None:
        losses = ([9.0] * 20, [*[9.0] * 10, *[9.0 + apart] * 10])
        one = msgspec.structs.replace(gate_rates.launched(1, [0.0]), losses=losses, on_gpu=True)
        return compare_trajectories(one, row).outcome

    row = NoiseRow(
        scale="s", metric="loss_trajectory", gpu="H100", source="nondeterminism", sd=1e-4, df=9,
        runs=10, groups=1, origin="measured",
    )  # fmt: skip
    assert outcome(0.0, None) == "pass"
    assert outcome(1e-9, None) == "inconclusive"
    limit = t.ppf(0.975, 9) * math.hypot(1e-4, 1e-4)  # both launches have the noise
    assert outcome(0.99 * limit, row) == "pass"
    assert outcome(1.01 * limit, row) == "regression"
    assert outcome(1e-9, msgspec.structs.replace(row, sd=0.0)) == "regression"


def test_a_gate_without_a_baseline_finds_its_noise_model_row(gate, place):
    argv = (place / "base.yaml", "--trainer", "fake", "--base", ".")
    code, result = gate(*argv, "--margin", "tokens_per_s=0.002", baseline="")
    assert code == 0
    assert (result["scale"], result["device"]) == ("fake 920k parameters, 82k tokens", "simulated")
    speed, quality = result["plan"]["parts"]
    assert (speed["sd"], speed["df"]) == (0.0013, 60)
    assert (quality["metric"], quality["sd"], quality["both"]) == ("val_bpb", 0.00046, True)


def test_without_a_baseline_the_quality_of_both_refs_is_measured_block_by_block(gate, place):
    argv = (place / "base.yaml", "--trainer", "fake", "--base", ".")
    code, result = gate(*argv, "--candidate-set", "plant.loss=0.004", baseline="")
    assert code == 10
    assert outcomes(result)["val_bpb"] == "regression"
    blocks = len(result["candidate_runs"])
    assert len(result["base_runs"]) == blocks >= 1
    runs = [line for line in gate.err.splitlines() if ", run " in line]
    assert [line[0] for line in runs] == list("ABBA" * blocks)[: 2 * blocks]
    assert f"up to {result['plan']['parts'][1]['n_b']} runs of each side, interleaved" in gate.err
    _, plan = gate(*argv, "--plan", baseline="")
    assert plan["parts"][1]["unit_s"] > 0, "known from the runs of the first gate"


def test_loss_and_speed_are_one_figure_at_a_stated_exchange_rate(gate):
    _, result = gate("--base", ".", "--exchange", "0.0019")
    by_name = {one["result"]["metric"]: one["result"] for one in result["metrics"]}
    total, speed, loss = (by_name[name] for name in ("equal_loss_time", SPEED, "val_loss"))
    worth = loss["estimate"] / 0.0019 * math.log(1.01)
    assert total["estimate"] == pytest.approx(worth - speed["estimate"])
    assert total["outcome"] is None


def test_settings_alone_are_compared_in_speed(gate, place):
    argv = (place / "base.yaml", "--trainer", "fake", "--candidate-set", "plant.loss=0.004")
    _, plan = gate(*argv, "--plan", baseline="", quality=False)
    assert [part["metric"] for part in plan["parts"]] == [SPEED]


def test_a_gate_that_is_repeated_after_it_was_undecided_is_the_next_reading(gate, place):
    gate()
    (path,) = (place / "runs" / "gates").glob("*/1.json")
    stored = msgspec.json.decode(path.read_bytes(), type=GateResult)
    undecided = [
        msgspec.structs.replace(
            one, result=msgspec.structs.replace(one.result, outcome="inconclusive")
        )
        for one in stored.metrics
    ]
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(stored, metrics=undecided)))
    _, plan = gate("--plan")
    (first,), (second,) = stored.plan.parts, plan["parts"]
    assert (first.seen, second["seen"]) == (0, 1)
    assert second["n_b"] > first.n_b, "planned at the error rate of the next reading"


def test_a_gate_tests_both_sides_against_a_target(gate, place):
    """As scipy does, on the runs that the gate compared."""
    code, result = gate("--target", "val_bpb=1.2", "--target-p", "0.05")
    assert code == result["exit_code"]
    a, b = result["targets"]
    assert [a["side"], b["side"], a["level"]] == ["A", "B", 0.05]
    assert b["n"] == len(result["candidate_runs"])
    stored = [one.metrics["val_bpb"] for one in Store(place / "runs").records()][:8]
    assert a["p"] == pytest.approx(ttest_1samp(stored, 1.2, alternative="less").pvalue, rel=1e-6)
    document = build_result(msgspec.convert(result, GateResult, strict=False))
    assert "p < 0.05" in str(document.blocks)


def test_a_plan_never_names_zero_runs(gate):
    gate("--base", ".", "--budget-minutes", "0.0001", "--plan")
    assert "up to 0" not in gate.err
    assert "nothing is run (one " in gate.err


def test_a_margin_of_a_metric_that_no_gate_measures_is_refused(gate):
    code, _ = gate("--margin", "mfu=0.01")
    assert code == 2
    assert "a metric that a gate decides" in gate.err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--base", ".", "--margin", "val_bppb=0.01"], "a metric that a gate decides"),
        (["--base", ".", "--margin", "core=0.01"], "a metric that the runs of"),
        (["--margin", "tokens_per_s=0.01"], "--base or --candidate-set"),
        (["--base", ".", "--claims", "refactor", "--margin", "val_loss=1"], "a claim other than"),
        (["--base", ".", "--margin", "val_bpb=0.5"], "one number for val_bpb"),
        (["--target", "tokens_per_s=5"], "a metric that a gate decides: val_bpb, val_loss"),
        (["--target", "core=0.25"], "a metric that the runs of"),
    ],
)
def test_an_option_that_would_not_decide_is_refused_before_a_run(gate, place, options, expected):
    code, _ = gate(*options)
    assert code == 2
    assert expected in gate.err
    assert not (place / "runs" / "gates").exists()


def test_a_margin_of_a_metric_without_a_result_rules_out_a_pass():
    side = SideIdentity(code_id="c", config_id="d")
    bare = GateResult(
        key="k", number=1, outcome="inconclusive", reason="", alpha=0.05, claim="ml",
        a=side, b=side, metrics=[],
    )  # fmt: skip
    result = MetricResult(
        metric="val_bpb", title="bits", unit="", scale="difference", better="lower", n=(2, 2),
        means=(1.0, 1.0), outcome="pass",
    )  # fmt: skip
    metrics = [GateMetric(result=result, evidence="replicates", look=1, looks=1)]
    assert conclude(bare, metrics, []).outcome == "pass"
    concluded = conclude(bare, metrics, [], stated=["val_bpb", "compile_s"])
    assert concluded.outcome == "inconclusive"
    assert concluded.reason == "no result for compile_s; no harm in bits"


def test_small_harms_within_the_margin_are_added_up(gate):
    first = ("--candidate-set", "plant.slowdown=0.008", "--margin", "tokens_per_s=0.02")
    second = ("--candidate-set", "plant.slowdown=0.009", "--margin", "tokens_per_s=0.02")
    _, one = gate(*first)
    _, two = gate(*second)
    sums = [
        next(m["small_harms"] for m in found["metrics"] if m["result"]["metric"] == "tokens_per_s")
        for found in (one, two)
    ]
    assert 0 < sums[0] < sums[1]
    assert sums[1] == pytest.approx(0.017, abs=0.006)  # four SDs: a launch each, side A's the same


def test_the_pull_request_summary_starts_with_the_outcome(gate, place, monkeypatch):
    shown = place / "step.md"
    shown.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(shown))
    gate("--candidate-set", "plant.loss=0.004", "--markdown", place / "summary.md")
    text = (place / "summary.md").read_text()
    assert text.startswith("### ❌ regression: worse in validation bits per byte")
    assert "| metric | n | A | B | B − A | interval | margin | MDE | outcome |" in text
    assert shown.read_text() == "before\n" + text


def test_launches_of_gates_add_a_row_to_the_noise_model(gate, place):
    gate("--base", ".", "--margin", "tokens_per_s=0.002")
    stored = load(Store(place / "runs"))
    (row,) = launch_rows(stored)
    assert (row.metric, row.source) == ("tokens_per_s", "launch")
    assert row.df == len(stored[0].launches) - 1


REPOSITORY = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]


@pytest.mark.slow
def test_two_refs_are_compared_on_their_own_code(tmp_path, place):
    home = tmp_path / "clone"
    shutil.copytree(
        ROOT / "harness", home / "harness", ignore=shutil.ignore_patterns("__pycache__")
    )
    (home / "model").mkdir()
    (home / "model" / "describe.py").write_text("")
    (home / ".gitignore").write_text("__pycache__/\n")
    slow = home / "harness" / "runner" / "fake_trainer" / "train.py"

    def git(*argv: str) -> None:
        subprocess.run([*REPOSITORY, *argv], cwd=home, check=True, capture_output=True)

    git("init", "--quiet", "--initial-branch", "main")
    git("add", ".")
    git("commit", "--quiet", "--message", "fast")
    git("switch", "--quiet", "--create", "slow")
    text = slow.read_text()
    assert "TOKENS_PER_S = 60_000.0" in text
    slow.write_text(text.replace("TOKENS_PER_S = 60_000.0", "TOKENS_PER_S = 57_000.0"))
    git("commit", "--quiet", "--all", "--message", "slow")
    git("switch", "--quiet", "main")
    argv = ["gate", place / "base.yaml", "--trainer", "fake", "--base", "main", "--head", "slow"]
    argv += [
        "--no-confirm",
        "--json",
        "--store",
        place / "runs",
        "--noise-model",
        place / "noise.csv",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *map(str, argv)],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 10, done.stderr
    (speed, *_) = json.loads(done.stdout)["metrics"]
    assert speed["result"]["estimate"] == pytest.approx(-0.051, abs=0.006)
