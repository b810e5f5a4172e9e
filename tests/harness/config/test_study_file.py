"""Errors in study files have their line and a hint."""

import os
import time

import pytest

from harness.config.study_file import load_study, parse_study
from harness.config.yaml_schema import check_seeds, find_base, parse_seeds, parse_sets
from harness.errors import StudyFileError, UsageError

GOOD = """\
study: s
base: b.yaml
arms:
  leave_one_out: [muon]
  retune:
    muon: {values: {lr: [0.1, 0.2]}, seeds: [9]}
  mine: {set: {a.b: 1}}
seeds: [1, 2]
decide: {margin: {val_bpb: 0.01}}
"""


def refused(text: str) -> StudyFileError:
    with pytest.raises(StudyFileError) as caught:
        parse_study(text, "s.yaml")
    return caught.value


def test_a_valid_file_has_expanded_and_explicit_arms():
    study = parse_study(GOOD, "s.yaml")
    assert study.arms.leave_one_out == ["muon"]
    assert list(study.arms.explicit) == ["mine"]
    assert study.decide.correction == "dunnett"
    assert study.pin == "derived"


@pytest.mark.parametrize(
    ("old", "new", "line", "got", "hint"),
    [
        ("seeds: [1, 2]", "seed: [1, 2]", 8, "'seed'", "'seeds'"),
        ("decide: {margin", "decide: {margn", 9, "'margn'", "'margin'"),
        ("decide: {margin", "decide: {many: holm, margin", 9, "'many'", "'correction'"),
        ("leave_one_out: [muon]", "leave_one_ot: [muon]", 4, "array", "'leave_one_out'"),
        ("{set: {a.b: 1}}", "{sett: {a.b: 1}}", 7, "'sett'", "'set'"),
        ("seeds: [9]}", "sedes: [9]}", 6, "'sedes'", "'seeds'"),
        ("seeds: [1, 2]", "seeds: [1, 2, 1]", 8, "[1] more than once", "replicate"),
        ("seeds: [1, 2]", "seeds: []", 8, "0 of them", "replicate"),
        ("seeds: [1, 2]", "seeds: one", 8, "str", "type"),
        ("seeds: [9]}", "seeds: [2]}", 6, "[2] in both", "use other seeds"),
        ("study: s", "study: a/b", 1, "'a/b'", "rename"),
        ("mine: {set: {a.b: 1}}", "mine: {}", 7, "nothing that differs", "changes"),
        ("mine: {set: {a.b: 1}}", "mine: {ref: x, patch: y}", 7, "both", "changes"),
        ("mine: {set", "base: {set", 7, "base", "rename"),
        ("val_bpb: 0.01", "val_bpb: -1", 9, "-1", "number"),
        ("val_bpb: 0.01", "val_bbp: 0.01", 9, "val_bbp", "val_bpb"),
        ("val_bpb: 0.01", "accuracy: 0.01", 9, "accuracy", "One of"),
        ("study: s", "study: s\nhorizons: [0]", 2, "0", "number"),
        ("study: s", "study: s\nlimits: {failures: 0}", 2, "0", "number"),
        ("study: s", "study: s\npin: maybe", 2, "maybe", "type"),
    ],
)
def test_an_error_has_its_line_and_a_hint(old, new, line, got, hint):
    assert old in GOOD
    error = refused(GOOD.replace(old, new, 1))
    assert error.path.startswith(f"s.yaml:{line}:")
    assert got in error.got
    assert hint in error.hint


def test_the_error_for_duplicate_arms_has_their_line():
    error = refused(GOOD.replace("  mine:", "  mine: {set: {a: 2}}\n  mine:"))
    assert "mine" in error.got
    assert "s.yaml:8" in error.path


@pytest.mark.parametrize("arms", ["{}", "{leave_one_out: []}", "{retune: {}}"])
def test_a_study_without_arms_is_rejected(arms):
    error = refused(f"study: s\nbase: b.yaml\nseeds: [1]\narms: {arms}\n")
    assert error.expected == "at least one arm besides the base"


@pytest.mark.parametrize("text", ["", "- a\n", "study: [\n", "study: s\n"])
def test_a_file_that_is_not_a_study_is_rejected(text):
    assert refused(text).path.startswith("s.yaml")


def test_horizons_include_one_and_are_sorted():
    study = parse_study(GOOD + "horizons: [2, 0.5]\n", "s.yaml")
    assert study.horizon_list() == [0.5, 1.0, 2.0]
    assert parse_study(GOOD, "s.yaml").horizon_list() == []
    assert parse_study(GOOD + "horizons: default\n", "s.yaml").horizon_list() == [0.71, 1.0, 1.41]


def test_sets_are_yaml_values():
    overrides = parse_sets(["a.b=3", "c=null", "d=[1, 2]", "e=off", "f=x=y"])
    assert overrides == {"a.b": 3, "c": None, "d": [1, 2], "e": "off", "f": "x=y"}


@pytest.mark.parametrize("pair", ["a", "=3", "a=["])
def test_an_invalid_set_option_is_a_usage_error(pair):
    with pytest.raises(UsageError):
        parse_sets([pair])


def test_seeds_may_be_ranges():
    assert parse_seeds("1,3-5, 9", "--seeds") == [1, 3, 4, 5, 9]


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,1", "1-3,2", "-1"])
def test_invalid_seeds_are_a_usage_error(text):
    with pytest.raises(UsageError):
        parse_seeds(text, "--seeds")


ODD_NUMBERS = [".inf", "-.inf", ".nan", "-5", "1e300", "1e999"]


@pytest.mark.parametrize("number", ODD_NUMBERS)
@pytest.mark.parametrize(
    "line",
    [
        "limits: {run_minutes: %s}",
        "limits: {total_minutes: %s}",
        "limits: {failures: %s}",
        "limits: {price: %s}",
        "decide: {alpha: %s}",
        "decide: {margin: {val_bpb: %s}}",
        "horizons: [%s]",
        "seeds: [%s]",
    ],
)
def test_a_number_that_is_not_finite_or_out_of_range_is_refused(line, number):
    key = line.partition(":")[0]
    kept = [one for one in GOOD.splitlines() if not one.startswith(f"{key}:")]
    error = refused("\n".join([*kept, line % number]))
    assert error.path.startswith("s.yaml:")
    assert key in error.path


def test_thousands_of_seeds_are_checked_at_once():
    began = time.monotonic()
    check_seeds(list(range(30_000)), "seeds")
    with pytest.raises(StudyFileError, match="more than once"):
        check_seeds([*range(30_000), 5], "seeds")
    with pytest.raises(StudyFileError, match="100,000"):
        check_seeds(list(range(100_001)), "seeds")
    with pytest.raises(UsageError, match="100,000"):
        parse_seeds("1-2000000000", "--seeds")
    assert time.monotonic() - began < 1


def test_a_sweep_of_more_runs_than_a_plan_holds_is_refused_at_once():
    values = ", ".join(f"a.f{number}: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]" for number in range(9))
    error = refused(GOOD.replace("lr: [0.1, 0.2]", values))
    assert error.expected == "at most 100,000 runs of a sweep"
    assert error.got == "1,000,000,000"


@pytest.mark.parametrize("path", ["/dev/zero", "pipe", "folder", "x" * 5000])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StudyFileError, match="expected a study file"):
        load_study(tmp_path / path)
    with pytest.raises(StudyFileError, match="expected the path of a configuration file"):
        find_base(tmp_path / "study.yaml", path)
