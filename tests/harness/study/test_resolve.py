"""Resolving a study file: arms, pins, identities, runs and refusals."""

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from harness.config.study_file import parse_study
from harness.errors import StoreError, StudyFileError
from harness.results.study_plan import block_order, plan_id
from harness.runner.fake_trainer import config as fake
from harness.runner.trainer import FakeTrainer, by_name, default_checkout
from harness.study.resolve import resolve


def test_arms_are_the_base_and_one_per_trick(resolved):
    study = resolved(arms="{leave_one_out: [windows, muon], add_one_in: [backout]}")
    assert [(arm.name, arm.role) for arm in study.arms] == [
        ("base", "base"),
        ("no_windows", "leave_one_out"),
        ("no_muon", "leave_one_out"),
        ("with_backout", "add_one_in"),
    ]
    assert study.arm("no_windows").set == {"windows": None}
    assert not study.arm("no_windows").tricks["windows"]
    assert study.arm("with_backout").tricks["backout"]


def test_an_arm_has_the_identity_that_its_trainer_describes(resolved, tmp_path):
    identity = resolved(set="{dial.depth: 3}").arm("base").identity
    config = fake.load(tmp_path / "base.yaml", {"dial.depth": 3})
    assert msgspec.to_builtins(identity) == fake.identity(config)


def test_all_selects_the_tricks_that_can_be_switched(resolved):
    study = resolved(arms="{leave_one_out: all, add_one_in: all}")
    names = {arm.name for arm in study.arms}
    tricks = {"no_windows", "no_muon", "no_residual_scalars", "no_value_embeddings"}
    assert names == tricks | {"base", "with_backout"}


def test_values_that_the_base_derives_are_pinned_in_every_arm(resolved):
    arms = "{leave_one_out: [value_embeddings, windows]}"
    study = resolved(arms=arms, set="{dial.steps: null, dial.ratio: 6}")
    base, arm = study.arm("base"), study.arm("no_value_embeddings")
    pin = arm.pinned["dial.steps"]
    assert pin.base == base.derived["steps"] == arm.derived["steps"]
    assert pin.own < pin.base
    assert study.arm("no_windows").pinned == {}


def test_pin_own_lets_every_arm_derive_its_own_values(resolved):
    study = resolved(
        arms="{leave_one_out: [value_embeddings]}",
        set="{dial.steps: null, dial.ratio: 6}",
        pin="own",
    )
    base, arm = study.arms
    assert arm.pinned == {}
    assert arm.derived["steps"] < base.derived["steps"]


def test_a_value_that_an_arm_sets_is_not_pinned(resolved):
    study = resolved(arms="{longer: {set: {dial.steps: 25}}}")
    assert study.arm("longer").derived["steps"] == 25
    assert study.arm("longer").pinned == {}


def test_every_block_has_every_arm_once_in_its_own_order(resolved):
    study = resolved(arms="{leave_one_out: all}", seeds="[1, 2, 3]")
    orders = []
    for seed in study.seeds:
        block = [run for run in study.runs if run.block == seed]
        assert {run.arm for run in block} == {arm.name for arm in study.arms}
        assert [run.position for run in block] == list(range(len(block)))
        orders.append([run.arm for run in block])
    assert len({tuple(order) for order in orders}) > 1
    assert orders[0] == block_order("quick", 1, [arm.name for arm in study.arms])


def test_a_plan_id_is_known_before_the_run_and_differs_between_seeds_and_arms(resolved):
    study = resolved(arms="{leave_one_out: all}")
    ids = [run.plan_id for run in study.runs]
    assert len(set(ids)) == len(ids)
    run = study.runs[0]
    assert run.plan_id == plan_id(study.arm(run.arm).identity, run.seed)
    assert ids == [run.plan_id for run in resolved(arms="{leave_one_out: all}").runs]


def test_horizons_are_runs_of_the_base_outside_blocks(resolved):
    study = resolved(horizons="[0.5, 1, 2]")
    steps = {arm.name: arm.derived["steps"] for arm in study.arms if arm.role == "horizon"}
    assert steps == {"base@0.5": 10, "base@2": 40}
    runs = [run for run in study.runs if run.arm == "base@0.5"]
    assert [(run.seed, run.block) for run in runs] == [(1, None), (2, None)]
    assert study.horizons == [0.5, 1.0, 2.0]


def test_a_sweep_is_planned_first_and_its_arm_is_untuned_until_then(resolved):
    retune = "{muon: {values: {optimizer.adamw_lr: [0.001, 0.003]}, seeds: [7, 8]}}"
    study = resolved(arms=f"{{leave_one_out: [muon], retune: {retune}}}")
    swept = [arm for arm in study.arms if arm.role == "retune"]
    assert [arm.name for arm in swept] == [
        "retune:muon:adamw_lr=0.001",
        "retune:muon:adamw_lr=0.003",
    ]
    assert [run.arm for run in study.runs[:4]] == [arm.name for arm in swept for _ in "12"]
    assert {run.seed for run in study.runs[:4]} == {7, 8}
    assert study.arm("no_muon").untuned == ["optimizer.adamw_lr"]


@pytest.mark.parametrize(
    ("arms", "got", "hint"),
    [
        ("{leave_one_out: [muno]}", "'muno'", "'muon'"),
        ("{add_one_in: [windows]}", "windows, which is on there", "another base"),
        ("{leave_one_out: [backout]}", "backout, which is off there", "another base"),
        ("{leave_one_out: [muon, muon]}", "no_muon more than once", "repetition"),
        ("{a: {set: {dial.depht: 3}}}", "'depht'", "'depth'"),
        ("{a: {set: {windows: off}}}", "'off'", "null"),
        ("{a: {set: {dial.steps: many}}}", "'many'", "value"),
        ("{a: {set: {backout: true, residual_scalars: null}}}", "null", "Turn residual_scalars on"),
        ("{a: {set: {seed: 0}}}", "the same configuration and code as base", "Remove"),
        ("{leave_one_out: [muon], a: {set: {optimizer.matrices: adamw}}}", "as no_muon", "Remove"),
        (
            "{leave_one_out: [windows], retune: {muon: {values: {a: [1]}, seeds: [9]}}}",
            "none",
            "Add",
        ),
    ],
)
def test_an_impossible_study_is_refused_with_a_hint(resolved, arms, got, hint):
    with pytest.raises(StudyFileError) as caught:
        resolved(arms=arms)
    assert got in caught.value.got
    assert hint in caught.value.hint


def test_an_unknown_base_is_refused_with_the_nearest_file(study_file, store):
    path = study_file()
    text = path.read_text().replace("base.yaml", "bse.yaml")
    with pytest.raises(StudyFileError) as caught:
        resolve(parse_study(text, "s"), path, store, FakeTrainer(), command="", now=1.0)
    assert "no file" in caught.value.got
    assert "'base.yaml'" in caught.value.hint


def test_an_unknown_trainer_is_refused():
    with pytest.raises(StudyFileError, match="native, fake"):
        by_name("fakee")


def test_all_faults_of_all_arms_are_reported_at_once(resolved):
    with pytest.raises(StudyFileError) as caught:
        resolved(arms="{a: {set: {dial.depht: 3}}, b: {set: {windos: null}}}")
    assert "depht" in str(caught.value)
    assert "windos" in str(caught.value)


def test_more_seeds_and_other_limits_extend_a_stored_study(resolved, store):
    first = resolved()
    store.save_study(first)
    second = resolved(seeds="[3]", limits="{run_minutes: 2}")
    assert second.seeds == [1, 2, 3]
    assert [run.plan_id for run in second.runs[:6]] == [run.plan_id for run in first.runs]
    assert second.created_at == first.created_at


@pytest.mark.parametrize(
    ("lines", "difference"),
    [
        ({"arms": "{leave_one_out: [windows]}"}, "arm no_muon is missing"),
        ({"arms": "{leave_one_out: all}"}, "arm no_residual_scalars is new"),
        ({"set": "{dial.depth: 3}"}, "dial.depth the value of its base file, has 3"),
        ({"decide": "{alpha: 0.01}"}, "decide"),
        ({"pin": "own"}, "pin"),
    ],
)
def test_another_study_of_the_same_name_is_refused(resolved, store, lines, difference):
    store.save_study(resolved())
    with pytest.raises(StoreError) as caught:
        resolved(**lines)
    assert difference in caught.value.got
    assert "--name" in caught.value.hint


def test_a_changed_base_file_is_another_study(resolved, store):
    store.save_study(resolved())
    with pytest.raises(StoreError, match="config_id"):
        resolved(base="data: {source: other}\n")


# other code ---------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path) -> Path:
    """A git repository with the harness in it, and a branch on which the FakeTrainer is better."""
    folder = tmp_path / "clone"
    folder.mkdir()
    shutil.copytree(
        default_checkout() / "harness",
        folder / "harness",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    git(folder, "checkout", "-qb", "idea")
    edit(folder)
    git(folder, "commit", "-qam", "idea")
    git(folder, "checkout", "-q", "main")
    return folder


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def edit(folder: Path) -> None:
    path = folder / "harness" / "runner" / "fake_trainer" / "config.py"
    path.write_text(path.read_text().replace("(-0.055, -0.03)", "(-0.075, -0.03)"))


def resolve_in(clone, study_file, store, arms):
    path = study_file(arms=arms)
    file = parse_study(path.read_text(), str(path))
    return resolve(file, path, store, FakeTrainer(clone), command="", now=1.0)


def test_an_arm_of_a_ref_runs_the_base_on_other_code(clone, study_file, store):
    study = resolve_in(clone, study_file, store, "{mine: {ref: idea}}")
    base, mine = study.arms
    assert mine.identity.config_id == base.identity.config_id
    assert mine.identity.code_id != base.identity.code_id
    assert "-0.075" in (Path(mine.checkout) / "harness/runner/fake_trainer/config.py").read_text()
    again = resolve_in(clone, study_file, store, "{mine: {ref: idea}}")
    assert again.arm("mine").checkout == mine.checkout
    assert git(clone, "status", "--porcelain") == ""


def test_an_arm_of_a_patch_runs_the_present_code_with_it(clone, study_file, store, tmp_path):
    edit(clone)
    (tmp_path / "idea.diff").write_text(git(clone, "diff"))
    git(clone, "checkout", "-q", "harness")
    study = resolve_in(clone, study_file, store, "{mine: {patch: idea.diff}}")
    assert (
        "-0.075"
        in (Path(study.arm("mine").checkout) / "harness/runner/fake_trainer/config.py").read_text()
    )
    assert study.arm("mine").identity.code_id != study.arm("base").identity.code_id


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ("{mine: {ref: nowhere}}", "none of that name"),
        ("{mine: {patch: absent.diff}}", "No such file"),
        ("{mine: {patch: base.yaml}}", "patch"),
    ],
)
def test_missing_code_is_refused(clone, study_file, store, arms, message):
    with pytest.raises(StudyFileError, match=message):
        resolve_in(clone, study_file, store, arms)


def test_an_arm_with_other_code_needs_a_repository(clone, study_file, store):
    shutil.rmtree(clone / ".git")
    with pytest.raises(StudyFileError, match="clone of the project"):
        resolve_in(clone, study_file, store, "{mine: {ref: idea}}")
