"""What every command has: help with examples at 80 columns, `-h`, near names for typing errors."""

import json
import re
import subprocess
import sys
import time

import pytest
import typer

from harness import errors
from harness.__main__ import main
from harness.cli.app import COMMANDS, EXAMPLES, PANELS, app, load
from harness.cli.init import EXAMPLES as EXAMPLE_FILES

GROUPS = {name.partition(" ")[0] for name in EXAMPLES}
ALL = [*COMMANDS, *EXAMPLES]
RUNNABLE = [name for name in ALL if name not in GROUPS]
WITH_JSON = [name for name in RUNNABLE if name != "ci results"]  # which prints annotations


@pytest.fixture
def call(capfd, monkeypatch):
    """`harness` in this process, 80 columns wide: (exit code, stdout, stderr)."""

    def run(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "argv", ["harness", *argv])
        with pytest.raises(SystemExit) as ending:
            main()
        return int(ending.value.code or 0), *capfd.readouterr()

    return run


@pytest.mark.parametrize("name", ALL)
def test_help_has_examples_and_fits_80_columns(call, name):
    code, out, err = call(*name.split(), "-h")
    assert (code, err) == (errors.PASS, "")
    assert call(*name.split(), "--help")[1] == out
    examples = re.findall(rf"^    (harness {name}\b.*)", out.partition("Examples:")[2], re.M)
    assert len(examples) >= 2
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_example_is_parsed_by_its_command(name, monkeypatch):
    entry = EXAMPLES.get(name) or COMMANDS[name].examples
    group = typer.main.get_command(app)
    for line in entry:
        argv = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line)][1:]
        command, context = group, group.make_context("harness", [], resilient_parsing=True)
        for part in name.split():
            command = command.get_command(context, part)
            argv = argv[1:]
        command.make_context(name, argv, parent=context)


@pytest.mark.parametrize("name", RUNNABLE)
def test_an_unknown_option_is_wrong_usage_and_names_the_nearest(call, name):
    code, _, err = call(*name.split(), "--quit")
    assert code == errors.USAGE
    assert "--quit" in err
    assert "--quiet" in err


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_the_help_of_a_group_has_the_whole_summary_of_each_command(call, name):
    listed = " ".join(call(name, "-h")[1].partition("Commands:")[2].split())
    for child, command in load(name).commands.items():
        assert f"{child} {command.help.splitlines()[0]}" in listed


def test_an_unknown_command_names_the_nearest(call):
    code, _, err = call("stdy")
    assert code == errors.USAGE
    assert "'study'" in err


@pytest.mark.parametrize("name", WITH_JSON)
def test_commands_with_an_answer_can_print_it_as_json(call, name):
    assert re.search(r"^  --json\b", call(*name.split(), "-h")[1], re.M)


def test_the_list_of_commands_is_in_panels_and_complete(call):
    _, out, _ = call("-h")
    for title, entries in PANELS.items():
        block = out.partition(f"{title}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in block.splitlines()] == list(entries)
    assert "--install-completion" in out
    assert all(load(name) is not None for name in COMMANDS)


def test_the_version_is_that_of_the_distribution(call, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"1.2.3 of {name}")
    assert call("--version")[1] == "harness 1.2.3 of speedrun-harness\n"


def test_help_imports_no_command_and_no_numerical_library():
    program = (
        "import sys; sys.argv = ['harness', '--help']\n"
        "from harness.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'scipy', 'pandas', 'msgspec', 'ruamel.yaml', 'rich.console'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)), "
        "[name for name in sys.modules if name.startswith('harness.cli.')])"
    )
    started = time.process_time()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "loaded: [] ['harness.cli.app']" in done.stdout, done.stdout + done.stderr
    assert time.process_time() - started < 1


def test_init_copies_the_examples_and_keeps_existing_files(call, tmp_path):
    code, out, _ = call("init", str(tmp_path), "--json")
    first = json.loads(out)
    assert (code, first["kept"]) == (errors.PASS, [])
    (study := tmp_path / "ablations/studies/fake.yaml").write_text("mine")
    (tmp_path / "ablations/studies/smoke.yaml").unlink()
    _, out, _ = call("init", str(tmp_path), "--json")
    assert json.loads(out)["copied"] == ["studies/smoke.yaml"]
    assert study.read_text() == "mine"
    shipped = {str(path.relative_to(EXAMPLE_FILES)) for path in EXAMPLE_FILES.glob("*/*.yaml")}
    assert shipped <= set(first["copied"])
    assert "harness study" in call("init", str(tmp_path))[1]


def test_quiet_silences_progress_and_not_the_result(call, tmp_path):
    (config := tmp_path / "c.yaml").write_text("dial: {depth: 2}\n")
    argv = ("run", str(config), "--trainer", "fake", "--store", str(tmp_path / "runs"))
    _, out, err = call(*argv, "--quiet")
    assert "completed" in out
    assert err == ""


def test_verbose_logs_each_trainer_process(harness, study_file, caplog):
    argv = ("run", study_file().parent / "base.yaml", "--trainer", "fake", "--rerun")
    harness(*argv, "-v")
    assert sum("started process" in message for message in caplog.messages) == 1
    harness(*argv)
    assert sum("started process" in message for message in caplog.messages) == 1
