"""Whole searches with the FakeTrainer: trials, pruning, resumption, the second look."""

import re
from importlib.util import find_spec

import pytest

from harness import errors
from harness.search import storage
from harness.search.trial import told


def outcomes(trials):
    return [answer.outcome for trial in trials() if (answer := told(trial)) is not None]


@pytest.fixture
def search(harness):
    """A search by the command line, without HTML."""
    return lambda path, *words: harness("search", path, "--no-html", *words)


def test_a_search_makes_records_and_the_same_command_makes_none_again(
    search, search_file, store, trials
):
    path = search_file()
    done = search(path)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    made = store.records()
    assert [record.launch.arm for record in made[:2]] == ["base", "base"]
    answers = [told(trial) for trial in trials()]
    assert len(answers) == 6
    assert {answer.plan_id for answer in answers} <= {record.plan_id for record in made}
    assert "looking again at 1 of the trials: study quick-confirm-6-" in done.stdout
    for words in ((), ("--report",)):
        again = search(path, *words)
        assert again.returncode == errors.PASS
        assert "quick: 6 trials" in again.stdout
    assert len(store.records()) == len(made)
    assert len(trials()) == 6


def test_the_base_is_the_first_trial_and_is_told_from_its_record(search, search_file, trials):
    search(search_file(budget="{trials: 1}", confirm="{best: 0}"))
    (trial,) = trials()
    assert trial.params == {"bowl.x": 0.0, "bowl.y": 0.0}
    assert told(trial).recorded
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4, 5, 6]


PRUNE_ALL = "{name: ThresholdPruner, upper: 0.1, n_warmup_steps: 2}"


def test_a_pruned_trial_ends_within_two_steps_and_keeps_its_partial_record(
    search, search_file, store, trials
):
    path = search_file(
        "pace: {sleep_ms: 90}\n", pruner=PRUNE_ALL, budget="{trials: 2}", confirm="{best: 0}"
    )
    assert search(path).returncode == errors.PASS
    pruned = trials()[1]
    (record,) = store.attempts(told(pruned).plan_id)
    assert told(pruned).outcome == "pruned"
    assert record.status == "interrupted"
    assert "its search expects nothing of it" in record.reason
    decided_at = 2 * max(pruned.intermediate_values)  # steps: there is an evaluation every two
    assert decided_at <= record.steps <= decided_at + 2 < 12
    assert pruned.user_attrs["told"]["steps"] == record.steps


@pytest.mark.slow
def test_a_point_that_was_pruned_is_not_made_again(search, search_file, store, trials):
    path = search_file(
        "pace: {sleep_ms: 60}\n",
        pruner=PRUNE_ALL,
        space="{bowl.x: {choices: [0.5, 0.6]}}",
        budget="{trials: 5}",
        confirm="{best: 0}",
    )
    search(path)
    assert len(store.records()) <= 2 + 2  # the base's seeds, and two points
    assert set(outcomes(trials)) == {"pruned"}


def test_a_region_in_which_nothing_trains_is_a_lesson_and_not_the_end(search, search_file, trials):
    regions = "crashes_below_x: -0.5, bowl.diverges_beyond_x: 0.5, bowl.no_memory_beyond_y: 0.5"
    path = search_file(
        set=f"{{bowl.{regions}}}",
        space="{bowl.x: {choices: [-0.9, 0.0, 0.9]}, bowl.y: {choices: [0.0, 0.9]}}",
        sampler="BruteForceSampler",
        budget="{trials: 6}",
        confirm="{best: 0}",
    )
    done = search(path)
    assert done.returncode == errors.PASS, done.stdout
    assert set(outcomes(trials)) == {"completed", "diverged", "out_of_memory", "failed"}
    assert {trial.state.name for trial in trials()} == {"COMPLETE", "PRUNED"}


@pytest.mark.slow
def test_a_machine_on_which_the_base_fails_too_stops_the_search(
    search, search_file, store, tmp_path, trials
):
    broken = tmp_path / "a_package_that_works"
    fails = f"{{fail.missing_package: true, fail.until_file: {broken}}}"
    broken.write_text("")
    path = search_file(set=fails, budget="{trials: 1}", confirm="{best: 0}", limits="{failures: 2}")
    assert search(path).returncode == errors.PASS
    broken.unlink()
    path.write_text(path.read_text().replace("trials: 1", "trials: 9"))
    done = search(path)
    assert done.returncode == errors.COULD_NOT_RUN
    assert "so does the base now" in done.stdout
    assert [record.status for record in store.records()][-3:] == ["failed"] * 3
    broken.write_text("")
    failed = [one for one in trials() if one.state.name == "PRUNED"]
    points = [trial.params for trial in failed]
    assert search(path).returncode == errors.PASS
    completed = [one.params for one in trials() if one.state.name == "COMPLETE"]
    assert len(completed) == 9
    assert points
    assert all(point in completed for point in points)


def test_a_limit_stops_between_trials_and_the_same_command_goes_on(search, search_file, trials):
    path = search_file(confirm="{best: 0}", budget="{trials: 2}")
    done = search(path, "--max-minutes", "0.0001")
    assert done.returncode == errors.STOPPED_AT_LIMIT
    assert "The time is up before the base has run" in done.stdout
    assert search(path).returncode == errors.PASS
    path.write_text(path.read_text().replace("trials: 2", "trials: 3"))
    done = search(path, "--max-minutes", "0.0001")
    assert done.returncode == errors.STOPPED_AT_LIMIT
    assert "A trial needs about" in done.stdout
    assert len(outcomes(trials)) == 2
    assert search(path).returncode == errors.PASS
    assert search(path, "--max-minutes", "0.0001").returncode == errors.PASS
    assert len(outcomes(trials)) == 3


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"space": "{bowl.curv: {float: [0, 1]}}"}, "Did you mean 'curvature'?"),
        ({"space": "{dial.steps: {choices: [none, off]}}"}, "values that the trainer accepts"),
        ({"tricks": "{backotu: {}}"}, "Did you mean 'backout'?"),
        ({"tricks": "{backout: {}}", "set": "{residual_scalars: null}"}, "refused by the trainer"),
        ({"objective": "core"}, "what a run of the base reports"),
        ({"constraints": "{watts: {at_most: 1}}"}, "what a run of the base reports"),
        ({"sampler": "TPESampel"}, "Did you mean 'TPESampler'?"),
        ({"pruner": "{name: MedianPruner, n_startup: 3}"}, "Its arguments are"),
        ({"confirm": "{best: 1, next: {dial.dpeth: 6}}"}, "Did you mean 'depth'?"),
        ({"base": "bse.yaml"}, "Did you mean 'base.yaml'?"),
    ],
)
def test_what_cannot_be_is_refused_before_any_trial(search, search_file, parts, told):
    done = search(search_file(**{"budget": "{trials: 1}", "confirm": "{best: 0}", **parts}))
    assert told in " ".join((done.stdout + done.stderr).split())
    assert done.returncode == (errors.PASS if "refused by" in told else errors.USAGE)


@pytest.mark.skipif(find_spec("cmaes") is not None, reason="the package is installed here")
def test_a_sampler_whose_package_is_missing_is_refused_before_the_base_runs(
    search, search_file, store
):
    done = search(search_file(sampler="CmaEsSampler"))
    assert done.returncode == errors.USAGE
    assert "sampler: expected the packages of Optuna's CmaEsSampler; got no package" in done.stderr
    assert store.records() == []


def test_more_seeds_of_the_base_are_told_and_a_point_in_line_is_not_at_work(
    search, search_file, store
):
    parts = {"budget": "{trials: 1}", "confirm": "{best: 0}"}
    search(search_file(**parts))
    done = search(search_file(**parts, base_seeds="[1, 2, 3]"))
    assert done.stdout.count("over 3 seeds") == 2
    with storage.open_storage(storage.url_of(store, "quick", None)) as opened:
        storage.stored_study(opened, "quick").enqueue_trial({"bowl.x": 0.5, "bowl.y": 0.5})
    report = search(search_file(**parts), "--report")
    assert "over 3 seeds" in report.stdout
    assert "2 trials (1 completed, 1 waiting)" in report.stdout


def test_another_search_of_the_same_name_is_refused(search, search_file, tmp_path):
    search(search_file(budget="{trials: 1}", confirm="{best: 0}"))
    other = search(search_file(budget="{trials: 9}", space="{bowl.x: {float: [0, 1]}}"))
    assert other.returncode == errors.COULD_NOT_RUN
    assert "another one: space: bowl.x" in other.stderr
    assert "another one" in search(tmp_path / "search.yaml", "--report").stderr


def test_a_report_of_what_other_code_made_is_as_recorded(search, search_file, store):
    path = search_file(budget="{trials: 2}", confirm="{best: 0}")
    search(path)
    with storage.open_storage(storage.url_of(store, "quick", None)) as opened:
        study = storage.stored_study(opened, "quick")
        known = study.user_attrs[storage.FINGERPRINT]
        base = {**known["base"], "code_id": "another machine's"}
        study.set_user_attr(storage.FINGERPRINT, {**known, "base": base})
    assert "code_id was" in search(path).stderr
    report = search(path, "--report")
    assert report.returncode == errors.PASS
    assert "Other code than is here made it" in report.stdout
    assert "quick: 2 trials (2 completed)" in report.stdout


def test_the_command_line_sets_what_the_file_does_not(search, search_file):
    done = search(search_file(), "--dry-run", "--set", "bowl.x=0.5")
    assert "bowl.x: -1 to 1, in the base 0.5" in done.stdout
    usd = search(search_file(budget="{usd: 5}", limits="{price: 3}"), "--dry-run")
    assert "budget: 5.00 USD" in usd.stdout


def test_a_dry_run_starts_nothing(search, search_file, store):
    done = search(search_file(), "--dry-run")
    assert done.returncode == errors.PASS
    assert "bowl.x: -1 to 1, in the base 0" in done.stdout
    assert "smallest detectable effect: unknown until the base has run" in done.stdout
    assert not store.root.exists()


def test_a_dry_run_tells_time_and_power_where_the_base_is_recorded(search, search_file):
    search(search_file(budget="{trials: 1}", confirm="{best: 0}"))
    done = search(search_file(), "--dry-run")
    assert re.search(r"time: at most \d+ s one after the other, unpruned, by 2 runs", done.stdout)
    assert re.search(r"second look: val_bpb 0\.\d+, from an SD of", done.stdout)


def test_each_gpu_has_a_worker_and_a_budget_of_gpu_seconds_ends_them(
    search, search_file, store, trials
):
    path = search_file(budget="{gpu_seconds: 0.5}", confirm="{best: 0}")
    done = search(path, "--gpus", "0,1")
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert "GPU-seconds are used" in done.stdout
    used = {made.environment["gpus"][0]["uuid"] for made in store.records()}
    assert used == {"fake-0", "fake-1"}
    assert sum(told(trial).gpu_s for trial in trials()) >= 0.5


def test_gpu_seconds_alone_are_no_budget_without_a_gpu(search, search_file):
    done = search(search_file(budget="{gpu_seconds: 5}"))
    assert done.returncode == errors.USAGE
    assert "the search would never end" in done.stderr


def test_a_packed_search_goes_on_elsewhere(search, harness, search_file, store, tmp_path, trials):
    path = search_file(budget="{trials: 2}", confirm="{best: 0}")
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
    assert "other trials in each" in again.stderr


@pytest.mark.slow
def test_several_objectives_give_a_front_and_keep_a_bound(harness, search_file, store, trials):
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
    assert "<h2>Pareto front</h2>" in page


def test_a_search_fills_the_sweep_of_an_arm(harness, study_file, store):
    space = "{optimizer.adamw_lr: {float: [0.0003, 0.03], log: true}}"
    retune = f"{{muon: {{space: {space}, trials: 8, best: 2, seeds: [7, 8]}}}}"
    path = study_file(arms=f"{{leave_one_out: [muon], retune: {retune}}}")
    plan = harness("study", path, "--dry-run", "--no-measure")
    assert "a search of 8 trials fills the sweep of muon" in plan.stdout
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
    assert "trials (as many as `best` or more), and two seeds" in done.stderr


@pytest.mark.slow
def test_time_to_target_is_sought_by_the_slope_of_a_study(
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
    assert best.values[0] < -0.02  # less than the base's own time
    (confirmed,) = [name for name in store.study_names() if name.startswith("in-time-confirm")]
    assert store.study(confirmed).horizons == [0.71, 1.0, 1.41]
    assert "ln_time_to_target" in done.stdout


def test_a_study_without_a_slope_is_refused(search, harness, search_file, study_file):
    assert harness("study", study_file(seeds="[1]")).returncode == errors.PASS
    done = search(search_file(objective="ln_time_to_target", slope_from="quick"))
    assert done.returncode == errors.USAGE
    assert "got quick:" in done.stderr


def test_an_unknown_study_of_the_slope_is_refused_before_the_base_runs(search, search_file, store):
    path = search_file(objective="ln_time_to_target", slope_from="qiuck")
    for words in ((), ("--dry-run",)):
        done = search(path, *words)
        assert done.returncode == errors.COULD_NOT_RUN
        assert "expected a study called 'qiuck'" in done.stderr
    assert store.records() == []
