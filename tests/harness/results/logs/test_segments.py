"""Files as users have them: appended runs, resumed runs, prefixes, strays, older lines."""

import re

import pytest

from harness.results.logs import read_sides
from harness.results.logs.run_log import LogError


def read(path, other):
    return read_sides([str(path)], [str(other)], {})[0]


@pytest.fixture
def other(modded_log):
    return modded_log("other/other.txt")


def append(path, *texts):
    path.write_text("".join(texts))
    return path


def test_two_appended_logs_are_two_runs_with_their_own_headers(modded_log, other):
    one = modded_log("a.txt", 3.27, time_s=84.0)
    two = modded_log("b.txt", 3.29, time_s=85.0, driver="580.1", minute=9)
    both = append(one, one.read_text(), two.read_text())
    first, second = read(both, other)
    assert [run.metrics["val_loss"] for run in (first, second)] == [3.27, 3.29]
    assert [run.metrics["train_time_s"] for run in (first, second)] == [84.0, 85.0]
    assert [run.environment["driver"] for run in (first, second)] == ["570.211.01", "580.1"]
    assert second.started_at - first.started_at == 540
    assert first.environment["GPUs"] == second.environment["GPUs"] == "2x NVIDIA H100 80GB HBM3"
    assert first.metrics["peak_memory_bytes"] == second.metrics["peak_memory_bytes"]


def test_a_resumed_run_is_joined_and_has_no_times(modded_log, other):
    whole, cut = modded_log("a.txt", 3.27), modded_log("b.txt", stop=612)
    resumed = whole.read_text()
    resumed = resumed[resumed.index("step:501/1000") :]
    (run,) = read(append(cut, cut.read_text(), resumed), other)
    assert (run.ending, run.metrics["val_loss"]) == (None, 3.27)
    assert [at.step for at in run.evaluations] == [250, 500, 750, 1000]
    assert "train_time_s" not in run.metrics
    assert any("it was resumed at step 501" in warning for warning in run.warnings)


def test_a_run_that_starts_again_from_step_1_is_not_a_resumed_one(modded_log, other):
    cut, whole = modded_log("b.txt", stop=612), modded_log("a.txt", 3.27)
    first, second = read(append(cut, cut.read_text(), whole.read_text()), other)
    assert (first.ending, second.ending) == ("it ends at step 612 of 1,000", None)


def test_nanochat_runs_in_one_file_are_split_and_joined(nanochat_log, other):
    one, two = nanochat_log("a.log", 1.31), nanochat_log("b.log", 1.33, dt_ms=210.0)
    first, second = read(append(one, one.read_text(), two.read_text()), other)
    assert [run.metrics["val_bpb"] for run in (first, second)] == [1.31, 1.33]
    assert [run.metrics["train_time_s"] for run in (first, second)] == pytest.approx([2.0, 2.1])
    cut, whole = nanochat_log("c.log", stop=15), nanochat_log("d.log", 1.32).read_text()
    part = whole[whole.index("step 00011/") :]
    (run,) = read(append(cut, cut.read_text(), part), other)
    assert (run.metrics["val_bpb"], run.ending) == (1.32, None)
    assert not {"train_time_s", "tokens_per_s"} & run.metrics.keys()


@pytest.mark.parametrize(("stated", "kept"), [("0.03", True), ("0.07", False)])
def test_the_total_that_nanochat_states_is_compared_with_its_steps(
    nanochat_log, other, stated, kept
):
    path = nanochat_log("a.log")
    path.write_text(path.read_text() + f"Total training time: {stated}m\n")
    (run,) = read(path, other)
    assert ("train_time_s" in run.metrics) == kept
    assert bool(run.warnings) != kept


@pytest.mark.parametrize(
    "prefix",
    [
        "[default0]:",
        "[rank0]: ",
        "0: ",
        "2026-05-19 20:07:{n:02d},123 - INFO - ",
        "[12:00:{n:02d}] ",
    ],
)
@pytest.mark.parametrize("trainer", ["modded", "nanochat"])
def test_a_prefix_on_every_line_is_removed(modded_log, nanochat_log, other, prefix, trainer):
    path = modded_log("a.txt", 3.27) if trainer == "modded" else nanochat_log("a.log", 1.27)
    (plain,) = read(path, other)
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{prefix.format(n=n % 60)}{line}\n" for n, line in enumerate(lines)))
    (run,) = read(path, other)
    assert run.metrics == plain.metrics
    assert run.environment == plain.environment


def test_of_several_ranks_the_lowest_is_read(modded_log, other):
    path = modded_log("a.txt", 3.27)
    lines = path.read_text().splitlines()
    path.write_text("".join(f"[default{rank}]:{line}\n" for line in lines for rank in (1, 0)))
    (run,) = read(path, other)
    assert run.metrics["val_loss"] == 3.27


def test_a_stray_file_in_a_folder_is_skipped_by_name(modded_log, other):
    folder = modded_log("side/a.txt").parent
    (folder / "notes.txt").write_text("remember the milk\n")
    (folder / "empty.log").write_text("")
    (run,) = read(folder, other)
    assert [re.sub(r".*/", "", line) for line in run.warnings] == [
        "empty.log: an empty file",
        "notes.txt: another format",
    ]


def test_a_folder_of_strays_is_an_error_that_names_one(tmp_path, other):
    (tmp_path / "side").mkdir()
    (tmp_path / "side" / "notes.txt").write_text("remember the milk\n")
    with pytest.raises(LogError, match=r"no run in 1 file: .*notes.txt: another format"):
        read(tmp_path / "side", other)


def test_console_output_and_the_lines_of_llm_c_are_read(modded_log, tmp_path, other):
    folder = modded_log("side/a.stdout", 3.27).parent
    assert [run.metrics["val_loss"] for run in read(folder, other)] == [3.27]
    old = tmp_path / "main.log"
    lines = [f"s:{step} trl:{4 - step / 1000:.4f} lr:0.1 norm:0.2" for step in range(500)]
    lines[251:251] = ["s:250 tel:3.6000"]
    old.write_text("\n".join(["s:0 tel:10.9830", *lines, "s:500 tel:3.2722"]) + "\n")
    (run,) = read(old, other)
    assert (run.family, run.metrics, run.ending) == ("modded-nanogpt", {"val_loss": 3.2722}, None)
    assert [at.step for at in run.evaluations] == [0, 250, 500]


@pytest.mark.parametrize("trainer", ["modded", "nanochat"])
@pytest.mark.parametrize("which", ["last evaluation", "every line", "last two lines"])
def test_a_line_that_is_printed_twice_starts_no_run(
    modded_log, nanochat_log, other, trainer, which
):
    path = modded_log("a.txt", 3.27) if trainer == "modded" else nanochat_log("a.log", 1.27)
    (plain,) = read(path, other)
    lines = path.read_text().splitlines(keepends=True)
    mark = "val_loss" if trainer == "modded" else "Validation"
    last = max(at for at, line in enumerate(lines) if mark in line)
    if which == "every line":
        lines = [line for line in lines for _ in range(2)]
    else:
        lines[last + 1 : last + 1] = lines[last - (which == "last two lines") : last + 1]
    path.write_text("".join(lines))
    (run,) = read(path, other)
    assert (run.metrics, run.evaluations) == (plain.metrics, plain.evaluations)


def test_lines_of_more_shapes_than_a_launcher_has_are_no_prefix(tmp_path, other):
    path = tmp_path / "a.log"
    names = [f"{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(200)]
    path.write_text("".join(f"{name} step:1/1 val_loss:3.2 train_time:1ms\n" for name in names))
    with pytest.raises(LogError, match="another format"):
        read(path, other)
