"""Numbers of options: what is not finite or out of range is refused before anything is run."""

import importlib
from types import SimpleNamespace
from typing import get_type_hints

import pytest

from harness.cli.app import COMMANDS
from harness.cli.options import parse_store, within
from harness.errors import UsageError

STUDY, SEARCH = "ablations/studies/fake.yaml", "ablations/searches/fake.yaml"
FULL, CONFIG = "ablations/full/fake.yaml", "ablations/configs/fake.yaml"
OPTIONS = [
    (("study", STUDY), ("--max-minutes", "--price")),
    (("search", SEARCH), ("--max-minutes", "--price", "--wait-for-base", "--since")),
    (("full", FULL), ("--max-minutes", "--price")),
    (("run", CONFIG), ("--timeout-minutes", "--seed")),
    (("gate", CONFIG), ("--budget-minutes", "--price", "--run-minutes", "--alpha", "--exchange")),
    (("gate", CONFIG), ("--target-p",)),
    (("compare", "a", "--", "b"), ("--alpha", "--exchange", "--target-p", "--seen")),
    (("drift",), ("--recent",)),
]
CASES = [(command, option) for command, several in OPTIONS for option in several]
TEXTS = ["nan", "inf", "-inf", "-5", "1e300", "1e999", "many"]
LISTS = [
    ("study", STUDY, "--gpus", "0-99999999"),
    ("study", STUDY, "--seeds", "1-2000000000"),
    ("study", STUDY, "--seeds", "99999999999999999999"),
    ("search", SEARCH, "--gpus", "0-1024"),
    ("baseline", "record", "x", CONFIG, "--seeds", "1-2000000000"),
    ("compare", "a", "--", "b", "--margin", "val_loss=nan"),
    ("compare", "a", "--", "b", "--margin", "val_loss=1e300"),
    ("compare", "a", "--", "b", "--sd", "val_loss=-1"),
    ("drift", "--margin", "val_loss=inf"),
    ("gate", CONFIG, "--margin", "val_loss=0"),
    ("compare", "a", "--", "b", "--alpha", "1e-300"),
    ("compare", "x" * 5000, "--", "b"),
]


@pytest.mark.parametrize(("command", "option"), CASES)
def test_a_number_out_of_range_is_refused(harness, store, command, option):
    for text in TEXTS:
        place = 1 if command[0] == "compare" else len(command)
        done = harness(*command[:place], option, text, *command[place:])
        assert done.returncode == 2, (text, done.stdout, done.stderr)
        assert option in done.stderr
    assert not store.root.exists()


@pytest.mark.parametrize("arguments", LISTS)
def test_a_list_with_absurd_numbers_is_refused(harness, store, arguments):
    if arguments[0] == "compare":
        arguments = ("compare", *arguments[4:], *arguments[1:4])
    done = harness(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert not store.root.exists()


def test_every_option_that_takes_a_number_is_tested_here():
    numbers = {int, float, int | None, float | None}
    found = set()
    for name in COMMANDS:
        module = importlib.import_module(f"harness.cli.{name}")
        app = getattr(module, "app", None)
        functions = [one.callback for one in app.registered_commands] if app else [module.command]
        for function in functions:
            hints = get_type_hints(function)
            found |= {f"{name} {key}" for key, hint in hints.items() if hint in numbers}
    tested = {f"{command[0]} {option[2:].replace('-', '_')}" for command, option in CASES}
    assert found - tested == {"ci exit_code"}  # below


def test_the_exit_code_of_a_gate_is_one():
    with pytest.raises(UsageError, match="from 0 to 255"):
        within(0, 255)(SimpleNamespace(opts=["--exit-code"]), -9)


@pytest.mark.parametrize("command", [("drift",), ("noise",), ("report", "x"), ("study", STUDY)])
def test_a_store_without_a_name_and_a_file_are_refused(harness, tmp_path, store, command):
    (tmp_path / "file").write_text("x")
    for text, got in (("", "an empty text"), (" ", "an empty text"), (tmp_path / "file", "file")):
        with pytest.raises(UsageError, match=got):
            parse_store(text)
    store.root = tmp_path / "file"
    done = harness(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--store: expected the folder of a store" in done.stderr


def test_a_store_whose_name_is_too_long_is_refused():
    with pytest.raises(UsageError, match="--store: expected the folder of a store"):
        parse_store("x" * 300)
