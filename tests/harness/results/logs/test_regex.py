"""Patterns of --regex: which text is a number, and when the last line has none."""

import math

import pytest

from harness.comparison.compare import CompareOptions, compare
from harness.comparison.noise_model import NoiseModel
from harness.errors import UsageError
from harness.results.logs import read_sides, regex
from harness.results.logs.run_log import LogError

TOKEN = "val_loss=val loss {number}"


@pytest.fixture
def read(tmp_path):
    def call(text, *patterns):
        (tmp_path / "a.log").write_text(text)
        (tmp_path / "other.csv").write_text("val_loss\n3\n")
        sides = [str(tmp_path / "a.log")], [str(tmp_path / "other.csv")]
        (run,) = read_sides(*sides, regex.parse(patterns or [TOKEN]))[0]
        return run

    return call


@pytest.mark.parametrize(
    ("shown", "value"),
    [
        ("3.25", 3.25),
        ("-3.25", None),
        ("+3.25,", 3.25),
        ("3.", 3.0),
        (".5", 0.5),
        ("1e-3", 0.001),
        ("3.2E+0 nats", 3.2),
        ("1,310,720", 1_310_720.0),
        ("3.25nats", 3.25),
        ("(3.25)", None),
    ],
)
def test_the_token_matches_a_whole_number(read, shown, value):
    pattern = "x=x ({number}" if shown.startswith("(") else "x=x {number}"
    pattern = pattern.replace("(", r"\(")
    run = read(f"x {shown}\n", pattern)
    expected = -3.25 if shown == "-3.25" else 3.25 if value is None else value
    assert run.metrics == {"x": expected}


def test_a_number_is_read_as_a_whole_or_not_at_all(read):
    for shown in ("3,2784", "3.2.1", "1,2345.6"):
        run = read(f"val loss 3.3\nval loss {shown}\n")
        assert (run.metrics, run.diverged) == ({}, True), shown
        assert run.ending == f"its last val_loss is {shown!r} and not a number"


@pytest.mark.parametrize("shown", ["nan", "NaN", "inf", "-inf", "Infinity", "-nan"])
def test_the_token_matches_what_is_not_finite(read, shown):
    run = read(f"val loss 3.3\nval loss {shown}\n")
    assert (run.metrics, run.diverged) == ({}, True)
    assert run.ending == "its last val_loss is not a number"


@pytest.mark.parametrize("pattern", [TOKEN, r"val_loss=val loss ([0-9.]+)", r"val_loss=loss (\S+)"])
@pytest.mark.parametrize("shown", ["nan", "None", "****", "diverged!"])
def test_a_last_line_without_a_number_is_a_divergence_and_not_judged_by_an_earlier_one(
    read, pattern, shown
):
    run = read(f"val loss 3.3\nval loss 3.28\nval loss {shown}\nbye\n", pattern)
    assert (run.metrics, run.diverged) == ({}, True)


@pytest.mark.parametrize(
    ("end", "ending"),
    [("3.27", "it ends within its last val_loss"), ("", "it ends within its last val_loss"),
     ("3.2784", None), ("3.2784\nDone", None)],
)  # fmt: skip
def test_a_number_that_ends_with_the_file_may_be_cut(read, end, ending):
    run = read(f"val loss 4.1000\nval loss {end}")
    assert (run.ending, run.diverged) == (ending, False)


def test_text_without_any_number_is_no_log(read):
    with pytest.raises(LogError, match="another format, and no match of val_loss"):
        read("val loss is what we minimise\n")


def test_a_group_that_never_has_a_number_asks_for_the_token(read):
    with pytest.raises(UsageError, match=r"a number in its group; got 'abc'.*\{number\}"):
        read("loss abc\nloss abc\n", r"val_loss=loss (\S+)")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (r"a (\d+)", r"a (\S*)"),
        (r"(?:x|y) \((\d+)\)", r"(?:x|y) \((\S*)\)"),
        (r"[(\]] (\d+)", r"[(\]] (\S*)"),
        (r"[]()] (\d+)", r"[]()] (\S*)"),
        (r"(?#a ( comment)x ((?:\d|[.)])+) y", r"(?#a ( comment)x (\S*) y"),
        (r"[^])(] (?P<n>\d+) (?P=n)$", r"[^])(] (?P<n>\S*) (?P=n)$"),
    ],
)
def test_the_kind_of_a_pattern_has_anything_in_place_of_its_group(text, kind):
    assert regex.parse([f"x={text}"])["x"].kind.pattern == kind


@pytest.mark.parametrize("options", [["x=a"], ["x=(a){number}"], ["x={number}", "x={number}"]])
def test_a_pattern_has_one_number_and_one_name(options):
    with pytest.raises(UsageError, match=r"NAME=PATTERN with one \{number\}"):
        regex.parse(options)


def test_a_pattern_reads_one_run_a_file(modded_log, tmp_path):
    path = modded_log("a.txt", 3.27)
    path.write_text(path.read_text() * 2 + "bleu 0.3\n")
    with pytest.raises(LogError, match="one run in a file that --regex reads; got 2 runs"):
        read_sides([str(path)], [str(modded_log("b.txt"))], regex.parse(["bleu=bleu {number}"]))


def test_a_number_of_a_known_log_that_is_not_finite_is_a_divergence(modded_log):
    path = modded_log("a.txt", 3.27, extra="bleu nan\n")
    patterns = regex.parse(["bleu=bleu {number}"])
    (run,) = read_sides([str(path)], [str(modded_log("b.txt"))], patterns)[0]
    assert run.diverged
    assert not any(math.isnan(value) for value in run.metrics.values())


# --- sides of such logs ---------------------------------------------------------------------------


@pytest.fixture
def compared(tmp_path):
    def call(a, b):
        sides = []
        for side, texts in (("a", a), ("b", b)):
            (tmp_path / side).mkdir()
            for number, text in enumerate(texts):
                (tmp_path / side / f"{number}.log").write_text(text)
            sides.append([str(tmp_path / side)])
        options = CompareOptions(margins={"val_loss": 0.01}, sds={"val_loss": 0.001})
        return compare(*read_sides(*sides, regex.parse([TOKEN])), options, NoiseModel([]))

    return call


def log(final, values=6):
    return "".join(
        f"train loss {9 - step / 10}\n" * 30 + f"val loss {final + values - step:.4f}\n"
        for step in range(1, values + 1)
    )


def test_six_copies_of_a_log_are_one_run(compared):
    found = compared([log(3.28), log(3.281)], [log(3.2805)] * 6)
    assert found.metrics[0].n == (2, 1)
    assert sum("a copy, left out" in finding for finding in found.findings) == 5


def test_a_log_of_one_side_on_the_other_is_named(compared):
    found = compared([log(3.28), log(3.281)], [log(3.28)])
    assert found.findings[0].endswith("0.log of A: a run against itself")


def test_a_log_with_fewer_values_than_others_of_its_side_is_cut(compared):
    cut = log(3.28)[: len(log(3.28)) // 2]
    found = compared([log(3.28), log(3.281)], [log(3.2805), log(3.2808), cut])
    assert (found.outcome, found.reason) == (
        "inconclusive",
        "1 of 3 runs of B did not reach their end",
    )
    assert "it has 3 evaluations, others of its side 6" in found.findings[0]


def test_sides_of_different_lengths_get_a_note(compared):
    found = compared([log(3.28, 12), log(3.281, 12)], [log(3.2805)])
    assert any("different lengths: 12 evaluations against 6" in note for note in found.notes)


@pytest.mark.parametrize("shown", ["0.0000", "-3.2", "0"])
def test_a_loss_of_zero_or_below_is_no_measurement(compared, shown):
    crashed = log(3.28).replace("val loss 3.2800", f"val loss {shown}")
    found = compared([log(3.28), log(3.281)], [log(3.2805), crashed])
    assert found.outcome == "inconclusive"
    assert found.metrics[0].n == (2, 1)
    assert "which is no measurement" in found.findings[0]
