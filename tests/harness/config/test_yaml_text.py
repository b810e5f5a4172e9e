"""YAML of any author: bounded, with the lines of its keys; options as typed."""

import time

import pytest

from harness.config.study_file import parse_study
from harness.config.yaml_schema import parse_sets, read_mapping, read_text
from harness.config.yaml_text import YamlTextError, parse, parse_option
from harness.errors import StudyFileError, UsageError

NINE = "&a [x, x, x, x, x, x, x, x, x]"
BOMB = f"a: {NINE}\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "/data/run #3/tokens",
        "a #b",
        "# 5",
        "3 # three",
        "a: b",
        "- x",
        "*x",
        "&a x",
        "!!python/object x",
        "%x",
        "@x",
        "--- a",
        "2026-01-01",
        "~/x",
        "off",
        "http://host/x#part",
        "  ./x",
        "x ",
        "9" * 5000,
    ],
)
def test_the_value_of_an_option_is_taken_as_typed(text):
    assert parse_option(text) == text
    assert parse_sets([f"data.source={text}"]) == {"data.source": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-1.5e-3", -0.0015),
        ("true", True),
        ("null", None),
        ("", None),
        ("[1, 'a #b']", [1, "a #b"]),
        ("{a: 1}", {"a": 1}),
        ("{}", {}),
        ('"a #b"', "a #b"),
        ("'5'", "5"),
    ],
)
def test_numbers_lists_mappings_and_quoted_texts_are_yaml(text, value):
    assert parse_option(text) == value


@pytest.mark.parametrize("text", ["[1", "{a: ", "'a' # c", "[1] # ]", "[" * 300, '"'])
def test_a_list_or_quoted_text_that_is_not_whole_is_refused(text):
    with pytest.raises(UsageError, match="--set a"):
        parse_sets([f"a={text}"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, "values, with every alias"),
        ("a: &a [*a]", "alias inside itself"),
        ("a: &a {b: *a}", "alias inside itself"),
        ("a: " + "[" * 300 + "]" * 300, "levels deep"),
        ("a: " + "{a: " * 300 + "}" * 300, "levels deep"),
        ('a: "x\\0y"', "NUL"),
        ("a: \0", "#x0000"),
        ("a: !!set {x}", "the type 'set'"),
        ("a: !!binary aGk=", "the type 'binary'"),
        ("a: !mine {x: 1}", "mine"),
        ("? [a]\n: b", "a key that is no text"),
        ("a: " + "9" * 5000, "digits"),
        ("a: 1\na: 2", "duplicate"),
    ],
    ids=lambda text: text[:12],
)
def test_a_hostile_file_is_refused_at_once(text, problem):
    began = time.monotonic()
    with pytest.raises(YamlTextError, match=problem):
        parse(text)
    with pytest.raises(StudyFileError):
        parse_study(text, "s.yaml")
    assert time.monotonic() - began < 1


def test_aliases_merges_dates_and_lines_are_read():
    text = "a: &x {b: 1}\nc:\n  <<: *x\n  d: 2026-01-01\n"
    values, where = read_mapping(text, "f.yaml", "a", "b")
    assert values == {"a": {"b": 1}, "c": {"b": 1, "d": "2026-01-01"}}
    assert where("c.d") == "f.yaml:4: c.d"
    assert where("c.e") == "f.yaml:2: c.e"
    assert where("z") == "f.yaml: z"


def test_an_anchor_that_is_set_again_is_read_without_a_warning():
    assert parse("a: &x 1\nb: &x 2\nc: *x\n").value == {"a": 1, "b": 2, "c": 2}


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert parse(read_text(path, "a file", "x")).value == {"a": 1}
