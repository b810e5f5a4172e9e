"""Files as they arrive: byte-order marks, UTF-16, gzip, and logs that are longer than a block."""

import gzip
import os

import pytest

from harness.results.logs import read_sides, regex, text
from harness.results.logs.read import AFTER_STEPS, MARKS, STEP
from harness.results.logs.run_log import LogError


def read(path, other, patterns=()):
    return read_sides([str(path)], [str(other)], regex.parse(patterns))[0]


@pytest.fixture
def other(modded_log):
    return modded_log("other/other.txt")


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_log_is_read_in_every_encoding_and_from_gzip(modded_log, other, encoding, packed):
    path = modded_log("a.txt", 3.27)
    (plain,) = read(path, other)
    data = path.read_text().encode(encoding)
    path.write_bytes(gzip.compress(data) if packed else data)
    (run,) = read(path, other)
    assert run.metrics == plain.metrics
    assert run.environment == plain.environment


def test_a_byte_order_mark_hides_neither_the_first_line_nor_the_first_column(tmp_path, other):
    log, table = tmp_path / "a.log", tmp_path / "a.csv"
    log.write_text("step:10/10 val_loss:3.2801 train_time:5ms\n", encoding="utf-8-sig")
    table.write_text("val_loss\n3.2\n", encoding="utf-8-sig")
    assert [run.metrics["val_loss"] for run in read(log, other)] == [3.2801]
    assert [run.metrics["val_loss"] for run in read(table, other)] == [3.2]


def test_packed_logs_and_tables_of_a_folder_are_read(modded_log, tmp_path, other):
    path = modded_log("side/a.txt", 3.27)
    (tmp_path / "side/b.log.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert len(read(tmp_path / "side", other)) == 2
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/c.csv.gz").write_bytes(gzip.compress(b"val_loss\n3.2\n"))
    assert [run.metrics for run in read(tmp_path / "tables", other)] == [{"val_loss": 3.2}]


def test_damaged_gzip_is_an_error_with_a_hint(modded_log, other):
    path = modded_log("a.txt")
    path.write_bytes(gzip.compress(path.read_bytes())[:-400])
    with pytest.raises(LogError, match=r"damaged gzip .*Copy it again"):
        read(path, other)


NOISE = "W0101 12:00:00 torch/_inductor: a warning that is printed again and again\n" * 50


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(text, "BLOCK_CHARACTERS", 10_000)
    monkeypatch.setattr(text, "HEADER_CHARACTERS", 3_000)


def with_noise(log, prefix=""):
    """The text of a log with noise after every 20th line."""
    lines = log.splitlines(keepends=True)
    return "".join(
        prefix + line + (NOISE if number % 20 == 19 else "") for number, line in enumerate(lines)
    )


@pytest.mark.parametrize("prefix", ["", "[rank0]: "])
def test_a_log_longer_than_a_block_gives_the_same_runs(modded_log, other, small_blocks, prefix):
    first, second = modded_log("a.txt", 3.27), modded_log("b.txt", 3.29, driver="580.1", minute=9)
    whole = [*read(first, other), *read(second, other)]
    long = with_noise(first.read_text() + second.read_text(), prefix)
    first.write_text(long)
    runs = read(first, other)
    assert [run.metrics for run in runs] == [run.metrics for run in whole]
    assert [run.environment for run in runs] == [run.environment for run in whole]
    assert [run.evaluations for run in runs] == [run.evaluations for run in whole]
    lines = text.LogLines(STEP, [AFTER_STEPS], MARKS)
    assert len(text.read_log(first, lines)) < len(long) / 4


def test_a_long_log_of_nanochat_keeps_times_core_and_memory(nanochat_log, other, small_blocks):
    path = nanochat_log("a.log", 1.31, core=0.1)
    (plain,) = read(path, other)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line + NOISE * line.startswith("step ") for line in lines))
    (run,) = read(path, other)
    assert (run.metrics, run.gpu, run.scale) == (plain.metrics, plain.gpu, plain.scale)


def test_the_last_lines_of_a_long_log_decide_as_those_of_a_short_one(
    modded_log, tmp_path, other, small_blocks
):
    cut = modded_log("cut.txt", stop=612)
    cut.write_text(with_noise(cut.read_text()))
    assert read(cut, other)[0].ending == "it ends at step 612 of 1,000"
    unknown = tmp_path / "a.log"
    unknown.write_text(f"val loss 3.4\n{NOISE * 9}val loss 3.3\n{NOISE * 9}val loss nan\n{NOISE}")
    (run,) = read(unknown, other, ["val_loss=val loss ([0-9.]+)"])
    assert run.diverged


def test_too_many_steps_and_too_long_a_table_are_refused(
    modded_log, tmp_path, other, small_blocks, monkeypatch
):
    monkeypatch.setattr(text, "MOST_CHARACTERS", 20_000)
    with pytest.raises(LogError, match=r"lines with steps of 0 million .* Split it"):
        read(modded_log("a.txt"), other)
    (tmp_path / "a.csv").write_text("val_loss\n" + "3.2\n" * 6_000)
    with pytest.raises(LogError, match=r"a table of 0 million characters at most; got more"):
        read(tmp_path / "a.csv", other)


def test_a_line_without_an_end_takes_no_more_than_its_blocks(tmp_path, other, small_blocks):
    path = tmp_path / "a.log"
    path.write_text("x" * 200_000)
    with pytest.raises(LogError, match="another format"):
        read(path, other)


@pytest.mark.parametrize("path", ["/dev/zero", "pipe.txt"])
def test_what_has_no_end_is_refused_and_not_waited_for(tmp_path, monkeypatch, other, path):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.txt")
    with pytest.raises(LogError, match="no regular file"):
        read(path, other)
