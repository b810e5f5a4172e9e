"""`harness compare` and `harness noise` as a user types them."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import errors

ROOT = Path(__file__).resolve().parents[3]
LOSSES = (3.2784, 3.2790, 3.2777, 3.2788)


@pytest.fixture
def sides(modded_log, tmp_path):
    """Two folders of logs: a baseline, and a change that adds to the loss and to the time."""

    def write(loss=0.0, time=1.0, **of_b):
        for index, value in enumerate(LOSSES):
            modded_log(f"a/{index}.txt", round(value, 4), time_s=100 + index / 50, minute=2 * index)
            modded_log(
                f"b/{index}.txt",
                round(value + loss, 4),
                time_s=time * (100 + index / 40),
                minute=2 * index + 1,
                **of_b,
            )
        return [tmp_path / "a", "--", tmp_path / "b"]

    return write


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        ({}, errors.PASS, "PASS"),
        ({"loss": 0.01}, errors.REGRESSION, "REGRESSION"),
        ({"time": 1.02}, errors.REGRESSION, "REGRESSION"),
        ({"loss": 0.0012}, errors.INCONCLUSIVE, "INCONCLUSIVE"),
        ({"time": 0.9, "driver": "1.0"}, errors.INCONCLUSIVE, "refused"),
    ],
)
def test_the_exit_code_is_that_of_the_worst_metric(harness, sides, change, code, word):
    done = harness("compare", *sides(**change))
    assert done.returncode == code, done.stdout + done.stderr
    assert word in done.stdout


def test_the_terminal_shows_means_interval_margin_noise_and_mde(harness, sides, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    shown = harness("compare", *sides(loss=0.0012)).stdout
    for text in (
        "val_loss",
        "3.27",
        "[",
        "0.002",
        "more runs a side",
        "shipped noise model",
        "MDE",
    ):
        assert text in shown


def test_the_advice_is_a_command_line_that_the_next_reading_can_use(harness, sides):
    a, _, b = sides(loss=0.0012)
    argv = ("--metric", "val_loss", "--margin", "val_loss=0.002")
    done = harness("compare", *sorted(a.iterdir()), "--", b, *argv)
    value = json.loads(harness("compare", a, "--", b, *argv, "--json").stdout)
    again = value["next_command"]
    shown = again.replace(" --json", "")
    assert f"then: {shown}" in " ".join(done.stdout.split())
    assert again.startswith(f"harness compare {a} -- {b} --margin val_loss=0.002 --metric val_loss")
    assert again.endswith(" --json --seen 1")
    later = json.loads(harness(*shlex.split(again)[1:]).stdout)
    assert later["metrics"][0]["rule"].startswith("one pair, one-sided 99.5 % (reading 2")
    assert later["next_command"].endswith("--seen 2")


def test_a_settled_comparison_advises_nothing(harness, sides):
    assert json.loads(harness("compare", *sides(), "--json").stdout)["next_command"] is None


def test_a_store_counts_its_readings(harness, leave_run):
    runs = [leave_run(seed) for seed in (1, 2, 3, 4)]

    def seen(*sides):
        argv = ("--metric", "val_loss", "--sd", "val_loss=0.01", "--json")
        return json.loads(harness("compare", *sides, *argv).stdout)["seen"]

    first, pooled = (runs[0], "--", runs[1]), (runs[0], runs[2], "--", runs[1], runs[3])
    assert [seen(*first), seen(*first), seen(*pooled), seen(*first)] == [0, 0, 1, 0]
    assert seen(*pooled, "--seen", "3") == 3


def test_json_has_every_number_of_the_report(harness, sides):
    done = harness("compare", *sides(), "--json")
    value = json.loads(done.stdout)
    loss = next(item for item in value["metrics"] if item["metric"] == "val_loss")
    assert (value["outcome"], value["exit_code"], loss["n"]) == ("pass", 0, [4, 4])
    assert loss["low"] < loss["estimate"] < loss["high"]
    assert {"margin", "minimum_detectable", "more_runs", "noise_from", "sd", "df"} <= loss.keys()
    reading = "one pair, one-sided 96 % (reading 1, 0.04 of alpha 0.05)"
    assert loss["rule"] == f"{reading}; regressions by Holm over 2 metrics"
    assert value["answer"] == value["reason"]


def test_markdown_puts_the_outcome_first_and_one_row_a_metric(harness, sides):
    lines = harness("compare", *sides(loss=0.01), "--markdown").stdout.splitlines()
    assert lines[0].startswith("### ❌ regression")
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert any("| val_loss |" in line for line in table)


def test_options_are_accepted_before_between_and_after_the_sides(harness, sides):
    a, between, b = sides(loss=0.003)
    for argv in (
        ("--metric", "val_loss", "--margin", "val_loss=0.01", a, between, b),
        (a, "--metric", "val_loss", between, b, "--margin", "val_loss=0.01"),
    ):
        done = harness("compare", *argv)
        assert done.returncode == errors.PASS, done.stderr
        assert "train_time_s" not in done.stdout


def test_any_log_is_read_by_a_pattern(harness, tmp_path):
    for index, value in enumerate((0.50, 0.51, 0.50, 0.51)):
        for side, shift in (("a", 0.0), ("b", -0.2)):
            (tmp_path / f"{side}{index}.log").write_text(f"accuracy: {value + shift}\n")
    argv = [*tmp_path.glob("a?.log"), "--", *tmp_path.glob("b?.log")]
    argv += ["--regex", r"acc=accuracy: ([\d.]+)"]
    unknown = harness("compare", *argv)
    assert unknown.returncode == errors.INCONCLUSIVE
    assert "direction unknown" in unknown.stdout
    refused = harness("compare", *argv, "--margin", "acc=0.05")
    assert refused.returncode == errors.USAGE
    assert "--higher-better acc or --lower-better acc" in refused.stderr
    done = harness("compare", *argv, "--margin", "acc=0.05", "--higher-better", "acc")
    assert done.returncode == errors.REGRESSION, done.stderr
    done = harness("compare", *argv, "--margin", "acc=0.05", "--lower-better", "acc")
    assert done.returncode == errors.PASS, done.stderr


def test_arms_of_stored_studies_are_compared(harness, study_file, store):
    assert harness("study", study_file()).returncode == errors.PASS
    worse = study_file(study="worse", set="{value_embeddings: null}")
    assert harness("study", worse).returncode == errors.PASS
    argv = ("--margin", "val_loss=0.002", "--metric", "val_loss")
    done = harness("compare", f"{store.root}:quick", "--", f"{store.root}:worse", *argv)
    assert done.returncode == errors.REGRESSION, done.stdout + done.stderr
    done = harness("compare", f"{store.root}:quick", "--", f"{store.root}:quick/no_muon", *argv)
    assert done.returncode == errors.REGRESSION, done.stdout + done.stderr
    assert "measured noise model" in done.stdout or "the runs' own" in done.stdout


def test_a_run_directory_and_its_record_are_one_run(harness, study_file, store):
    harness("study", study_file())
    (record, other, *_) = sorted((store.root / "records").glob("*.json"))
    (run_dir,) = (store.root / "plans" / record.stem).glob("*/")
    value = json.loads(harness("compare", run_dir, "--", other, "--json").stdout)
    same = json.loads(harness("compare", record, "--", other, "--json").stdout)
    assert [item["means"] for item in value["metrics"]] == [
        item["means"] for item in same["metrics"]
    ]


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["A"], errors.USAGE, "two sides"),
        (["A", "--"], errors.USAGE, "two sides"),
        (["--", "A"], errors.USAGE, "two sides"),
        (["A", "--", "B", "--", "C"], errors.USAGE, "twice"),
        (["A", "--", "absent"], errors.USAGE, "no such file"),
        (["A", "--", "A"], errors.USAGE, "on one side"),
        (["A", "--", "EMPTY"], errors.COULD_NOT_RUN, "empty file"),
        (["A", "--", "B", "--margin", "val_loss=-1"], errors.USAGE, "above zero"),
        (["A", "--", "B", "--margin", "val_loss"], errors.USAGE, "above zero"),
        (["A", "--", "B", "--margin", "nothing=1"], errors.USAGE, "nothing"),
        (["A", "--", "B", "--alpha", "0.7"], errors.USAGE, "less than 0.5"),
        (["A", "--", "B", "--json", "--markdown"], errors.USAGE, "one format"),
        (["A", "--", "B", "--regex", "x=("], errors.USAGE, "regular expression"),
        (["STORE:absent", "--", "B"], errors.USAGE, "no such file"),
    ],
)
def test_a_wrong_command_line_ends_with_its_code_and_a_hint(
    harness, sides, tmp_path, argv, code, message
):
    a, _, b = sides()
    (tmp_path / "empty.txt").write_text("")
    places = {"A": a, "B": b, "C": b, "EMPTY": tmp_path / "empty.txt"}
    done = harness("compare", *[places.get(word, word) for word in argv])
    assert done.returncode == code, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def answered(leave_run):
    """Records of runs that evaluated CORE: a baseline, one that is worse, one on other examples."""
    changes = {"a": {}, "b": {"plant.skill": -0.6}, "other": {"core.bundle": "x"}}
    return {name: leave_run(seed, **change) for seed, (name, change) in enumerate(changes.items())}


def test_scores_are_compared_on_the_same_examples_and_state_what_that_covers(harness, answered):
    a, b = answered["a"], answered["b"]
    shown = harness("compare", a, "--", b).stdout
    for text in ("same 600 examples", "over examples", "between seeds is not included", "p "):
        assert text in " ".join(shown.split())
    assert "colours" not in shown
    by_task = harness("compare", a, "--", b, "--core").stdout
    assert all(name in by_task for name in ("colours", "endings", "Holm", "only A, B"))
    value = json.loads(harness("compare", a, "--", b, "--json").stdout)["core"]
    assert [one["high"] < 0 for one in value["totals"]] == [True, True]
    assert len(value["tasks"]) == 6
    table = harness("compare", a, "--", b, "--core", "--markdown").stdout
    assert "| colours | 100 |" in table


def test_a_run_directory_and_its_record_have_the_same_answers(harness, answered):
    a, b = answered["a"], answered["b"]
    (run_dir,) = a.parents[1].glob(f"plans/{a.stem}/*/")
    values = [json.loads(harness("compare", one, "--", b, "--json").stdout) for one in (a, run_dir)]
    assert values[0]["core"] == values[1]["core"] is not None


def test_a_stated_noise_between_runs_widens_the_interval(harness, answered):
    a, b = answered["a"], answered["b"]
    value = json.loads(harness("compare", a, "--", b, "--json", "--sd", "core=0.02").stdout)
    hard, soft = value["core"]["totals"]
    assert hard["wide_low"] < hard["low"] < hard["high"] < hard["wide_high"]
    assert soft["wide_low"] is None


def test_scores_of_another_evaluation_are_refused_and_the_loss_is_not(harness, answered):
    a, b = answered["a"], answered["other"]
    done = harness("compare", a, "--", b)
    assert done.returncode == errors.COULD_NOT_RUN
    assert "core.bundle" in done.stderr
    assert "--metric val_bpb" in done.stderr
    assert "val_bpb" in harness("compare", a, "--", b, "--metric", "val_bpb").stdout


def test_answers_that_are_damaged_are_named(harness, answered):
    file = answered["b"].parents[1] / "core" / f"{answered['b'].stem}.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    done = harness("compare", answered["a"], "--", answered["b"])
    assert done.returncode == errors.COULD_NOT_RUN
    assert str(file) in done.stderr


def test_answers_of_another_run_are_refused(harness, answered):
    folder = answered["b"].parents[1] / "core"
    swapped = folder / f"{answered['b'].stem}.parquet"
    swapped.write_bytes((folder / f"{answered['a'].stem}.parquet").read_bytes())
    done = harness("compare", answered["a"], "--", answered["b"])
    assert done.returncode == errors.COULD_NOT_RUN
    assert "answers that give the core of their record" in done.stderr


def test_answers_that_were_not_kept_are_reported_or_refused(harness, answered, tmp_path):
    alone = tmp_path / answered["b"].name
    alone.write_bytes(answered["b"].read_bytes())
    done = harness("compare", answered["a"], "--", alone)
    assert "side B kept no answers to CORE" in done.stdout
    done = harness("compare", answered["a"], "--", alone, "--core")
    assert done.returncode == errors.COULD_NOT_RUN
    assert "side B" in done.stderr


def test_a_store_of_several_configurations_asks_for_an_arm(harness, study_file, store, sides):
    harness("study", study_file())
    done = harness("compare", store.root, "--", sides()[0])
    assert done.returncode == errors.USAGE
    assert "STUDY/ARM" in done.stderr
    done = harness("compare", f"{store.root}:quick/none", "--", sides()[0])
    assert "no_muon" in done.stderr


def test_the_noise_model_is_shown_with_what_is_missing_and_kept_on_request(
    harness, study_file, store, tmp_path
):
    harness("study", study_file())
    done = harness("noise", "--write", tmp_path / "noise.csv")
    assert done.returncode == errors.PASS, done.stderr
    for text in ("gpt2-small", "missing: fake", "more seed", "own"):
        assert text in done.stdout
    kept = harness("noise", "--noise-model", tmp_path / "noise.csv")
    assert "own" in kept.stdout


def test_noise_as_json_has_every_row_and_what_is_missing(harness, study_file, store):
    harness("study", study_file())
    value = json.loads(harness("noise", "--json").stdout)
    assert {"scale", "metric", "gpu", "source", "sd", "df", "origin"} <= value["rows"][0].keys()
    assert any(row["origin"] == "shipped" for row in value["rows"])
    assert any(line.startswith("fake") for line in value["missing"])


def test_a_comparison_takes_less_than_two_seconds_of_a_fresh_process(sides, tmp_path):
    argv = [str(word) for word in sides()]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "harness", "compare", *argv, "--store", str(tmp_path / "none")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == errors.PASS, done.stderr
    assert time.perf_counter() - started < 6  # a shared machine; 0.8 s on a quiet one


def test_no_heavy_library_is_imported_for_a_comparison(sides, tmp_path):
    argv = ["harness", "compare", *map(str, sides()), "--store", str(tmp_path / "none")]
    code = (
        f"import sys; sys.argv = {argv!r}\n"
        "from harness.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = ('pandas', 'plotly', 'matplotlib', 'torch', 'pyarrow', 'scipy.stats')\n"
        "print('loaded:', [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "loaded: []" in done.stdout


def test_targets_and_the_exchange_rate_are_options(harness, sides):
    argv = ("--target", "val_loss=3.28", "--target-p", "0.05", "--exchange", "-0.002")
    done = harness("compare", *sides(loss=-0.004, time=1.01), *argv)
    shown = " ".join(done.stdout.split())
    assert "val_loss 3.28000, p < 0.05" in shown
    assert "met" in shown
    assert "exchange rate stated: 0.002 nats for 1 % of time" in shown
    value = json.loads(harness("compare", *sides(loss=-0.004, time=1.01), *argv, "--json").stdout)
    total = next(one for one in value["metrics"] if one["metric"] == "equal_loss_time")
    assert total["estimate"] < 0
    assert [one["side"] for one in value["targets"]] == ["A", "B"]


def test_the_horizons_of_a_study_are_an_exchange_rate(harness):
    study = ROOT / "baselines" / "published"
    argv = (f"{study}:speedrun-d8/base", "--", f"{study}:speedrun-d8/no_windows", "--json")
    value = json.loads(harness("compare", *argv).stdout)
    total = next(one for one in value["metrics"] if one["metric"] == "equal_loss_time")
    assert "horizons of speedrun-d8" in total["notes"][0]
