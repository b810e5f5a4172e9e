"""The Python API: its public names are frozen, and its numbers are those of the commands."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import harness
from harness.__main__ import main
from harness.errors import StoreError, StudyFileError, UsageError
from harness.study.executor import SilentListener

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "baselines" / "published"
STUDY = "speedrun-d8"
SIGNATURES = {
    "attribution": "(study)",
    "compare": (
        "(a, b, *, margins=None, alpha=0.05, metrics=(), sds=None, patterns=None, "
        "higher_better=(), lower_better=(), noise=None, seen=0, exchange=None, "
        "targets=None, target_p=0.01)"
    ),
    "load_curves": "(store, *, study=None)",
    "load_records": "(store, *, study=None, all_attempts=False)",
    "load_study": "(store, name)",
    "noise_model": "(store='runs', file='baselines/noise.csv')",
    "run_study": (
        "(path, store='runs', *, overrides=None, seeds=None, name=None, gpus=(), "
        "max_minutes=None, rerun=False, listener=None)"
    ),
}
MEMBERS = {
    "Attribution": {"result", "to_frame"},
    "Comparison": {"outcome", "reason", "result", "to_frame", "to_markdown"},
    "NoiseModel": {"rows", "to_frame"},
    "Study": {"arms", "complete", "curves", "name", "plan", "question", "records", "store"},
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No store and no noise file of the folder that pytest was started in is read."""
    monkeypatch.chdir(tmp_path)


def signature_of(function: object) -> str:
    """Parameters with their defaults, without types."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
    ]
    return str(inspect.Signature(parameters))


def test_public_names_and_signatures_do_not_change() -> None:
    assert set(harness.__all__) == {*SIGNATURES, *MEMBERS, "__version__"}
    assert {name: signature_of(getattr(harness, name)) for name in SIGNATURES} == SIGNATURES


@pytest.mark.parametrize("name", MEMBERS)
def test_public_members_of_results_do_not_change(name: str) -> None:
    kind = getattr(harness, name)
    public = {*vars(kind), *kind.__dataclass_fields__}
    assert {member for member in public if not member.startswith("_")} == MEMBERS[name]


@pytest.mark.parametrize("name", [*SIGNATURES, "Comparison.to_frame", "Attribution.to_frame"])
def test_every_function_documents_what_it_returns(name: str) -> None:
    of = harness
    for part in name.split("."):
        of = getattr(of, part)
    sections = ["Returns"] if "." in name else ["Parameters", "Returns", "Examples"]
    text = inspect.getdoc(of) or ""
    assert [section for section in sections if f"{section}\n---" not in text] == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, harness; harness.__version__; assert 'load_records' in dir(harness); "
        "print([m for m in ('pandas', 'numpy', 'msgspec', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'load_record'"):
        _ = harness.load_record


def test_records_have_one_row_a_run_with_units() -> None:
    records = harness.load_records(PUBLISHED, study=STUDY)
    plan = harness.load_study(PUBLISHED, STUDY).plan
    assert sorted(records["plan_id"]) == sorted({run.plan_id for run in plan.runs})
    assert set(records["status"]) == {"completed"}
    assert records["val_bpb"].between(1, 2).all()
    assert records["started_at"].dt.tz is not None
    assert records.attrs["units"]["val_bpb"] == "bpb"
    assert records.attrs["units"]["train_time_s"] == "s"
    timed = [name for name in records if name.endswith("_s") and name != "tokens_per_s"]
    assert [name for name in timed if records.attrs["units"].get(name) != "s"] == []


def test_records_without_a_study_are_all_of_the_store() -> None:
    records = harness.load_records(PUBLISHED, all_attempts=True)
    assert len(records) == len(list((PUBLISHED / "records").glob("*.json")))
    assert set(harness.load_records(PUBLISHED)["plan_id"]) == set(records["plan_id"])


def test_curves_end_where_the_records_do() -> None:
    records = harness.load_records(PUBLISHED, study=STUDY).set_index("plan_id")
    last = harness.load_curves(PUBLISHED, study=STUDY).groupby("plan_id")["val_bpb"].last()
    assert last.to_dict() == pytest.approx(records["val_bpb"].to_dict())


def test_a_folder_that_is_no_store_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"a store: a folder with records/.*no such folder"):
        harness.load_records(tmp_path / "nothing")
    with pytest.raises(StoreError, match=r"a study called 'speedrun'.*speedrun-d8"):
        harness.load_study(PUBLISHED, "speedrun")


def test_the_attribution_of_a_name_is_refused_with_how_to_load_the_study() -> None:
    with pytest.raises(UsageError, match=r"'speedrun-d8'.*load_study\(STORE, NAME\)"):
        harness.attribution(STUDY)


def test_an_attribution_has_the_numbers_of_the_report(tmp_path: Path) -> None:
    effects = harness.attribution(harness.load_study(PUBLISHED, STUDY)).to_frame()
    with pytest.raises(SystemExit) as ended:
        run(["report", STUDY, "--store", str(PUBLISHED), "--no-html", "--csv", "report.csv"])
    assert ended.value.code == 0
    report = pd.read_csv("report.csv")
    report = report[report["method"] != "exact"]
    both = effects.merge(report, on=["arm", "metric"], suffixes=("", "_report"))
    assert len(both) == len(effects) == len(report)
    for column in ("estimate", "low", "high", "minimum_detectable"):
        pd.testing.assert_series_equal(
            both[column].astype(float), both[f"{column}_report"], check_names=False
        )


def run(arguments: list[str]) -> None:
    """The command line, in this process."""
    sys.argv = ["harness", *arguments]
    main()


def test_a_comparison_has_the_numbers_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    sides = [f"{PUBLISHED}:{STUDY}/{arm}" for arm in ("base", "no_windows")]
    found = harness.compare(*sides, margins={"val_bpb": 0.002})
    with pytest.raises(SystemExit) as ended:
        run(["compare", sides[0], "--", sides[1], "--json", "--margin", "val_bpb=0.002"])
    answer = json.loads(capsys.readouterr().out)
    assert ended.value.code == found.result.exit_code
    assert (answer["outcome"], answer["reason"]) == (found.outcome, found.reason)
    frame = found.to_frame().set_index("metric")
    for metric in answer["metrics"]:
        row = frame.loc[metric["metric"]]
        assert row["estimate"] == metric["estimate"]
        assert [row["n_a"], row["n_b"]] == metric["n"]
        assert (None if pd.isna(row["outcome"]) else row["outcome"]) == metric["outcome"]
    assert frame.loc["val_bpb", "margin"] == 0.002
    assert "| val_bpb |" in found.to_markdown()
    assert "<table" in found._repr_html_()


def test_rows_of_a_frame_are_compared_as_the_arms_they_are() -> None:
    records = harness.load_records(PUBLISHED, study=STUDY)
    sides = [records[records["arm"] == arm] for arm in ("base", "no_windows")]
    by_rows = harness.compare(*sides).to_frame()
    by_arms = harness.compare(
        *(f"{PUBLISHED}:{STUDY}/{arm}" for arm in ("base", "no_windows"))
    ).to_frame()
    of_study = by_arms["metric"] == "equal_loss_time"  # its horizons are an exchange rate
    pd.testing.assert_frame_equal(by_rows, by_arms[~of_study], check_dtype=False)


def test_globs_and_patterns_read_any_log(tmp_path: Path) -> None:
    for side, losses in (("a", (3.0, 3.1)), ("b", (3.5, 3.6))):
        for number, loss in enumerate(losses):
            (tmp_path / f"{side}{number}.txt").write_text(f"final loss: {loss}\n")
    found = harness.compare(
        "a*.txt",
        "b*.txt",
        patterns={"val_loss": r"loss: ([0-9.]+)"},
        margins={"val_loss": 0.01},
        noise=harness.noise_model(store=None, file=None),
    )
    assert list(found.to_frame()["n_a"]) == [2]
    assert found.outcome == "regression"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.5}, "a number above 0 and below 0.5"),
        ({"margins": {"val_bpb": 0}}, "a number above 0"),
        ({"seen": -1}, "a whole number from 0 to 30"),
        ({"seen": 60}, "a whole number from 0 to 30"),
        ({"exchange": float("nan")}, "a loss other than 0"),
        ({"target_p": 5.0}, "below 1; got 5"),
        ({"targets": {"val_bpb": float("nan")}}, "got nan"),
        ({"margins": {"no_metric": 1.0}}, "a metric that the logs have"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        harness.compare(f"{PUBLISHED}:{STUDY}/base", f"{PUBLISHED}:{STUDY}/no_muon", **arguments)


def test_a_frame_without_the_columns_that_name_runs_is_refused() -> None:
    records = harness.load_records(PUBLISHED, study=STUDY)
    with pytest.raises(UsageError, match=r"one without store, attempt"):
        harness.compare(records[["plan_id", "val_bpb"]], records)
    with pytest.raises(UsageError, match=r"b: expected at least one run; got none"):
        harness.compare(f"{PUBLISHED}:{STUDY}/base", records[records["arm"] == "no_such"])


def test_the_noise_model_has_shipped_rows_and_those_of_a_store() -> None:
    shipped = harness.noise_model(store=None, file=None).to_frame()
    assert set(shipped["origin"]) == {"shipped"}
    assert (shipped["sd"] > 0).all()
    measured = harness.noise_model(store=PUBLISHED, file=None).to_frame()
    assert "measured" in set(measured["origin"])


def test_a_study_runs_without_a_terminal_and_resumes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "ablations" / "studies" / "fake.yaml"
    with pytest.warns(UserWarning, match="study quick: "):
        stopped = harness.run_study(path, "runs", name="quick", seeds=[1], max_minutes=1e-6)
    assert not stopped.complete
    listener = Listener()
    study = harness.run_study(path, "runs", name="quick", seeds=[1], listener=listener)
    assert study.complete
    assert listener.ended_runs == len(study.records()) == len({r.plan_id for r in study.plan.runs})
    assert len(study.curves()) > 0
    effects = harness.attribution(study).to_frame()
    assert set(effects.loc[effects["metric"] == "val_bpb", "n_base"]) == {1}
    assert capfd.readouterr().out == ""


class Listener(SilentListener):
    """Counts the runs that end."""

    ended_runs = 0

    def run_ended(self, *_: object) -> None:
        self.ended_runs += 1


def test_a_study_file_that_is_missing_is_refused() -> None:
    with pytest.raises(StudyFileError):
        harness.run_study("no_such_study.yaml")
