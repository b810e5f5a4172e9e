"""docs/tools/words.py finds the words that the project does not use, and finds none here."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "tools" / "words.py"


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_no_file_uses_a_word_that_the_project_does_not_use() -> None:
    done = run()
    assert done.stdout == ""
    assert done.returncode == 0


def test_a_word_is_found_in_names_strings_and_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import words
    finally:
        sys.path.remove(str(SCRIPT.parent))
    page = tmp_path / "page.py"
    page.write_text(
        "told_again = 1\nclass ToldAgain: ...\n# it says no\nx = 'the remedy'\n"
        "sayings = untold = scatter = 0\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(words, "ROOT", tmp_path)
    found = [(use.number, use.found) for use in words.uses([page])]
    assert found == [(1, "told"), (2, "told"), (3, "says"), (4, "remedy")]
