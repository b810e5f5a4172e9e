"""`harness study` and `harness report`: exit codes, JSON on stdout, progress on stderr."""

import json

import pytest

from harness import errors


def test_the_json_of_a_study_is_all_that_stdout_has(harness, study_file, store):
    done = harness("study", study_file(seeds="[1]"), "--json")
    assert done.returncode == errors.PASS, done.stderr
    report = json.loads(done.stdout)
    assert report["attribution"]["study"] == "quick"
    assert "No arm can be compared" in report["answer"]
    assert "All runs are recorded." in done.stderr
    assert "quick: 0 of 3 runs are recorded." in done.stderr


def test_a_report_prints_json_or_markdown_and_writes_its_files(
    harness, study_file, store, tmp_path
):
    harness("study", study_file(), "--json")
    page, data = tmp_path / "page.html", tmp_path / "data.json"
    done = harness("report", "quick", "--json", "--out", page, "--json-file", data)
    assert json.loads(done.stdout) == json.loads(data.read_text())
    assert page.read_text().startswith("<!doctype html>")
    assert f"html: {page}" in done.stderr
    done = harness("report", "quick", "--markdown", "--no-html")
    assert done.stdout.startswith("### ")
    assert "| trick | runs |" in done.stdout
    assert not (store.report_dir("study", "quick") / "report.html").exists()


def test_details_are_printed_on_request(harness, study_file):
    harness("study", study_file(seeds="[1]"), "--json")
    assert "How the numbers are made\n" not in harness("report", "quick", "--no-html").stdout
    assert "How the numbers are made\n" in harness("report", "quick", "--details").stdout


def test_two_formats_at_once_are_refused(harness):
    assert harness("report", "quick", "--json", "--markdown").returncode == errors.USAGE


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_a_dry_run_of_a_study_whose_base_crashes_exits_4(harness, study_file, json_option):
    path = study_file(base="fail: {crash_at_step: 2}\n")
    done = harness("study", path, "--dry-run", *json_option)
    assert done.returncode == errors.COULD_NOT_RUN
    assert "crashed at step 2" in " ".join(done.stdout.split())
    if json_option:
        plan = json.loads(done.stdout)
        assert "crashed at step 2" in plan["blocked"][0]
        assert plan["budget"]["wall_s"] is None
    assert harness("study", path, "--dry-run", "--no-measure").returncode == errors.PASS


def test_two_files_of_a_report_have_two_names(harness, tmp_path):
    done = harness("report", "x", "--csv", tmp_path / "a", "--json-file", tmp_path / "b/../a")
    assert done.returncode == 2
    assert "--csv: expected a file of its own" in done.stderr
