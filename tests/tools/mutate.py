"""Counts the faults in the core that the tests find: one small change of its code at a time.

    python tests/tools/mutate.py [--sample 300] [--seed 1] [--jobs 1] [--match TEXT]

Takes a sample of all one-line changes (mutants.py) of the modules that decide and that keep
results, the same sample for one seed. Each is written into a copy of the repository, and the tests
that run the changed line are run there, fastest first, to the first failure. A test that takes far
longer than before has failed. Survivors that no test should find stand in mutants.toml, each with
its reason. Exit code 1 where fewer than 90 % of the others are found.

Tests run in forks of this process, which has imported the libraries and nothing of the repository.
Which tests run which line is recorded once and kept in build/mutate until the code changes.
"""

import argparse
import contextlib
import gc
import hashlib
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import mutants
import pytest
from mutants import Mutant

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutate"
KNOWN = Path(__file__).with_name("mutants.toml")
MODULES = (
    *("harness/stats/*.py", "harness/results/record.py", "harness/results/store.py"),
    *(f"harness/comparison/{name}.py" for name in ("compare", "engine", "rules")),
    *(f"harness/gate/{name}.py" for name in ("baseline", "history", "metrics")),
    *(f"harness/gate/{name}.py" for name in ("planning", "promotion", "result")),
)
TESTS = "tests/harness"
LEFT_OUT = ("cli/github", "cli/slurm", "full", "search")  # slow, and of what is built on the core
LIBRARIES = (
    *("hypothesis", "jinja2", "msgspec", "numpy", "pandas", "pyarrow.parquet", "rich"),
    *("ruamel.yaml", "scipy.special", "scipy.stats", "typer.testing"),
)
TESTS_S = 30.0  # for one mutant: the fastest tests that together took less
GOAL = 0.9
Tests = dict[str, tuple[float, list[str]]]  # seconds and lines, as path:line, by test


# --- tests in a forked process --------------------------------------------------------------------


def in_fork(tree: Path, work: Callable[[], Any]) -> Any:
    """What `work` returns in a fork whose working directory is a copy; None if it was killed."""
    answer = tree.with_suffix(".json")
    answer.unlink(missing_ok=True)
    if (pid := os.fork()) == 0:
        try:
            log = os.open(tree.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(tree)
            sys.path[:] = [str(tree), *(path for path in sys.path if path != str(ROOT))]
            os.environ |= {"PYTHONPATH": str(tree), "TMPDIR": str(tree.with_suffix(".tmp"))}
            answer.write_text(json.dumps(work()))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(pid, 0)
    for entry in Path("/proc").glob("[0-9]*"):  # programs that a killed test left
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink().is_relative_to(tree):
                os.kill(int(entry.name), signal.SIGKILL)
    return json.loads(answer.read_text()) if answer.exists() else None


def run_tests(file: str, plugin: object, *options: str) -> int:
    """The exit code of pytest for a test file of the working directory."""
    os.makedirs(os.environ["TMPDIR"], exist_ok=True)
    without = [f"-pno:{name}" for name in ("cacheprovider", "xdist", "faulthandler")]
    imported = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # LIBRARIES
    return int(pytest.main(["-q", *without, *imported, *options, file], plugins=[plugin]))


class Recorder:
    """A plugin: the seconds and the lines of each test, with those of fixtures that it shares."""

    def __init__(self, tree: Path, paths: Iterable[str]) -> None:
        self.paths = {str(tree / path): path for path in paths}
        self.tests: dict[str, tuple[float, set[str]]] = {}
        self.fixtures: dict[object, tuple[float, set[str]]] = {}
        self.lines, self.dropped = set[str](), set[str]()

    def trace(self, frame: Any, event: str, argument: object) -> Any:
        if (path := self.paths.get(frame.f_code.co_filename)) is None:
            return None
        if event == "line":
            self.lines.add(f"{path}:{frame.f_lineno}")
        return self.trace

    @contextlib.contextmanager
    def recorded(self, name: Any, kept: dict[Any, tuple[float, set[str]]]) -> Iterator[None]:
        outer, self.lines, start = self.lines, set(), time.monotonic()
        yield
        kept[name] = time.monotonic() - start, self.lines
        self.lines = outer | self.lines

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        if fixturedef.scope == "function":
            return (yield)
        with self.recorded(fixturedef, self.fixtures):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        threading.settrace(self.trace)
        sys.settrace(self.trace)
        with self.recorded(item.nodeid, self.tests):
            result = yield
        sys.settrace(None)
        of_item = [one for found in item._fixtureinfo.name2fixturedefs.values() for one in found]
        shared = [self.fixtures[one] for one in of_item if one in self.fixtures]
        seconds, lines = self.tests[item.nodeid]
        seconds += sum(more for more, _ in shared)
        self.tests[item.nodeid] = seconds, lines.union(*(more for _, more in shared))
        return result

    def pytest_runtest_logreport(self, report: Any) -> None:
        if not report.passed:
            self.dropped.add(report.nodeid)


class Chosen:
    """A plugin: only these tests, fastest first, each with a limit on its time."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.failed = seconds, ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        kept = [item for item in items if item.nodeid in self.seconds]
        items[:] = sorted(kept, key=lambda item: self.seconds[item.nodeid])

    def pytest_runtest_setup(self, item: Any) -> None:
        signal.alarm(round(60 + 10 * self.seconds[item.nodeid]))

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")


def tests_of(tree: Path, file: str, paths: list[str], sources: str) -> Tests:
    """The tests of one file that pass; from build/mutate where nothing of them changed."""
    kept = WORK / "lines" / f"{file.replace('/', '.')}.json"
    key = hashlib.sha256((sources + (ROOT / file).read_text()).encode()).hexdigest()
    if kept.exists() and (value := json.loads(kept.read_text()))["key"] == key:
        return value["tests"]

    def work() -> Tests:
        plugin = Recorder(tree, paths)
        run_tests(file, plugin)
        return {
            test: (seconds, sorted(lines))
            for test, (seconds, lines) in plugin.tests.items()
            if test not in plugin.dropped
        }

    tests = in_fork(tree, work)
    assert tests is not None, f"{file} ended early: {tree}.log"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"key": key, "tests": tests}))
    return tests


def result_of(tree: Path, mutant: Mutant, seconds: dict[str, float]) -> str:
    """The test that finds a mutant, or "" where none does. `seconds`: of the tests to run."""
    path = tree / mutant.path
    source, stat = path.read_bytes(), path.stat()
    path.write_bytes(source[: mutant.start] + mutant.text.encode() + source[mutant.end :])

    own = f"test_{path.name}::"
    files = [test.partition("::")[0] for test in sorted(seconds, key=lambda test: own not in test)]

    def work() -> str:
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
        for file in dict.fromkeys(files):
            signal.alarm(300)
            plugin = Chosen(seconds)
            if code := run_tests(file, plugin, "-x"):
                return plugin.failed or f"exit code {code} of pytest for {file}"
        return ""

    try:
        found = in_fork(tree, work) if seconds else ""
    finally:
        path.write_bytes(source)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # its bytecode is valid again
    return "the time limit" if found is None else found


# --- the command ----------------------------------------------------------------------------------


class LineTests:
    """The tests of each line of the modules."""

    def __init__(self, recorded: Iterable[Tests]) -> None:
        self.seconds: dict[str, float] = {}
        self.tests: dict[str, set[str]] = defaultdict(set)  # by path:line, and by path
        for tests in recorded:
            for test, (seconds, lines) in tests.items():
                self.seconds[test] = seconds
                for line in lines:
                    self.tests[line].add(test)
                    self.tests[line.partition(":")[0]].add(test)

    def of(self, mutant: Mutant) -> dict[str, float]:
        """The tests of a mutant and their seconds, fastest first."""
        lines = [f":{line}" for line in mutant.lines or ()] or [""]
        tests = set[str]().union(*(self.tests[mutant.path + line] for line in lines))
        chosen: dict[str, float] = {}
        for test in sorted(tests, key=lambda test: (self.seconds[test], test)):
            if chosen and sum(chosen.values()) + self.seconds[test] > TESTS_S:
                break
            chosen[test] = self.seconds[test]
        return chosen


tree_of_worker: Path


def take_tree(trees: Any) -> None:
    global tree_of_worker
    tree_of_worker = trees.get()


def with_tree(task: tuple[Callable[..., Any], tuple[Any, ...]]) -> Any:
    work, arguments = task
    return work(tree_of_worker, *arguments)


def copied(number: int) -> Path:
    """A copy of the files that git has or would add."""
    tree = WORK / f"copy{number}"
    shutil.rmtree(tree, ignore_errors=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(listed, cwd=ROOT, text=True).split("\0")[:-1]
    for name in (name for name in names if os.path.lexists(ROOT / name)):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    return tree


def all_mutants() -> dict[str, list[Mutant]]:
    """The mutants of each module."""
    paths = sorted(str(path.relative_to(ROOT)) for name in MODULES for path in ROOT.glob(name))
    return {path: mutants.of_module(ROOT, path) for path in paths}


def known_survivors() -> set[str]:
    """The names of those that no test should find."""
    groups = tomllib.loads(KNOWN.read_text())["known"]
    return {name for group in groups for name in group["mutants"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--match", help="all mutants whose name has this text, not a sample")
    options = parser.parse_args()
    by_module, known = all_mutants(), known_survivors()
    every = {one.name: one for found in by_module.values() for one in found}
    if gone := known - set(every):
        sys.exit(f"{KNOWN.name} lists mutants that do not exist: {', '.join(sorted(gone))}")
    sample = mutants.sampled(by_module, options.sample, options.seed)
    if options.match is not None:
        sample = [one for name, one in every.items() if options.match in name]
    tried = [one for one in sample if one.name not in known]

    for library in LIBRARIES:
        importlib.import_module(library)
    gc.freeze()
    context = multiprocessing.get_context("fork")
    trees = context.SimpleQueue()
    for number in range(options.jobs):
        trees.put(copied(number))
    with context.Pool(options.jobs, take_tree, (trees,)) as pool:
        files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / TESTS).rglob("test_*.py"))]
        files = [file for file in files if not any(f"{TESTS}/{one}/" in file for one in LEFT_OUT)]
        code = ("harness/**/*.py", "tests/**/conftest.py", "tests/fixtures/*.py")
        sources = "".join(path.read_text() for name in code for path in sorted(ROOT.glob(name)))
        tasks = [(tests_of, (file, list(by_module), sources)) for file in files]
        test_map = LineTests(pool.imap(with_tree, tasks, chunksize=1))
        tasks = [(result_of, (one, test_map.of(one))) for one in tried]
        found = Counter[str]()
        for one, test in zip(tried, pool.imap(with_tree, tasks, chunksize=1), strict=True):
            found[one.path] += bool(test)
            print(f"{'found   ' if test else 'SURVIVES'} {one.name}  {test}", flush=True)
    for path, number in Counter(one.path for one in tried).items():
        print(f"{path:36} {found[path]:4} of {number:4}")
    share = found.total() / max(1, len(tried))
    left = f"{len(sample) - len(tried)} more of the sample are known survivors"
    print(f"{found.total()} of {len(tried)} mutants found ({share:.1%}); {left}")
    return 0 if share >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
