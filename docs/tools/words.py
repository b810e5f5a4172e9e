"""Prints where a file uses a word that the project does not use, and what to write instead.

    python docs/tools/words.py [--count] [PATH ...]

A reader who knows PyTorch, nanochat, asv and Optuna should meet no word here that they have to
learn: the field's term is used where there is one, one word means one thing, and sentences are
plain English. Checks names, strings, comments, option names and pages. Needs the standard library.
Exit code 1 where a word was found. `--count` prints totals by word.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = (
    *("harness", "tests/harness", "benchmarks", "docs", "ci", "ablations", "examples"),
    *("model", "tests/model"),
    *("README.md", "CONTRIBUTING.md"),
)
SUFFIXES = (".py", ".md", ".yaml", ".yml", ".txt", ".html", ".ipynb")
EVERYWHERE = ("*",)
SEARCH = ("harness/search/*", "harness/report/search/*", "docs/search.md", "*/searches/*")
FULL = ("harness/full/*", "harness/report/full/*", "docs/full.md", "*statistics/forecast.py")
PYTHON = ("*.py",)


@dataclass(frozen=True)
class Word:
    """A regular expression over lower-case words, and what to write instead.

    Names count as their parts: `told_again` and `ToldAgain` both hold the word `told`.
    """

    pattern: str
    use: str
    only: tuple[str, ...] = EVERYWHERE

    @property
    def compiled(self) -> re.Pattern[str]:
        """The pattern, as whole words."""
        return re.compile(rf"(?<![a-z])(?:{self.pattern})(?![a-z])")


WORDS = (
    # verbs of people, for what a program does
    Word(
        "told|tells?|telling|said|says?|saying|hears?|heard", "result, reply, report, log, receive"
    ),
    Word("foretells?|foretold|foretelling", "forecast"),
    Word("taught|teach(?:es)?|learnt", "derived, measured"),
    Word("words|asked(?= =|[.:,)])", "argv, text, choice, options, request", PYTHON),
    # one word for one thing; "judged" is a metric that has an outcome
    Word("verdicts?", "outcome, decision"),
    Word("judg(?:e|es|ing|ement|ements)", "compare, decide, decision"),
    Word("remed(?:y|ies)", "hint"),
    Word("ledgers?", "noise model"),
    Word("barnacles?", "no-effect trick"),
    Word("neighbours?", "concurrent runs", ("harness/runner/*", "harness/results/*")),
    Word("handles", "settable fields", ("harness/study/*", "harness/results/*")),
    Word("fairness|refuse foreign|refuse unlike", "comparability"),
    Word("allowance|halt", "budget limits, StopStudy"),
    Word("drafts?", "ArmSpec", ("harness/study/arms.py", "harness/study/resolve.py")),
    Word("risen", "excess variance"),
    Word("relay|resident", "sequential A/B, interleaved A/B"),
    Word("banking|banked", "baseline promotion"),
    Word("placeless|masked words", "paths stripped, redaction"),
    Word("nights?|calm", "sessions, winsorized", ("harness/comparison/*", "harness/stats/*")),
    Word("tether", "stdin bridge"),
    Word("crew", "worker pool", SEARCH),
    Word(
        "second looks?|claims?|survives?|slots?",
        "confirmation, candidate, confirmed, GPU",
        SEARCH,
    ),
    Word("floors?|bends?|bent|scatter", "irreducible loss, curvature, residual SD", FULL),
    Word("bands?", "loss envelope", FULL),
    Word("evidence|closing|standing", "artifact bundle, finalize, run status", FULL),
    Word("house", "repository layout"),
    # options and keys of older versions
    Word("--versus", "--candidate-set"),
    Word("--once", "--no-confirm"),
    Word("--open", "--always-valid"),
    Word("--turns", "--ab interleaved|sequential"),
    Word("--environments", "--env isolated|current"),
    Word("--worse", "--allow-regression"),
    Word("--patience", "--wait-for-base"),
    Word("--retry", "--rerun"),
    Word("--split-blocks", "--allow-partial-blocks"),
    Word("--evidence", "--artifacts"),
    Word("decide[.]many", "decide.correction"),
    # sentences
    Word("the same command (?:goes|makes|settles)", "re-run the same command to resume"),
    Word("(?:goes|go|gone) on (?:from|where|with)", "continues, resumes"),
    Word("shown only", "informational"),
    Word("in the flow", "leave the sentence out"),
    Word("comes? to|came to", "is, results in"),
    Word("the ones? that", "name the thing"),
    Word("held (?:to|against|equal)", "compared with, equals"),
    Word("of which (?:more|less|fewer)", "where higher is better"),
    Word("want of", "lack of, missing"),
)


@dataclass(frozen=True)
class Exemption:
    """A use that is right, by path, line and word, with the reason."""

    path: str
    line: str
    reason: str


EXEMPTIONS = (
    Exemption("docs/tools/words.py", "", "the list itself"),
    Exemption("model/runtime/environment.py", "resident set size", "the operating system's term"),
    Exemption("harness/search/*", r"study\.ask|\.tell\(|\bask\(", "Optuna's own ask and tell"),
    Exemption("tests/harness/search/*", r"\.ask\(|\.tell\(", "Optuna's own ask and tell"),
    Exemption("benchmarks/statistics/search.py", r"\.ask\(|\.tell\(", "Optuna's own ask and tell"),
    Exemption("*", r"reduce.?scatter|ReduceScatter|_scatter", "the collective operation"),
    Exemption("*", r"math\.floor|np\.floor|\.floor\(", "the function"),
    Exemption("*", r"nearest.neighbou?r", "the method"),
    Exemption("*", r"\b(?:in|at) words\b", "English"),
    Exemption("benchmarks/statistics/gate_rates.py", r'"ledger"', "seeds"),
    Exemption(
        "*", r"--claims|\bclaim: |claims?=|\.claim\b", "the option that states what a change is"
    ),
)


@dataclass(frozen=True)
class Use:
    """One line with one word."""

    path: str
    number: int
    found: str
    word: Word
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.number}: {self.found!r}: use {self.word.use}: {self.text}"


def uses(paths: list[Path]) -> Iterator[Use]:
    """Every use that is no exception, in the order of the files."""
    compiled = [(word, word.compiled) for word in WORDS]
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        words = [pair for pair in compiled if any(fnmatch(name, only) for only in pair[0].only)]
        any_word = re.compile("|".join(pattern.pattern for _, pattern in words))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=\w)_(?=\w)", " ", line).lower()
            for word, pattern in words if any_word.search(plain) else ():
                match = pattern.search(plain)
                if match and not _exempt(name, line):
                    yield Use(name, number, match[0], word, line.strip())


def _exempt(name: str, line: str) -> bool:
    return any(fnmatch(name, e.path) and re.search(e.line, line) for e in EXEMPTIONS)


def tracked() -> list[Path]:
    """The files of PLACES that git knows."""
    command = ["git", "ls-files", "--", *PLACES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in done.stdout.splitlines()]
    return [path for path in paths if path.suffix in SUFFIXES and path.exists()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders; all by default")
    parser.add_argument("--count", action="store_true", help="print totals by word")
    options = parser.parse_args()
    chosen = [path.resolve() for path in options.paths]
    paths = [
        path
        for path in tracked()
        if not chosen or any(path.is_relative_to(each) for each in chosen)
    ]
    found = list(uses(paths))
    if options.count:
        for (word, use), number in Counter(
            (one.found, one.word.use) for one in found
        ).most_common():
            print(f"{number:5} {word}: use {use}")
    else:
        for one in found:
            print(one)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
