"""Output decides nothing: neither a terminal's characters nor a reader that leaves."""

import io
import os
import signal
import subprocess
import sys

import pytest

from harness import __main__ as entry
from harness.cli import app
from harness.output import tolerant_output


class Broken:
    """A pipe whose reader has left."""

    def __enter__(self):
        reading, writing = os.pipe()
        os.close(reading)
        self.file = os.fdopen(writing, "w")
        return self.file

    def __exit__(self, *_):
        self.file.close()


def code_of(monkeypatch, run) -> int:
    """The exit code of the command line, with `run` in place of the commands."""
    monkeypatch.setattr(app, "app", lambda prog_name: run())
    with pytest.raises(SystemExit) as ending:
        entry.main()
    return ending.value.code


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii"])
def test_a_character_that_a_terminal_lacks_is_replaced(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, newline=""))

    def run():
        print("Δ loss ✅ 5")
        sys.exit(10)

    assert code_of(monkeypatch, run) == 10
    assert raw.getvalue().decode(encoding).strip() == "? loss ? 5"


def test_a_reader_that_has_left_changes_no_exit_code(monkeypatch):
    with Broken() as file:
        monkeypatch.setattr(sys, "stdout", file)

        def run():
            for _ in range(10_000):
                print("a line that is longer than nothing")
            sys.exit(10)

        assert code_of(monkeypatch, run) == 10


def test_what_is_buffered_for_a_reader_that_has_left_is_dropped(monkeypatch):
    with Broken() as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert code_of(monkeypatch, lambda: print("short")) == 0


def test_a_closed_descriptor_gets_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with tolerant_output():
        print("nobody")
        print("nobody", file=sys.stderr)
    assert sys.stdout is None


def test_sigterm_before_the_first_run_is_a_stop(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert code_of(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM)) == 5
    assert "re-run the same command" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["exec('os.kill(os.getpid(), number)')", "import dies"])
def test_a_signal_while_the_command_is_imported_is_a_stop(tmp_path, number, where):
    kill = f"import os\nnumber = {number:d}\n"
    (tmp_path / "dies.py").write_text(f"{kill}os.kill(os.getpid(), number)\n")
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"import sys, types; import harness.__main__ as main\n{kill}"
        f"class App(types.ModuleType):\n"
        f"    def __getattr__(self, name):\n        {where}\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "sys.modules['harness.cli.app'] = App('app'); main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == "stopped; re-run the same command to resume\n"


def test_a_command_in_the_background_still_ignores_ctrl_c(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert code_of(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT)) == 0
    finally:
        signal.signal(signal.SIGINT, before)
