"""Readers of logs: the numbers of each format, several runs in a file, incomplete logs."""

import math
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.results.logs import read_sides, regex
from harness.results.logs.run_log import LogError

SAMPLES = Path(__file__).parents[4] / ".." / "shared" / "noise" / "samples"
needs_samples = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="the raw logs are not on this machine"
)


def read(*paths, patterns=None):
    other = Path(paths[0]).parent / "other.txt"
    other.write_text("x=1\n")
    return read_sides(
        [str(path) for path in paths],
        [str(other)],
        {**regex.parse(["x=x=([0-9.]+)"]), **(patterns or {})},
    )[0]


# --- modded-nanogpt -------------------------------------------------------------------------------


def test_modded_nanogpt_logs_give_final_loss_time_and_tail_step(modded_log):
    (run,) = read(modded_log("a.txt", 3.2784, time_s=84.0))
    assert run.metrics["val_loss"] == 3.2784
    assert run.metrics["train_time_s"] == 84.0
    assert run.metrics["step_ms"] == pytest.approx(84.0)
    assert run.metrics["peak_memory_bytes"] == 29148 * 2**20
    assert (run.steps, run.planned_steps, run.ending) == (1000, 1000, None)


def test_modded_nanogpt_logs_give_their_environment(modded_log):
    (run,) = read(modded_log("a.txt"))
    assert run.environment_known
    assert run.environment["GPUs"] == "2x NVIDIA H100 80GB HBM3"
    assert run.environment["driver"] == "570.211.01"
    assert (run.gpu, run.scale) == ("NVIDIA H100 80GB HBM3", "gpt2-small")


def test_several_runs_in_one_file_are_several_runs(modded_log):
    second = "\n".join(
        f"step:{step}/1000 val_loss:3.29 train_time:{step}ms" for step in (250, 1000)
    )
    runs = read(modded_log("a.txt", 3.27, extra=second))
    assert [run.metrics["val_loss"] for run in runs] == [3.27, 3.29]
    assert runs[1].source.endswith("run 2")


def test_an_incomplete_log_is_a_run_with_the_reason(modded_log):
    (run,) = read(modded_log("a.txt", stop=612))
    assert run.ending == "it ends at step 612 of 1,000"


def test_an_incomplete_last_line_is_ignored(modded_log):
    path = modded_log("a.txt")
    whole = path.read_text()
    cut = whole.index("val_loss:3.28") + len("val_loss:3.2")
    path.write_text(whole[:cut])
    (run,) = read(path)
    assert (run.evaluated_at, run.metrics["val_loss"]) == (750, 4.0)
    assert run.ending == "it ends at step 1,000 of 1,000 before its evaluation"


def test_a_loss_that_is_not_a_number_counts_as_divergence(modded_log):
    (run,) = read(modded_log("a.txt", "nan"))
    assert run.diverged
    assert "val_loss" not in run.metrics


def test_a_clock_that_goes_backwards_gives_no_times(modded_log):
    path = modded_log("a.txt")
    path.write_text(path.read_text().replace("4.0000 train_time:75000ms", "4.0 train_time:1ms"))
    (run,) = read(path)
    assert "train_time_s" not in run.metrics
    assert "val_loss" in run.metrics
    assert any("clock goes backwards at step 750" in warning for warning in run.warnings)


def test_a_loss_of_zero_or_below_is_no_measurement(modded_log):
    for shown in ("0.0000", "-3.2"):
        (run,) = read(modded_log("a.txt", shown))
        assert ("val_loss" in run.metrics, run.diverged) == (False, False)
        assert run.ending == f"its last val_loss is {float(shown):g}, which is no measurement"
        assert [at.step for at in run.evaluations] == [250, 500, 750]


LAST = "step:1000/1000 val_loss:3.28 train_time:"


@pytest.mark.parametrize(
    ("line", "known"),
    [
        (f"{LAST}1.2.3ms", {"val_loss": 3.28}),
        (f"{LAST}{'9' * 400}ms", {"val_loss": 3.28}),
        (f"{LAST}5000ms step_avg:5..0ms", {"val_loss": 3.28, "train_time_s": 5.0}),
        (f"{LAST}5000ms\npeak memory allocated: {'9' * 5000} MiB",
         {"val_loss": 3.28, "train_time_s": 5.0}),
        ("step:1000/1000 val_loss:three train_time:5000ms", {"train_time_s": 5.0}),
        (f"{LAST}5000ms\nstep:{'9' * 5000}/1000 val_loss:1",
         {"val_loss": 3.28, "train_time_s": 5.0}),
    ],
)  # fmt: skip
def test_a_malformed_number_of_modded_nanogpt_is_an_unknown_one(tmp_path, line, known):
    path = tmp_path / "a.txt"
    path.write_text(f"{line}\n")
    (run,) = read(path)
    assert run.metrics == known
    assert run.diverged == ("val_loss" not in known)


# --- nanochat -------------------------------------------------------------------------------------


def test_nanochat_logs_give_bpb_core_time_speed_and_memory(nanochat_log):
    (run,) = read(nanochat_log("a.log", 1.322556, core=0.1234))
    assert run.metrics["val_bpb"] == 1.322556
    assert run.metrics["core"] == 0.1234
    assert run.metrics["train_time_s"] == pytest.approx(10 * 0.2)  # its clock skips ten steps
    assert run.metrics["tokens_per_s"] == pytest.approx(262_144 / 0.2)
    assert run.metrics["peak_memory_bytes"] == pytest.approx(28956.58 * 2**20)


def test_nanochat_replicates_show_nondeterminism_and_an_unknown_environment(nanochat_log):
    (run,) = read(nanochat_log("a.log"))
    assert run.varied == "nondeterminism"
    assert not run.environment_known
    assert run.gpu == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("layers", "ratio", "scale", "full"),
    [
        (24, 8.0, "nanochat d24", True),
        (12, 11.0, "nanochat d12", False),
        (8, 1.5, "nanochat d8, 63M tokens", False),
    ],
)
def test_a_short_run_is_another_recipe(nanochat_log, layers, ratio, scale, full):
    (run,) = read(nanochat_log("a.log", layers=layers, ratio=ratio))
    assert (run.scale, run.full_scale) == (scale, full)


def test_a_nanochat_log_that_is_incomplete_or_diverged_has_the_reason(nanochat_log):
    (cut,) = read(nanochat_log("a.log", stop=13))
    assert cut.ending == "it ends at step 13 of 20"
    (nan,) = read(nanochat_log("b.log", "nan"))
    assert nan.diverged


def test_an_incomplete_number_at_the_end_of_a_nanochat_log_is_ignored(nanochat_log):
    path = nanochat_log("a.log", 1.322556)
    whole = path.read_text()
    path.write_text(whole[: whole.index("1.322556") + 4])
    (run,) = read(path)
    assert run.metrics["val_bpb"] == 3.157030
    assert run.ending == "it ends at step 20 of 20 before its evaluation"


def test_a_negative_step_time_gives_no_times(nanochat_log):
    (run,) = read(nanochat_log("a.log", dt_ms=-3.0))
    assert not {"train_time_s", "tokens_per_s"} & run.metrics.keys()
    assert run.warnings


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        ("dt: 200.00ms", "dt: -.-ms", ["train_time_s", "tokens_per_s"]),
        ("total time: 0.02m", "total time: 0.0.2m", []),
        ("size 262,144", "size ,", ["tokens_per_s"]),
        ("ratio: 1.50", "ratio: ..", []),
        ("2026-11-22 07", "2026-99-99 07", []),
        ("usage: 28956.58MiB", "usage: ..MiB", ["peak_memory_bytes"]),
        ("usage: 28956.58MiB", "usage: 1MiB\nTotal training time: ..m", []),
        ("size: 1\n", f"size: {'9' * 5000}\n", []),
        ("step 00020/00020", f"step {'9' * 5000}/00020", []),
    ],
)
def test_a_malformed_number_of_nanochat_is_an_unknown_one(nanochat_log, old, new, lost):
    path = nanochat_log("a.log")
    (plain,) = read(path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    (run,) = read(path)
    assert sorted(plain.metrics.keys() - run.metrics.keys()) == sorted(lost)
    assert run.metrics["val_bpb"] == plain.metrics["val_bpb"]


# --- any other ------------------------------------------------------------------------------------


def test_a_pattern_reads_the_last_match_of_any_log(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("epoch 1 loss 3.5\nepoch 2 loss 3.25\n")
    (run,) = read(path, patterns=regex.parse([r"val_loss=loss ([\d.]+)"]))
    assert run.metrics["val_loss"] == 3.25


def test_a_pattern_adds_a_number_to_a_known_format(modded_log):
    path = modded_log("a.txt", extra="final bleu 0.31\n")
    (run,) = read(path, patterns=regex.parse([r"bleu=bleu ([\d.]+)"]))
    assert {"val_loss", "bleu"} <= run.metrics.keys()


@pytest.mark.parametrize("word", ["val_loss", "x=(", "x=abc", "x=(a)(b)", "a b=(c)"])
def test_a_pattern_without_a_number_is_rejected(word):
    with pytest.raises(UsageError):
        regex.parse([word])


def test_nan_read_by_a_pattern_counts_as_divergence(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("loss nan\n")
    (run,) = read(path, patterns=regex.parse([r"val_loss=loss (\S+)"]))
    assert run.diverged
    assert not any(math.isnan(value) for value in run.metrics.values())


# --- files that are no logs -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file"),
        (" \n\n", "an empty file"),
        ("hello\n", "another format"),
        ("step:1/10 train_time:5ms step_avg:5ms\n", "training steps only"),
        ("step 00001/00020 (5%) | loss: 1 | dt: 3.00ms |\n", "training steps only"),
    ],
)
def test_a_file_without_a_result_is_an_error_with_a_hint(tmp_path, text, message):
    path = tmp_path / "a.log"
    path.write_text(text)
    with pytest.raises(LogError, match=message) as error:
        read(path)
    assert error.value.hint


def test_a_folder_without_logs_and_a_path_without_a_file_are_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(LogError, match="no file that ends with"):
        read(tmp_path / "empty")
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "absent")


def test_a_run_may_be_named_once_only(modded_log):
    path = str(modded_log("a.txt"))
    with pytest.raises(UsageError, match="side A and on side B"):
        read_sides([path], [path], {})
    with pytest.raises(UsageError, match="twice on side A"):
        read_sides([path, path], ["other"], {})


def test_a_binary_file_is_an_error_and_not_a_traceback(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(bytes(range(256)) * 10)
    with pytest.raises(LogError, match="another format"):
        read(path)


# --- real logs ------------------------------------------------------------------------------------


@needs_samples
def test_the_modded_nanogpt_samples_have_the_published_numbers():
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(SAMPLES.parent / "runs.parquet").to_pylist()
    known = {row["file_name"]: row for row in table}
    for record in sorted((SAMPLES / "modded-nanogpt").iterdir()):
        sides = read_sides(*[[str(folder)] for folder in sorted(record.iterdir())], {})
        for run in [*sides[0], *sides[1]]:
            row = known[Path(run.source).name]
            assert run.metrics["val_loss"] == pytest.approx(row["final_val_loss"])
            assert run.metrics["train_time_s"] == pytest.approx(row["final_train_time_s"])
            assert run.metrics["step_ms"] == pytest.approx(row["step_ms_tail_eval"], rel=1e-6)
            assert run.metrics["peak_memory_bytes"] == row["peak_mem_mib"] * 2**20
            assert run.environment["driver"] == row["driver_version"]
            assert run.ending is None


@needs_samples
def test_the_nanochat_samples_have_the_published_numbers():
    a, b = SAMPLES / "nanochat" / "d8_a.log", SAMPLES / "nanochat" / "d8_b.log"
    (one,), (other,) = read_sides([str(a)], [str(b)], {})
    assert (one.metrics["val_bpb"], other.metrics["val_bpb"]) == (1.322556, 1.322551)
    assert one.metrics["train_time_s"] / 60 == pytest.approx(0.87, abs=0.006)


@pytest.mark.parametrize("opening", ["", "=" * 100 + "\n"])
def test_the_source_that_a_log_embeds_is_kept(modded_log, opening):
    path = modded_log("a.txt")
    source = "import torch\nlr = 0.02\n"
    path.write_text(f"{opening}{source}{'=' * 100}\n{path.read_text()}")
    (run,) = read(path)
    assert run.source_code == source.strip()
    assert run.environment_known
    assert read(modded_log("b.txt"))[0].source_code is None
