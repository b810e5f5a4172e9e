"""Commands that only read a store work where nothing can be written, and write nothing."""

import pytest

from harness import errors, files
from harness.errors import DiskError

OUTCOMES = (errors.PASS, errors.INCONCLUSIVE, errors.REGRESSION)
COMMANDS = {
    "report": "report synthetic",
    "report as JSON": "report synthetic --json",
    "compare": "compare STORE:synthetic/base -- STORE:synthetic/no_muon",
    "noise": "noise",
    "drift": "drift",
    "jobs": "submit --jobs",
    "pack": "pack TAR",
    "gate plan": "gate BASE --trainer fake --candidate-set windows=SSSL --plan",
    "search report": "search SEARCH --report",
    "full dry run": "full ablations/full/fake.yaml --dry-run --without-forecast",
}


def make_read_only(root, monkeypatch):
    """Every write and every lock below a folder fails, as on a read-only file system."""
    write = files.write_bytes

    def refuse(path, *data, **_):
        if not path.is_relative_to(root):
            return write(path, *data)
        raise DiskError(str(path), "a writable location", "Read-only file system", "x.")

    monkeypatch.setattr("harness.files.write_bytes", refuse)
    for module in ("files", "full.job", "study.executor"):
        monkeypatch.setattr(f"harness.{module}.lock_file", refuse)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reading_command_needs_no_writable_store(
    name, harness, synthetic, search_file, tmp_path, monkeypatch
):
    stored = synthetic().save(tmp_path / "runs")
    places = {"STORE": stored.root, "TAR": tmp_path / "x.tar", "SEARCH": search_file()}
    argv = COMMANDS[name].replace("BASE", str(tmp_path / "base.yaml"))
    for place, path in places.items():
        argv = argv.replace(place, str(path))
    before = tree(stored.root)
    make_read_only(stored.root, monkeypatch)
    done = harness(*argv.split())
    assert done.returncode in OUTCOMES, done.stderr
    assert done.stdout.strip()
    assert tree(stored.root) == before


def tree(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}
