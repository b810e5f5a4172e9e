"""Complete searches with the FakeTrainer: trials, pruning, resuming, confirmation."""

import re
from importlib.util import find_spec

import pytest

from harness import errors
from harness.config.search_file import load_search
from harness.errors import DiskError
from harness.search import storage
from harness.search.engine import SearchOptions, run_search
from harness.search.state import FINGERPRINT
from harness.search.trial import result_of


def outcomes(trials):
    return [result.outcome for trial in trials() if (result := result_of(trial)) is not None]


@pytest.fixture
def search(harness):
    """Runs `harness search` without HTML."""
    return lambda path, *options: harness("search", path, "--no-html", *options)


def test_a_search_records_its_runs_and_the_same_command_repeats_none(
    search, search_file, store, trials
):
    path = search_file()
    done = search(path)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    made = store.records()
    assert [record.launch.arm for record in made[:2]] == ["base", "base"]
    results = [result_of(trial) for trial in trials()]
    assert len(results) == 6
    assert {result.plan_id for result in results} <= {record.plan_id for record in made}
    assert "Confirming 1 candidate on held-out seeds: study quick-confirm-6-" in done.stderr
    for options in ((), ("--report",)):
        again = search(path, *options)
        assert again.returncode == errors.PASS
        assert "6 trials (6 completed)" in again.stdout
    assert len(store.records()) == len(made)
    assert len(trials()) == 6


def test_a_search_is_reported_where_nothing_can_be_written(search, search_file, store, monkeypatch):
    def refuse(path, data):
        raise DiskError(str(path), "a writable location", "Read-only file system", "x.")

    path = search_file(budget="{trials: 1}", confirm="null")
    assert "no results yet" in search(path, "--report").stdout
    assert not store.root.exists()
    search(path)
    monkeypatch.setattr("harness.files.write_bytes", refuse)
    done = search(path, "--report")
    assert done.returncode == errors.PASS, done.stderr
    assert "1 trial (1 completed)" in done.stdout
    assert "No files were written" in done.stderr


@pytest.mark.parametrize(
    ("field", "value", "nearest"),
    [("sampler", "TPESamplr", "TPESampler"), ("pruner", "MedianPrunr", "MedianPruner")],
)
def test_a_dry_run_refuses_an_unknown_sampler_or_pruner(search, search_file, field, value, nearest):
    done = search(search_file(**{field: value}), "--dry-run")
    assert done.returncode == errors.USAGE
    assert f"Did you mean '{nearest}'?" in done.stderr


def test_a_search_in_python_prints_nothing_and_returns_its_result(search_file, store, capfd):
    path = search_file(budget="{trials: 1}", confirm="null")
    outcome = run_search(load_search(path), path, store, SearchOptions())
    assert outcome.exit_code == errors.PASS
    assert [row.outcome for row in outcome.result.trials] == ["completed"]
    assert capfd.readouterr() == ("", "")


def test_the_base_is_the_first_trial_and_reuses_its_record(search, search_file, trials):
    search(search_file(budget="{trials: 1}", confirm="null"))
    (trial,) = trials()
    assert trial.params == {"bowl.x": 0.0, "bowl.y": 0.0}
    assert result_of(trial).reused
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4, 5, 6]


PRUNE_ALL = "{name: ThresholdPruner, upper: 0.1, n_warmup_steps: 2}"


@pytest.mark.slow
def test_a_pruned_trial_ends_within_two_steps_and_keeps_its_partial_record(
    search, search_file, store, trials
):
    path = search_file(
        "pace: {sleep_ms: 90}\n", pruner=PRUNE_ALL, budget="{trials: 2}", confirm="null"
    )
    assert search(path).returncode == errors.PASS
    pruned = trials()[1]
    (record,) = store.attempts(result_of(pruned).plan_id)
    assert result_of(pruned).outcome == "pruned"
    assert record.status == "interrupted"
    assert "was pruned by its search" in record.reason
    decided_at = 2 * max(pruned.intermediate_values)  # steps: every second step is evaluated
    assert decided_at <= record.steps <= decided_at + 2 < 12
    assert pruned.user_attrs["result"]["steps"] == record.steps


@pytest.mark.slow
def test_a_pruned_point_is_not_run_again(search, search_file, store, trials):
    path = search_file(
        "pace: {sleep_ms: 60}\n",
        pruner=PRUNE_ALL,
        space="{bowl.x: {choices: [0.5, 0.6]}}",
        budget="{trials: 5}",
        confirm="null",
    )
    search(path)
    assert len(store.records()) <= 2 + 2  # the seeds of the base, and two points
    assert set(outcomes(trials)) == {"pruned"}


def test_trials_that_fail_are_results_and_do_not_end_the_search(search, search_file, trials):
    regions = "crashes_below_x: -0.5, bowl.diverges_beyond_x: 0.5, bowl.no_memory_beyond_y: 0.5"
    path = search_file(
        set=f"{{bowl.{regions}}}",
        space="{bowl.x: {choices: [-0.9, 0.0, 0.9]}, bowl.y: {choices: [0.0, 0.9]}}",
        sampler="BruteForceSampler",
        budget="{trials: 6}",
        confirm="null",
    )
    done = search(path)
    assert done.returncode == errors.PASS, done.stdout
    assert set(outcomes(trials)) == {"completed", "diverged", "out_of_memory", "failed"}
    assert {trial.state.name for trial in trials()} == {"COMPLETE", "PRUNED"}


@pytest.mark.slow
def test_repeated_failures_stop_the_search_if_the_base_fails_too(
    search, search_file, store, tmp_path, trials
):
    broken = tmp_path / "a_package_that_works"
    fails = f"{{fail.missing_package: true, fail.until_file: {broken}}}"
    broken.write_text("")
    path = search_file(set=fails, budget="{trials: 1}", confirm="null", limits="{failures: 2}")
    assert search(path).returncode == errors.PASS
    broken.unlink()
    path.write_text(path.read_text().replace("trials: 1", "trials: 9"))
    done = search(path)
    assert done.returncode == errors.COULD_NOT_RUN
    assert "the base now fails too" in done.stdout
    assert [record.status for record in store.records()][-3:] == ["failed"] * 3
    broken.write_text("")
    failed = [one for one in trials() if one.state.name == "PRUNED"]
    points = [trial.params for trial in failed]
    assert search(path).returncode == errors.PASS
    completed = [one.params for one in trials() if one.state.name == "COMPLETE"]
    assert len(completed) == 9
    assert points
    assert all(point in completed for point in points)


def test_a_limit_stops_between_trials_and_the_same_command_resumes(search, search_file, trials):
    path = search_file(confirm="null", budget="{trials: 2}")
    done = search(path, "--max-minutes", "0.0001")
    assert done.returncode == errors.STOPPED_AT_LIMIT
    assert "The time limit was reached before the base had run" in done.stdout
    assert search(path).returncode == errors.PASS
    path.write_text(path.read_text().replace("trials: 2", "trials: 3"))
    done = search(path, "--max-minutes", "0.0001")
    assert done.returncode == errors.STOPPED_AT_LIMIT
    assert "A trial takes about" in done.stdout
    assert len(outcomes(trials)) == 2
    assert search(path).returncode == errors.PASS
    assert search(path, "--max-minutes", "0.0001").returncode == errors.PASS
    assert len(outcomes(trials)) == 3


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"space": "{bowl.curv: {float: [0, 1]}}"}, "Did you mean 'curvature'?"),
        ({"space": "{dial.steps: {choices: [none, off]}}"}, "values that the trainer accepts"),
        ({"tricks": "{backotu: {}}"}, "Did you mean 'backout'?"),
        ({"tricks": "{backout: {}}", "set": "{residual_scalars: null}"}, "rejected by the trainer"),
        ({"objective": "core"}, "metrics that a run of the base reports"),
        (
            {"constraints": "{watts: {at_most: 1}}"},
            "metrics that a run of the base reports",
        ),
        ({"sampler": "TPESampel"}, "Did you mean 'TPESampler'?"),
        ({"pruner": "{name: MedianPruner, n_startup: 3}"}, "Its arguments are"),
        ({"confirm": "{best: 1, next: {dial.dpeth: 6}}"}, "Did you mean 'depth'?"),
        ({"base": "bse.yaml"}, "Did you mean 'base.yaml'?"),
    ],
)
def test_invalid_settings_are_errors_before_any_trial(search, search_file, parts, message):
    done = search(search_file(**{"budget": "{trials: 1}", "confirm": "null", **parts}))
    assert message in " ".join((done.stdout + done.stderr).split())
    assert done.returncode == (errors.PASS if "rejected by" in message else errors.USAGE)


@pytest.mark.skipif(find_spec("cmaes") is not None, reason="the package is installed here")
def test_a_sampler_without_its_package_is_an_error_before_the_base_runs(search, search_file, store):
    done = search(search_file(sampler="CmaEsSampler"))
    assert done.returncode == errors.USAGE
    assert (
        "sampler: expected the packages that Optuna's CmaEsSampler needs; got no package"
        in done.stderr
    )
    assert store.records() == []


def test_more_seeds_of_the_base_are_used_and_a_queued_point_counts_as_waiting(
    search, search_file, store
):
    parts = {"budget": "{trials: 1}", "confirm": "null"}
    search(search_file(**parts))
    done = search(search_file(**parts, base_seeds="[1, 2, 3]"))
    assert "over 3 seeds" in done.stderr
    assert "over 3 seeds" in done.stdout
    with storage.open_storage(storage.storage_url(store, "quick", None)) as opened:
        storage.stored_study(opened, "quick").enqueue_trial({"bowl.x": 0.5, "bowl.y": 0.5})
    report = search(search_file(**parts), "--report")
    assert "over 3 seeds" in report.stdout
    assert "2 trials (1 completed, 1 waiting)" in report.stdout


def test_a_different_search_with_the_same_name_is_an_error(search, search_file, tmp_path):
    search(search_file(budget="{trials: 1}", confirm="null"))
    other = search(search_file(budget="{trials: 9}", space="{bowl.x: {float: [0, 1]}}"))
    assert other.returncode == errors.COULD_NOT_RUN
    assert "a different search: space: bowl.x" in other.stderr
    assert "a different search" in search(tmp_path / "search.yaml", "--report").stderr


def test_a_search_of_other_code_is_reported_but_not_resumed(search, search_file, store):
    path = search_file(budget="{trials: 2}", confirm="null")
    search(path)
    with storage.open_storage(storage.storage_url(store, "quick", None)) as opened:
        study = storage.stored_study(opened, "quick")
        stored = study.user_attrs[FINGERPRINT]
        base = {**stored["base"], "code_id": "another machine's"}
        study.set_user_attr(FINGERPRINT, {**stored, "base": base})
    assert "code_id was" in search(path).stderr
    report = search(path, "--report")
    assert report.returncode == errors.PASS
    assert "The search ran on other code" in report.stderr
    assert "2 trials (2 completed)" in report.stdout


def test_the_command_line_overrides_the_file(search, search_file):
    done = search(search_file(), "--dry-run", "--set", "bowl.x=0.5")
    assert re.search(r"bowl.x +-1 to 1 +0.5", done.stdout)
    usd = search(search_file(budget="{usd: 5}", limits="{price: 3}"), "--dry-run")
    assert "budget: 5.00 USD" in usd.stdout


def test_a_dry_run_starts_nothing(search, search_file, store):
    done = search(search_file(), "--dry-run")
    assert done.returncode == errors.PASS
    assert re.search(r"bowl.x +-1 to 1 +0", done.stdout)
    assert "smallest detectable effect: unknown until the base has run" in done.stdout
    assert not store.root.exists()


def test_a_dry_run_shows_time_and_power_if_the_base_is_recorded(search, search_file):
    search(search_file(budget="{trials: 1}", confirm="null"))
    done = search(search_file(), "--dry-run")
    assert re.search(r"time: at most .+ without pruning, estimated from 2 runs", done.stdout)
    assert re.search(r"of the confirmation: val_bpb 0\.\d+, from an SD of", done.stdout)


def test_each_gpu_has_a_worker_and_a_budget_of_gpu_seconds_ends_the_search(
    search, search_file, store, trials
):
    path = search_file(budget="{gpu_seconds: 0.5}", confirm="null")
    done = search(path, "--gpus", "0,1")
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert "GPU-seconds are used" in done.stdout
    used = {made.environment["gpus"][0]["uuid"] for made in store.records()}
    assert used == {"fake-0", "fake-1"}
    assert sum(result_of(trial).gpu_s for trial in trials()) >= 0.5


def test_gpu_seconds_alone_are_an_invalid_budget_without_a_gpu(search, search_file):
    done = search(search_file(budget="{gpu_seconds: 5}"))
    assert done.returncode == errors.USAGE
    assert "the search would never end" in done.stderr


def test_a_packed_search_is_resumed_elsewhere(
    search, harness, search_file, store, tmp_path, trials
):
    path = search_file(budget="{trials: 2}", confirm="null")
    search(path)
    tar = tmp_path / "store.tar"
    assert harness("pack", tar).returncode == errors.PASS
    store.root.rename(tmp_path / "elsewhere")
    assert harness("unpack", tar).returncode == errors.PASS
    assert len(trials()) == 2
    path.write_text(path.read_text().replace("trials: 2", "trials: 3"))
    search(path)
    assert len(trials()) == 3
    again = harness("unpack", tar)
    assert again.returncode == errors.COULD_NOT_RUN
    assert "got different trials. Nothing was unpacked" in again.stderr


@pytest.mark.slow
def test_several_objectives_give_a_pareto_front_within_bounds(harness, search_file, store, trials):
    path = search_file(
        objective="[val_bpb, tokens_per_s]",
        space="{dial.depth: {int: [1, 4]}}",
        constraints="{peak_memory_bytes: {at_most: 5.0e+7}}",
        sampler="BruteForceSampler",
        budget="{trials: 4}",
        confirm="{best: 2, seeds: [101, 102]}",
        pin="own",
    )
    done = harness("search", path)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    beyond = [trial for trial in trials() if any(v > 0 for v in trial.constraints.values())]
    within = [trial for trial in trials() if trial not in beyond]
    assert beyond
    assert within
    assert all(len(trial.values) == 2 for trial in trials())
    page = (store.report_dir("search", "quick") / "report.html").read_text()
    assert ">Pareto front</" in page


@pytest.mark.slow
def test_a_search_fills_the_sweep_of_an_arm(harness, study_file, store):
    space = "{optimizer.adamw_lr: {float: [0.0003, 0.03], log: true}}"
    retune = f"{{muon: {{space: {space}, trials: 8, best: 2, seeds: [7, 8]}}}}"
    path = study_file(arms=f"{{leave_one_out: [muon], retune: {retune}}}")
    plan = harness("study", path, "--dry-run", "--no-measure")
    assert "The sweep of muon is filled by a search of 8 trials" in plan.stdout
    done = harness("study", path)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    arm = store.study("quick").arm("no_muon")
    chosen = arm.retuned["optimizer.adamw_lr"]
    assert len(chosen.tried) == 2
    assert {"optimizer.adamw_lr": chosen.value} in store.found_settings("quick-retune-muon")
    best = [made for made in store.records() if made.identity.config_id == arm.identity.config_id]
    assert {made.seed for made in best} == {1, 2, 7, 8}
    made = len(store.records())
    assert harness("study", path).returncode == errors.PASS
    assert len(store.records()) == made


def test_a_searched_sweep_needs_trials_and_two_seeds(harness, study_file):
    retune = "{muon: {space: {optimizer.adamw_lr: {float: [0.001, 0.1]}}, seeds: [7]}}"
    done = harness("study", study_file(arms=f"{{leave_one_out: [muon], retune: {retune}}}"))
    assert done.returncode == errors.USAGE
    assert "at least `best` trials, and two seeds" in done.stderr


@pytest.mark.slow
def test_time_to_target_is_an_objective_with_the_slope_of_a_study(
    search, harness, search_file, study_file, store, trials
):
    study = study_file(horizons="[0.5, 2]", seeds="[1, 2, 3]")
    assert harness("study", study).returncode == errors.PASS
    base = store.study("quick").arm("base").base
    path = search_file(
        search="in-time",
        base=base,
        objective="ln_time_to_target",
        slope_from="quick",
        space="{bowl.x: {choices: [0.0, 0.6]}, bowl.y: {choices: [0.0, 0.3]}}",
        set="{bowl.curvature: 0.1}",
        sampler="BruteForceSampler",
        budget="{trials: 4}",
        confirm="{best: 1, seeds: [101, 102, 103]}",
    )
    done = search(path)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    best = min(trials("in-time"), key=lambda trial: trial.values[0])
    assert best.params == {"bowl.x": 0.6, "bowl.y": 0.3}
    assert best.values[0] < -0.02  # shorter than the base
    (confirmed,) = [name for name in store.study_names() if name.startswith("in-time-confirm")]
    assert store.study(confirmed).horizons == [0.71, 1.0, 1.41]
    assert "ln_time_to_target" in done.stdout


def test_a_study_without_a_slope_is_an_error(search, harness, search_file, study_file):
    assert harness("study", study_file(seeds="[1]")).returncode == errors.PASS
    done = search(search_file(objective="ln_time_to_target", slope_from="quick"))
    assert done.returncode == errors.USAGE
    assert "got quick:" in done.stderr


def test_an_unknown_slope_study_is_an_error_before_the_base_runs(search, search_file, store):
    path = search_file(objective="ln_time_to_target", slope_from="qiuck")
    for options in ((), ("--dry-run",)):
        done = search(path, *options)
        assert done.returncode == errors.COULD_NOT_RUN
        assert "expected a study called 'qiuck'" in " ".join((done.stdout + done.stderr).split())
    assert store.records() == []
