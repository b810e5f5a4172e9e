"""The command line: its exit codes and messages."""

import json
import subprocess
import sys

import pytest

from harness import errors
from harness.__main__ import main
from harness.results.record import Record
from harness.results.store import Store


def test_help_names_every_command(harness):
    done = subprocess.run(
        [sys.executable, "-m", "harness", "--help"], capture_output=True, text=True, check=True
    )
    for name in ("run", "study", "full", "report", "compare", "noise", "doctor", "pack", "unpack"):
        assert f"  {name} " in done.stdout


def test_a_dry_run_records_nothing_and_prints_the_plan(harness, study_file, store):
    done = harness("study", study_file(), "--dry-run", "--price", "3")
    assert done.returncode == errors.PASS, done.stderr
    for part in (
        "runs: 6",
        "time: about",
        "cost:",
        "memory:",
        "Minimum detectable effect",
        "no_muon",
    ):
        assert part in done.stdout
    assert store.records() == []
    assert not store.study_path("quick").exists()


def test_a_dry_run_without_measuring_reports_an_unknown_time(harness, study_file):
    done = harness("study", study_file(), "--dry-run", "--no-measure")
    assert "time: unknown" in done.stdout
    assert "cost: unknown" in done.stdout


def test_one_run_is_recorded_once(harness, study_file, store):
    base = study_file().parent / "base.yaml"
    argv = ("run", base, "--trainer", "fake", "--set", "dial.depth=3", "--seed", "5")
    assert harness(*argv).returncode == errors.PASS
    done = harness(*argv)
    assert "It was recorded earlier" in done.stdout
    (made,) = store.records()
    assert (made.seed, made.derived["steps"], made.launch.study) == (5, 20, None)
    assert harness(*argv, "--rerun").returncode == errors.PASS
    assert len(store.records()) == 2


def test_a_run_of_a_study_and_the_same_run_alone_are_one_record(harness, study_file, store):
    path = study_file()
    harness("run", path.parent / "base.yaml", "--trainer", "fake", "--seed", "1")
    assert harness("study", path).returncode == errors.PASS
    assert len(store.records()) == 6


@pytest.mark.parametrize(
    ("overrides", "code", "status"),
    [
        (["fail.crash_at_step=2"], errors.COULD_NOT_RUN, "failed"),
        (["fail.diverge_at_step=2"], errors.COULD_NOT_RUN, "diverged"),
        (["fail.exit_code=7"], errors.PASS, "completed"),
        (["fail.nan_metric=true"], errors.PASS, "completed"),
    ],
)
def test_a_run_reports_how_it_ended(harness, study_file, store, overrides, code, status):
    base = study_file().parent / "base.yaml"
    sets = [text for override in overrides for text in ("--set", override)]
    done = harness("run", base, "--trainer", "fake", *sets)
    assert done.returncode == code, done.stdout
    (made,) = store.records()
    assert made.status == status
    assert (made.reason or "") in " ".join(done.stdout.split("\n"))
    assert isinstance(made, Record)


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["study", "absent.yaml"], errors.USAGE),
        (["study"], errors.USAGE),
        (["study", "FILE", "--seeds", "a"], errors.USAGE),
        (["study", "FILE", "--set", "nonsense"], errors.USAGE),
        (["study", "FILE", "--name", "a/b"], errors.USAGE),
        (["study", "FILE", "--wrong"], errors.USAGE),
        (["run", "absent.yaml"], errors.USAGE),
        (["run", "FILE", "--trainer", "fakee"], errors.USAGE),
        (["report", "absent"], errors.COULD_NOT_RUN),
        (["unpack", "absent.tar"], errors.COULD_NOT_RUN),
        (["pack", "out.tar"], errors.USAGE),
    ],
)
def test_wrong_usage_has_its_exit_code_and_no_traceback(harness, study_file, argv, code):
    file = study_file()
    done = harness(*[str(file) if text == "FILE" else text for text in argv])
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr


def test_an_unexpected_error_ends_with_4_and_its_traceback_in_a_file(monkeypatch, store, capfd):
    def broken(store: Store) -> None:
        raise IndexError("a fault of the harness")

    monkeypatch.setattr(Store, "records", broken)
    monkeypatch.setattr(sys, "argv", ["harness", "noise", "--store", str(store.root)])
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == errors.COULD_NOT_RUN
    written = capfd.readouterr().err
    assert "unexpected IndexError: a fault of the harness" in written
    place = written.strip().rpartition(" ")[2]
    with open(place) as handle:
        assert "Traceback" in handle.read()


def test_a_packed_store_is_merged_and_known_records_are_counted(harness, study_file, tmp_path):
    harness("run", study_file().parent / "base.yaml", "--trainer", "fake")
    assert "Packed" in harness("pack", tmp_path / "a.tar").stdout
    assert "known records: 1" in harness("unpack", tmp_path / "a.tar").stdout
    packed = json.loads(harness("pack", tmp_path / "a.tar", "--json").stdout)
    assert packed["bytes"] == (tmp_path / "a.tar").stat().st_size
    assert json.loads(harness("unpack", tmp_path / "a.tar", "--json").stdout)["known"] == 1


def test_a_run_and_the_doctor_reply_in_json(harness, study_file, store):
    argv = ("run", study_file().parent / "base.yaml", "--trainer", "fake", "--json")
    first, again = (json.loads(harness(*argv).stdout) for _ in range(2))
    assert (first["status"], first["new"], again["new"]) == ("completed", True, False)
    assert first["metrics"] == again["metrics"] == store.records()[0].metrics
    doctor = json.loads(harness("doctor", "--trainer", "fake", "--json").stdout)
    missing = [check["name"] for check in doctor["checks"] if check["needed"] and not check["good"]]
    assert doctor["missing"] == missing
    assert doctor["can_run_smoke_study"] is (not missing)


def test_the_doctor_checks_the_fake_trainer(harness, store):
    done = harness("doctor", "--trainer", "fake")
    assert done.returncode in (errors.PASS, errors.COULD_NOT_RUN)
    assert "back-end formula" in done.stdout
    assert ("cannot run" in done.stdout) == (done.returncode == errors.COULD_NOT_RUN)
    assert not store.root.exists()


def test_a_run_is_printed_with_the_units_and_decimals_of_each_metric(harness, study_file):
    study_file()
    base = study_file().parent / "base.yaml"
    lines = harness("run", base, "--trainer", "fake").stdout.splitlines()
    shown = dict(line.split(None, 1) for line in lines if line.startswith("  "))
    assert shown["peak_memory_bytes"].endswith(" MiB")
    assert len(shown["val_bpb"].partition(".")[2]) == 5


@pytest.mark.parametrize(
    ("option", "value"),
    [("--seeds", "x"), ("--gpus", "x"), ("--max-minutes", "-1"), ("--price", "-3")],
)
def test_the_error_for_a_wrong_value_names_its_option(harness, study_file, option, value):
    done = harness("study", study_file(), option, value)
    assert done.returncode == errors.USAGE
    assert option in done.stderr


def test_the_doctor_names_a_study_of_the_trainer_that_it_checked(harness):
    assert "studies/fake.yaml" in harness("doctor", "--trainer", "fake").stdout.splitlines()[0]


def test_a_store_that_is_a_file_is_an_error_of_the_user(store, harness):
    store.root.write_text("a file")
    done = harness("report", "quick")
    assert done.returncode == errors.USAGE
    assert "expected the folder of a store; got the file" in done.stderr


def test_a_faulty_configuration_is_named_once(harness, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("dial: [1\n")
    done = harness("run", path, "--trainer", "fake")
    assert done.returncode == errors.USAGE
    assert done.stderr.count("bad.yaml") == 1
    assert done.stderr.count("\n") == 1


def test_a_number_of_steps_below_one_is_refused_by_the_simulated_trainer(harness, study_file):
    done = harness("study", study_file(), "--dry-run", "--set", "dial.steps=-5")
    assert done.returncode == errors.USAGE
    assert "dial.steps" in done.stderr
