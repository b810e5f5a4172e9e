"""Tables of runs: Weights & Biases exports, CSV, JSON and JSON lines."""

import json

import pytest

from harness.results.logs import read_sides
from harness.results.logs.run_log import LogError


@pytest.fixture
def read(tmp_path):
    def call(name, text):
        (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text))
        (tmp_path / "other.csv").write_text("val_loss\n3\n")
        return read_sides([str(tmp_path / name)], [str(tmp_path / "other.csv")], {})[0]

    return call


def losses(runs):
    return [run.metrics["val_loss"] for run in runs]


def test_a_csv_with_a_row_a_run_gives_final_values_and_seeds(read):
    runs = read("a.csv", "run,seed,val_loss,train_time_s\nx,1,3.28,84.1\ny,2,3.27,84.3\n")
    assert losses(runs) == [3.28, 3.27]
    assert [(run.seed, run.metrics["train_time_s"]) for run in runs] == [(1, 84.1), (2, 84.3)]
    assert runs[1].source.endswith("a.csv, y")


def test_a_csv_with_a_row_an_evaluation_is_one_run_and_knows_when_it_is_cut(read):
    text = "step,planned_steps,val_loss\n250,1000,4.1\n500,1000,3.6\n"
    (run,) = read("a.csv", text)
    assert [at.step for at in run.evaluations] == [250, 500]
    assert (run.steps, run.ending) == (500, "it ends at step 500 of 1,000")
    assert len(read("b.csv", text + "250,1000,4.1\n1000,1000,3.3\n")) == 2


def test_a_weights_and_biases_summary_is_one_run(read):
    summary = {"_step": 1480, "_runtime": 99.5, "val/loss": 3.28, "_wandb": {"runtime": 99}}
    (run,) = read("wandb-summary.json", {**summary, "total_training_time": 84.5})
    assert run.metrics == {"val_loss": 3.28, "train_time_s": 84.5}
    assert run.steps == 1480


@pytest.mark.parametrize("form", ["history.csv", "history.jsonl", "history.json", "columns.json"])
def test_a_weights_and_biases_history_is_one_run_in_every_form(read, form):
    rows = [{"_step": 0, "train/loss": 9.0}, {"_step": 250, "val/bpb": 1.5, "val/loss": 4.0},
            {"_step": 500, "val/bpb": 1.3, "val/loss": 3.3}]  # fmt: skip
    if form == "history.csv":
        cells = [[str(row.get(name, "")) for name in rows[1] | rows[0]] for row in rows]
        text = "\n".join(",".join(line) for line in [list(rows[1] | rows[0]), *cells])
    elif form == "history.jsonl":
        text = "\n".join(map(json.dumps, rows))
    elif form == "history.json":
        text = json.dumps(rows)
    else:
        text = json.dumps({name: [row.get(name) for row in rows] for name in rows[1]})
    (run,) = read(form, text)
    assert run.metrics["val_loss"] == 3.3
    assert [(at.step, at.metrics["val_bpb"]) for at in run.evaluations] == [(250, 1.5), (500, 1.3)]


def test_the_csv_of_a_chart_has_one_run_a_column(read):
    text = '"Step","base-1 - val_loss","base-1 - val_loss__MIN","base-2 - val_loss"\n'
    runs = read("chart.csv", text + '250,"4.0","4.0","4.1"\n500,"3.28","3.28","3.29"\n')
    assert losses(runs) == [3.28, 3.29]
    assert [run.source.rpartition(", ")[2] for run in runs] == ["base-1", "base-2"]


def test_a_value_that_is_not_finite_is_a_divergence(read):
    (run,) = read("a.jsonl", '{"step": 1, "val_loss": 4.0}\n{"step": 2, "val_loss": NaN}\n')
    assert (run.diverged, run.metrics) == (True, {})


@pytest.mark.parametrize(
    ("name", "text", "got"),
    [
        ("a.csv", "epoch,colour\n1,red\n", "the columns epoch"),
        ("a.jsonl", "{half\n", "damaged content"),
        ("a.json", "[1, 2]", "values that are no rows"),
        ("a.json", "7", "values that are no rows"),
        ("a.json", '"x"', "values that are no rows"),
        ("a.json", "[" * 100_000, "damaged content"),
        ("a.json", '{"plan_id": ' + "[" * 100_000, "damaged content"),
        ("a.jsonl", "[" * 100_000, "damaged content"),
        ("a.json", '{"val_loss": ' + "9" * 5000 + "}", "damaged content"),
        ("a.json", '{"val_loss": [3, 4], "seed": [1]}', "damaged content"),
    ],
)
def test_a_table_without_a_metric_is_refused_with_its_columns(read, name, text, got):
    with pytest.raises(LogError, match=got):
        read(name, text)


def test_a_table_beside_logs_is_a_copy_and_not_read(modded_log, tmp_path):
    folder = modded_log("side/a.txt", 3.27).parent
    (folder / "runs.csv").write_text("val_loss\n3.27\n")
    other = modded_log("b.txt")
    assert losses(read_sides([str(folder)], [str(other)], {})[0]) == [3.27]


@pytest.mark.parametrize("column", ["step", "seed", "planned_steps"])
@pytest.mark.parametrize("shown", ["nan", "inf", "-inf"])
def test_a_step_or_seed_that_is_not_finite_is_unknown(read, column, shown):
    (run,) = read("a.csv", f"{column},val_loss\n{shown},3.2\n")
    assert (run.steps, run.seed, run.planned_steps, run.ending) == (0, None, None, None)
    assert run.metrics == {"val_loss": 3.2}


def test_a_loss_of_zero_or_below_is_no_measurement_and_a_huge_one_a_divergence(read):
    zero, below = read("a.csv", "run,val_loss\nx,0\ny,-3\n")
    assert (zero.metrics, below.metrics) == ({}, {})
    assert below.ending == "its last val_loss is -3, which is no measurement"
    (huge,) = read("a.json", '{"val_loss": ' + "9" * 400 + "}")
    assert huge.diverged


def test_cells_beyond_the_header_are_left_out(read):
    assert losses(read("a.csv", "Step,x - val_loss\n1,3.2,7\n")) == [3.2]
